"""Payloads of SOLID blocks (FORMAT.md, "Archives"): the pixels of many images in one LZMA stream.

payload    size of the body (varint), the body as one raw LZMA2 stream
body       kinds of images, runs of images of one kind and size, then the pixels, arranged as their kind says"""

from __future__ import annotations

import io
import lzma
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ...bitstream.archive_index import MOST_IMAGES, SOLID
from ...bitstream.container import MODES
from ...bitstream.errors import Corrupt, TooLarge, UnsupportedImage
from ...bitstream.numbers import leb128, read_leb128
from .. import plain
from ..png import GREY, RGB, RGBA, Layout, PlainImage, pack, unfilter, unpack

Bytes = NDArray[np.uint8]

MAX_IMAGES = MOST_IMAGES[SOLID]
"""Images of a block."""
MAX_BODY = 1 << 27
"""Bytes of a body: what it takes to read an image of the block."""
MAX_PIXEL_BYTES = 1 << 26
"""Bytes of packed rows that an encoder puts into a block."""
ROWS, PLANES, COLUMNS = 0, 1, 2
"""Orders of an image's bytes: row by row; first bytes of all pixels, then second ones, and so on; column by column."""

_DICTIONARY = 1 << 26
_MAX_RATIO = 8192  # LZMA's own limit is about 7,000
_RATIO_FROM = 1 << 16  # bytes of a body below which no ratio is asked for
_CODES = {mode: code for code, mode in MODES.items()}
_FILTERS = 5
_RUN_BYTES = 32  # of a kind and a run, besides the palette
_DIFFERENCES = 8  # bits of the byte of an arrangement
_ORDER = 16
_AT_ONCE = 1 << 20  # samples that are arranged together, to bound memory


@dataclass(frozen=True)
class Arrangement:
    """How an image's packed rows become bytes for LZMA.

    filter: PNG's, 0..4, of every row.  differences: R - G and B - G in place of R and B (RGB and RGBA of 8 bits),
    taken before the filter.  order: of the filtered bytes, ROWS, PLANES or COLUMNS."""

    filter: int = 0
    differences: bool = False
    order: int = ROWS

    def to_byte(self) -> int:
        """The byte that stands for it in a body."""
        return self.filter + _DIFFERENCES * self.differences + _ORDER * self.order

    @classmethod
    def from_byte(cls, byte: int) -> Arrangement:
        """Inverse of `to_byte`. Raises Corrupt."""
        filter_, order = byte % _DIFFERENCES, byte // _ORDER
        if filter_ >= _FILTERS or order > COLUMNS:
            raise Corrupt(f"solid block: arrangement {byte} has no meaning")
        return cls(filter_, bool(byte & _DIFFERENCES), order)


@dataclass(frozen=True)
class Look:
    """What images of a run share besides their size, in PNG's terms; see `PlainImage`."""

    depth: int
    colour: int
    palette: bytes = b""
    transparency: bytes = b""

    @classmethod
    def of(cls, image: PlainImage) -> Look:
        """The look of an image."""
        return cls(image.depth, image.colour, image.palette, image.transparency)

    def image(self, samples: Bytes) -> PlainImage:
        """An image of these samples [H, W, B]."""
        return PlainImage(samples, self.depth, self.colour, self.palette, self.transparency)


@dataclass(frozen=True)
class Run:
    """Images of one look and size. numbers: in the archive; rows: uint8 [N, H, R], packed at their own depth."""

    numbers: tuple[int, ...]
    rows: Bytes
    width: int
    look: Look

    @classmethod
    def of(cls, numbers: Sequence[int], images: Sequence[PlainImage]) -> Run:
        """Raises ValueError for images of several sizes."""
        rows = np.stack([packed(image.pixels, image.depth) for image in images])
        return cls(tuple(numbers), rows, images[0].width, Look.of(images[0]))

    @property
    def height(self) -> int:
        """Rows of an image."""
        return int(self.rows.shape[1])

    @property
    def nbytes(self) -> int:
        """Of the rows."""
        return self.rows.nbytes

    @property
    def body_bytes(self) -> int:
        """At most what it takes in a body, unless it is coded with more bits than its own."""
        return self.nbytes + len(self.look.palette) + len(self.look.transparency) + _RUN_BYTES

    def __getitem__(self, part: slice) -> Run:
        return Run(self.numbers[part], self.rows[part], self.width, self.look)

    def follows(self, other: Run) -> bool:
        """Whether both may be one run."""
        return (self.look, self.width, self.rows.shape[1:]) == (other.look, other.width, other.rows.shape[1:])


@dataclass(frozen=True)
class Coded:
    """Runs, and how all of them are coded. depth: bits per sample, which each of their looks allows."""

    runs: Sequence[Run]
    depth: int
    arrangement: Arrangement


def packed(samples: Bytes, depth: int) -> Bytes:
    """Samples [H, W, B] as rows of bytes [H, R]; what is left of a row's last byte repeats its last sample."""
    if depth >= 8:
        return pack(samples, depth)
    return pack(np.pad(samples, ((0, 0), (0, -samples.shape[1] % (8 // depth)), (0, 0)), mode="edge"), depth)


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same images in the same order in the fewest runs."""
    found: list[list[Run]] = []
    for run in runs:
        if found and run.follows(found[-1][0]):
            found[-1].append(run)
        else:
            found.append([run])
    return [part[0] if len(part) == 1 else _joined(part) for part in found]


def _joined(runs: Sequence[Run]) -> Run:
    numbers = tuple(number for run in runs for number in run.numbers)
    return Run(numbers, np.concatenate([run.rows for run in runs]), runs[0].width, runs[0].look)


def fits(run: Run, depth: int) -> bool:
    """Whether the images can be coded with so many bits per sample."""
    return all(part is not None for part in _recoded(run, depth))


def _recoded(run: Run, depth: int) -> Iterator[Bytes | None]:
    """Packed rows [N, H, R] at another depth, some images at a time; None for samples that do not fit."""
    look, (count, height, row_bytes) = run.look, run.rows.shape
    step = max(1, _AT_ONCE // (height * max(run.width, row_bytes)))
    for start in range(0, count, step):
        rows = run.rows[start : start + step]
        if depth != look.depth:
            layout = Layout(run.width, len(rows) * height, look.depth, look.colour)
            samples = plain.with_depth(unpack(rows.reshape(-1, row_bytes), layout), look.colour, look.depth, depth)
            if samples is None:
                yield None
                continue
            rows = packed(samples, depth).reshape(len(rows), height, -1)
        yield rows


def body_of(parts: Sequence[Coded]) -> bytes:
    """A body. Raises ValueError for samples that do not fit their depth."""
    kinds: dict[bytes, int] = {}
    columns: list[list[int]] = [[], [], [], []]  # kinds, lengths, widths and heights of the runs, less 1
    for part in parts:
        for run in part.runs:
            kind = kinds.setdefault(_kind_bytes(run.look, part.depth, part.arrangement), len(kinds))
            for column, value in zip(columns, (kind, len(run.rows) - 1, run.width - 1, run.height - 1), strict=True):
                column.append(value)
    table = [
        leb128(len(kinds)),
        *kinds,
        leb128(len(columns[0])),
        *(leb128(value) for each in columns for value in each),
    ]
    return b"".join(table) + pixel_bytes(parts)


def pixel_bytes(parts: Sequence[Coded]) -> bytes:
    """The pixels of a body. Raises ValueError for samples that do not fit their depth."""
    return b"".join(_arranged(run, part) for part in parts for run in part.runs)


def payload_of(body: bytes, settings: tuple[int, int, int], preset: int = 9 | lzma.PRESET_EXTREME) -> bytes:
    """The payload of a body. settings: LZMA's lc, lp and pb."""
    lc, lp, pb = settings
    filters = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": _dictionary(len(body))}
    return leb128(len(body)) + lzma.compress(body, lzma.FORMAT_RAW, filters=[{**filters, "lc": lc, "lp": lp, "pb": pb}])


def _dictionary(size: int) -> int:
    return min(max(size, 4096), _DICTIONARY)  # a larger one than the body only costs memory


def _kind_bytes(look: Look, depth: int, arrangement: Arrangement) -> bytes:
    extra = plain.extra_of(look.image(np.zeros((1, 1, 1), np.uint8)), depth)
    mode = plain.MODE_OF[look.colour, look.depth]
    return bytes([_CODES[mode], arrangement.to_byte()]) + leb128(len(extra)) + extra


def _arranged(run: Run, part: Coded) -> bytes:
    layout = Layout(run.width, run.height, part.depth, run.look.colour)
    found = []
    for rows in _recoded(run, part.depth):
        if rows is None:
            raise ValueError(f"samples do not fit {part.depth} bits")
        found.append(_in_order(_filtered(rows, layout, part.arrangement), layout, part.arrangement.order).tobytes())
    return b"".join(found)


def _has_differences(layout: Layout) -> bool:
    return layout.colour in (RGB, RGBA) and layout.depth == 8


def _filtered(rows: Bytes, layout: Layout, arrangement: Arrangement) -> Bytes:
    """Rows [N, H, R] after colour differences and PNG's filter (PNG section 9)."""
    if arrangement.differences:
        pixels = rows.reshape(*rows.shape[:2], layout.width, -1).copy()
        pixels[..., 0] -= pixels[..., 1]
        pixels[..., 2] -= pixels[..., 1]
        rows = pixels.reshape(rows.shape)
    if not arrangement.filter:
        return rows
    step = layout.pixel_bytes
    wide = np.pad(rows, ((0, 0), (1, 0), (step, 0)))
    a, b, c = wide[:, 1:, :-step], wide[:, :-1, step:], wide[:, :-1, :-step]
    return rows - _estimate(arrangement.filter, a, b, c)


def _estimate(filter_: int, a: Bytes, b: Bytes, c: Bytes) -> Bytes:
    """PNG's estimate from the bytes left of, above, and above left of each byte."""
    if filter_ == 1:
        return a
    if filter_ == 2:
        return b
    left, up, corner = (each.astype(np.int16) for each in (a, b, c))
    if filter_ == 3:
        return ((left + up) // 2).astype(np.uint8)
    off_left, off_up, off_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    paeth: Bytes = np.where((off_left <= off_up) & (off_left <= off_corner), a, np.where(off_up <= off_corner, b, c))
    return paeth


def _in_order(rows: Bytes, layout: Layout, order: int) -> Bytes:
    """The bytes of images [N, H, R] in an order."""
    if order == PLANES:
        return np.moveaxis(rows.reshape(*rows.shape[:2], -1, layout.pixel_bytes), 3, 1)
    return rows.swapaxes(1, 2) if order == COLUMNS else rows


@dataclass(frozen=True)
class _Kind:
    """An entry of a body's first table."""

    look: Look
    depth: int
    arrangement: Arrangement

    def layout(self, width: int, height: int) -> Layout:
        return Layout(width, height, self.depth, self.look.colour)


class SolidImages:
    """The images of a payload, which are made as they are asked for. nbytes: memory that they take."""

    def __init__(self, payload: bytes, count: int, max_body: int = MAX_BODY) -> None:
        """count: of the images; max_body: bytes of the body. Raises Corrupt, Truncated or TooLarge."""
        if not 1 <= count <= MAX_IMAGES:
            raise Corrupt(f"solid block: expected 1 to {MAX_IMAGES} images, found {count}")
        self._body = _expanded(payload, max_body)
        self.nbytes = len(self._body)
        begin = self._read_tables(count)
        sizes = [
            length * self._kinds[kind].layout(width, height).row_bytes * height
            for kind, length, width, height in self._runs
        ]
        self._offsets = list(accumulate(sizes, initial=begin))
        if self._offsets[-1] != len(self._body):
            raise Corrupt(f"solid block: expected a body of {self._offsets[-1]} bytes, found {len(self._body)}")
        self._begins = list(accumulate((length for _, length, _, _ in self._runs), initial=0))

    def __len__(self) -> int:
        return self._begins[-1]

    def size(self, position: int) -> tuple[int, int]:
        """Width and height of an image."""
        _, _, width, height = self._runs[self._run(position)]
        return width, height

    def sample_bytes(self, position: int) -> int:
        """Bytes of an image's samples in memory."""
        number, _, width, height = self._runs[self._run(position)]
        look = self._kinds[number].look
        return width * height * Layout(width, height, look.depth, look.colour).sample_bytes

    def __getitem__(self, position: int) -> PlainImage:
        """An image. Raises Corrupt for samples beyond its depth."""
        run = self._run(position)
        number, _, width, height = self._runs[run]
        kind = self._kinds[number]
        layout = kind.layout(width, height)
        size = layout.row_bytes * height
        begin = self._offsets[run] + (position - self._begins[run]) * size
        rows = np.frombuffer(self._body, np.uint8, size, begin)
        samples = plain.with_depth(
            _restored(rows, layout, kind.arrangement), kind.look.colour, kind.depth, kind.look.depth
        )
        if samples is None:
            raise Corrupt(f"solid block: samples of {kind.depth} bits do not fit the image's {kind.look.depth}")
        return kind.look.image(samples)

    def _run(self, position: int) -> int:
        return bisect_right(self._begins, range(len(self))[position]) - 1

    def _read_tables(self, count: int) -> int:
        """Reads kinds and runs of so many images; the offset of the pixels."""
        at = 0

        def number(most: int) -> int:
            nonlocal at
            value, at = read_leb128(self._body, at, "solid block")
            if value > most:
                raise Corrupt(f"solid block: number before offset {at}: expected at most {most}, found {value}")
            return value

        self._kinds: list[_Kind] = []
        for _ in range(number(count)):
            start, at = at, at + 2
            size = number(len(self._body) - at)
            self._kinds.append(_read_kind(self._body[start : start + 2], self._body[at : at + size]))
            at += size
        runs = number(count)
        kinds = [number(len(self._kinds) - 1) for _ in range(runs)]
        lengths = [number(count - 1) + 1 for _ in range(runs)]
        if sum(lengths) != count:
            raise Corrupt(f"solid block: expected {count} images, found {sum(lengths)}")
        widths, heights = ([number((1 << 32) - 2) + 1 for _ in range(runs)] for _ in range(2))
        self._runs = list(zip(kinds, lengths, widths, heights, strict=True))
        return at


def _read_kind(start: bytes, extra: bytes) -> _Kind:
    """Raises Corrupt."""
    if len(start) < 2 or MODES.get(start[0]) not in plain.KIND_OF:
        raise Corrupt(f"solid block: kind of images that begins {start.hex()}")
    colour, depth, coded_depth, palette, transparency = plain.parse_extra(extra, MODES[start[0]])
    arrangement = Arrangement.from_byte(start[1])
    if arrangement.differences and not _has_differences(Layout(1, 1, coded_depth, colour)):
        raise Corrupt(f"solid block: colour differences in mode {MODES[start[0]]}")
    return _Kind(Look(depth, colour, palette, transparency), coded_depth, arrangement)


def _expanded(payload: bytes, max_body: int) -> bytes:
    """The body. Raises Corrupt, Truncated, and TooLarge before anything too large is made."""
    size, at = read_leb128(payload, 0, "solid block")
    most = min(max_body, _RATIO_FROM + _MAX_RATIO * (len(payload) - at))
    if size > most:
        raise TooLarge(f"solid block: expected at most {most} bytes once expanded, found {size}")
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(size)}]
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    try:
        body = unpacker.decompress(payload[at:], size + 1)
    except lzma.LZMAError as error:
        raise Corrupt(f"solid block: LZMA stream: {error}") from error
    if len(body) != size or not unpacker.eof or unpacker.unused_data:
        raise Corrupt(f"solid block: the LZMA stream does not end after exactly {size} bytes")
    return body


def _restored(data: Bytes, layout: Layout, arrangement: Arrangement) -> Bytes:
    """Samples [H, W, B] at the coded depth."""
    if arrangement.order == PLANES:
        rows = data.reshape(layout.pixel_bytes, layout.height, -1).transpose(1, 2, 0).reshape(layout.height, -1)
    elif arrangement.order == COLUMNS:
        rows = data.reshape(layout.row_bytes, layout.height).T
    else:
        rows = data.reshape(layout.height, layout.row_bytes)
    if arrangement.filter:
        samples = unfilter(np.pad(rows, ((0, 0), (1, 0)), constant_values=arrangement.filter).tobytes(), layout)
    else:
        samples = unpack(np.ascontiguousarray(rows), layout)
    if arrangement.differences:
        samples = samples.copy()
        samples[..., 0] += samples[..., 1]
        samples[..., 2] += samples[..., 1]
    return samples


def picture_of(image: PlainImage) -> Image.Image:
    """The image as Pillow holds it. Raises UnsupportedImage for 16-bit colour."""
    if image.depth == 16 and image.colour != GREY:
        raise UnsupportedImage("Pillow cannot hold 16-bit colour; unpacking keeps every bit")
    samples = np.ascontiguousarray(image.pixels)
    if image.depth == 8 and not image.palette and not image.transparency:
        return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    if (image.depth, image.colour, image.transparency) == (1, GREY, b""):
        return Image.fromarray(samples[..., 0] > 0)
    picture = PngImageFile(io.BytesIO(image.to_png()))
    picture.load()
    return picture
