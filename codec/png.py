"""PNG taken apart and put together: the still image that every PNG holds, to the last bit of its samples.

Pillow cannot hold 16-bit colour or 2- and 4-bit grey, so the chunks are read here. What survives: size, bit depth,
colour type, palette (PLTE), transparency (tRNS) and every sample, also the colour of transparent pixels. What does not:
interlacing, and chunks that only describe (colour profile, text, EXIF, time, resolution, suggested palettes).

Source: Portable Network Graphics (PNG) Specification (Second Edition), W3C Recommendation 10 November 2003.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from ..bitstream.errors import Corrupt, TooLarge, UnsupportedImage

Bytes2d = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS, MAX_BYTES = 2**28, 2**30
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
TRANSPARENCY_BYTES = {GREY: 2, RGB: 6}
_PIECE = 1 << 20  # bytes worked on at a time; a row is never split where it is read
_READ = 1 << 16  # compressed bytes handed on at a time
_NARROW = 16  # bytes of rows so short that filters of their own are not worth the time
_WIDE = 1 << 18  # and of rows so long that choosing filters takes too much memory
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x y dx dy


@dataclass(frozen=True, eq=False)
class PlainImage:
    """A still image with PNG's meaning of its parts."""

    pixels: NDArray[np.uint8]  # [H, W, B]; B = channels, one sample a byte at depth <= 8, else big-endian pairs
    depth: int  # bits per sample: 1, 2, 4, 8, 16
    colour: int  # PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
    palette: bytes = b""  # RGB triples; for colour type 3 only
    transparency: bytes = b""  # content of tRNS
    stream: bytes = b""  # raw deflate of the filtered rows at `depth`, where one is at hand

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @classmethod
    def from_png(cls, data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> "PlainImage":
        """Read a PNG file. Raises UnsupportedImage if it is damaged or animated, TooLarge beyond the limits."""
        return read_png(data, max_pixels, max_bytes)

    def to_png(self) -> bytes:
        """A PNG file of this image, not interlaced."""
        return write_png(self)

    def same_image(self, other: "PlainImage") -> bool:
        """Whether everything a PNG can say about the two is equal; how they were compressed does not count."""
        parts = [(image.depth, image.colour, image.palette, image.transparency) for image in (self, other)]
        return parts[0] == parts[1] and np.array_equal(self.pixels, other.pixels)


@dataclass(frozen=True)
class Layout:
    """How the rows of an image are laid out in bytes."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def pixel_bytes(self) -> int:
        """Distance to the byte that filters call "left": whole bytes of a pixel, at least 1."""
        return max(1, CHANNELS[self.colour] * self.depth // 8)

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed row, without the filter byte before it."""
        return (self.width * CHANNELS[self.colour] * self.depth + 7) // 8

    @property
    def size(self) -> int:
        """Bytes of all rows with their filter bytes; 0 if there are no pixels."""
        return self.height * (1 + self.row_bytes) if self.width else 0

    @property
    def sample_bytes(self) -> int:
        """Bytes of a pixel's samples in memory: one each of up to 8 bits, two above."""
        return CHANNELS[self.colour] * (1 + self.depth // 16)

    def adam7(self) -> list["Layout"]:
        """The seven passes of an interlaced image; some may be empty."""
        return [
            Layout(-(-(self.width - x) // dx), -(-(self.height - y) // dy), self.depth, self.colour)
            for x, y, dx, dy in ADAM7
        ]


def read_png(data: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> PlainImage:
    """Parse a PNG file. Raises UnsupportedImage if it is damaged or animated, TooLarge beyond the limits."""
    header, idat, palette, transparency = _parts(data)
    layout, interlaced = _layout(header, max_pixels, max_bytes)
    passes = layout.adam7() if interlaced else [layout]
    rows, stream = _inflate_idat(idat, sum(part.size for part in passes))
    try:
        pixels = _deinterlace(rows, passes, layout) if interlaced else unfilter(rows, layout)
        palette, transparency = checked_colours(layout.colour, palette, transparency)
    except Corrupt as error:
        raise UnsupportedImage(f"damaged PNG: {error}") from error
    return PlainImage(pixels, layout.depth, layout.colour, palette, transparency, b"" if interlaced else stream)


def write_png(image: PlainImage) -> bytes:
    """Inverse of `read_png`; keeps the deflate stream where the image has one."""
    layout = layout_of(image)
    if image.stream:
        return png_of_stream(image.stream, layout, image.palette, image.transparency)
    unfit = not _NARROW <= layout.row_bytes <= _WIDE
    strips = _unfiltered_strips(image.pixels, image.depth) if unfit else _filtered_strips(image)
    packer, checksum, body = zlib.compressobj(6, zlib.DEFLATED, -15, 9), 1, []
    for strip in strips:
        checksum = zlib.adler32(strip, checksum)
        body.append(packer.compress(strip))
    return _png(layout, [*body, packer.flush()], checksum, image.palette, image.transparency)


def png_of_stream(stream: bytes, layout: Layout, palette: bytes, transparency: bytes) -> bytes:
    """A PNG file whose pixels are a raw deflate stream of filtered rows, which is checked but not undone.

    Raises Corrupt for a stream of another length, and for an unknown filter."""
    checksum, place, stride = 1, 0, 1 + layout.row_bytes
    for piece in inflated(stream, layout.size):
        checksum = zlib.adler32(piece, checksum)
        _check_filters(np.frombuffer(piece, np.uint8)[-place % stride :: stride])
        place += len(piece)
    return _png(layout, [stream], checksum, palette, transparency)


def _png(layout: Layout, body: list[bytes], checksum: int, palette: bytes, transparency: bytes) -> bytes:
    """A PNG file of a raw deflate stream, given in pieces. checksum: Adler-32 of the rows."""
    idat = b"".join([b"\x78\x01", *body, struct.pack(">I", checksum)])
    body.clear()
    header = struct.pack(">IIBBBBB", layout.width, layout.height, layout.depth, layout.colour, 0, 0, 0)
    chunks: list[tuple[bytes, bytes | memoryview]] = [
        (kind, part) for kind, part in ((b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparency)) if part
    ]
    limit = 2**31 - 1  # of a chunk
    chunks += [(b"IDAT", memoryview(idat)[start : start + limit]) for start in range(0, len(idat), limit)]
    return b"".join([SIGNATURE, *(part for chunk in [*chunks, (b"IEND", b"")] for part in _chunk_parts(*chunk))])


def descriptions(data: bytes) -> Iterator[bytes]:
    """PNG files of one pixel, each with one of the chunks of a PNG file in which Pillow finds a colour profile or EXIF:
    so that one can ask for these without decoding the pixels, and a damaged chunk takes no other with it."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind in (b"iCCP", b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            pixel = _chunk_parts(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GREY, 0, 0, 0))
            rest = (*_chunk_parts(b"IDAT", zlib.compress(bytes(2))), *_chunk_parts(b"IEND", b""))
            yield b"".join([SIGNATURE, *pixel, data[start : start + length + 12], *rest])
        start += length + 12


def size_of(start: bytes, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Width and height from the first 33 bytes of a PNG file.

    Raises UnsupportedImage if its header is damaged, TooLarge beyond the limits."""
    header = start[12:29]
    if start[12:16] != b"IHDR" or zlib.crc32(header) != int.from_bytes(start[29:33], "big"):
        raise UnsupportedImage("damaged PNG: no IHDR, or its checksum is wrong")
    layout, _ = _layout(header[4:], max_pixels, max_bytes)
    return layout.width, layout.height


def layout_of(image: PlainImage) -> Layout:
    """Layout of the image's rows at its own depth."""
    return Layout(image.width, image.height, image.depth, image.colour)


def png_stream(data: bytes) -> tuple[int, bytes]:
    """(bit depth, raw deflate stream) of a PNG file that this process made."""
    header, idat, _, _ = _parts(data)
    layout, _ = _layout(header, MAX_PIXELS, MAX_BYTES)
    return layout.depth, _inflate_idat(idat, layout.size)[1]


def checked_colours(colour: int, palette: bytes, transparency: bytes) -> tuple[bytes, bytes]:
    """PLTE and tRNS as far as they belong to the colour type. Raises Corrupt if their lengths are wrong."""
    if colour != PALETTE:
        allowed = TRANSPARENCY_BYTES.get(colour, 0)
        if allowed and len(transparency) not in (0, allowed):
            raise Corrupt(f"tRNS of {len(transparency)} bytes, expected {allowed}")
        return b"", transparency if allowed else b""
    if len(palette) % 3 or not 3 <= len(palette) <= 768:
        raise Corrupt(f"palette of {len(palette)} bytes, expected 3 to 768 in steps of 3")
    if len(transparency) > len(palette) // 3:
        raise Corrupt(f"tRNS of {len(transparency)} bytes for {len(palette) // 3} colours")
    return palette, transparency


def deflate(rows: bytes, level: int) -> bytes:
    """Raw deflate stream."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9)
    return packer.compress(rows) + packer.flush()


def inflated(stream: bytes, size: int) -> Iterator[bytes]:
    """Undo raw deflate to exactly `size` bytes, a piece at a time. Raises Corrupt for any other length, at the end."""
    unpacker = zlib.decompressobj(-15)
    made = 0
    for start in range(0, len(stream), _READ):
        data, more = stream[start : start + _READ], True
        while more and not unpacker.eof:
            try:
                piece = unpacker.decompress(data, _PIECE)
            except zlib.error as error:
                raise Corrupt(f"deflate stream: {error}") from error
            data = unpacker.unconsumed_tail
            more = bool(data) or len(piece) == _PIECE
            made += len(piece)
            if made > size:
                break
            yield piece
        if made > size or unpacker.eof:
            break
    if made != size or not unpacker.eof or unpacker.unused_data or start + _READ < len(stream):
        raise Corrupt(f"deflate stream: does not end after exactly {size} bytes of pixels")


def pack(samples: NDArray[np.uint8], depth: int) -> Bytes2d:
    """Samples [H, W, B] into rows of bytes [H, row_bytes], leftmost pixel in the highest bits, rest of a row 0."""
    if depth >= 8:
        return samples.reshape(len(samples), -1)
    per = 8 // depth
    packed = np.zeros((len(samples), -(-samples.shape[1] // per)), np.uint8)
    for place in range(per):
        part = samples[:, place::per, 0]
        packed[:, : part.shape[1]] |= part << np.uint8(8 - depth * (place + 1))
    return packed


def unpack(packed: Bytes2d, layout: Layout) -> NDArray[np.uint8]:
    """Inverse of `pack`."""
    samples = np.empty((layout.height, layout.width, 1 if layout.depth < 8 else layout.pixel_bytes), np.uint8)
    _unpack(packed, layout.depth, samples)
    return samples


def _unpack(packed: Bytes2d, depth: int, samples: NDArray[np.uint8]) -> None:
    """Inverse of `pack`, into samples [H, W, B]."""
    if depth >= 8:
        samples[...] = packed.reshape(samples.shape)
        return
    per = 8 // depth
    for place in range(per):
        part = samples[:, place::per, 0]
        np.right_shift(packed[:, : part.shape[1]], 8 - depth * (place + 1), out=part)
        part &= np.uint8(2**depth - 1)


def unfiltered_rows(samples: NDArray[np.uint8], depth: int) -> bytes:
    """Packed rows, each after filter byte 0 (none)."""
    return b"".join(_unfiltered_strips(samples, depth))


def _unfiltered_strips(samples: NDArray[np.uint8], depth: int) -> Iterator[bytes]:
    for part in parts_of(samples):
        packed = pack(part, depth)
        rows = np.zeros((len(packed), 1 + packed.shape[1]), np.uint8)
        rows[:, 1:] = packed
        yield rows.tobytes()


def parts_of(samples: NDArray[np.uint8], size: int = _PIECE) -> Iterator[NDArray[np.uint8]]:
    """Views of some rows of [H, W, B] at a time, of about so many bytes."""
    step = max(1, size // (samples.shape[1] * samples.shape[2]))
    for start in range(0, len(samples), step):
        yield samples[start : start + step]


def filtered(image: PlainImage) -> bytes:
    """Rows with a filter chosen for each by the least sum of absolute differences (PNG 12.8); none below 8 bits."""
    return b"".join(_filtered_strips(image))


def _filtered_strips(image: PlainImage) -> Iterator[bytes]:
    if image.depth < 8 or image.colour == PALETTE:
        yield from _unfiltered_strips(image.pixels, image.depth)
        return
    before: Bytes2d = np.zeros_like(pack(image.pixels[:1], image.depth))
    for part in parts_of(image.pixels, _PIECE >> 2):  # choosing takes some forty times as much memory
        packed = pack(part, image.depth)
        yield _best_filters(packed, np.vstack([before, packed[:-1]]), layout_of(image).pixel_bytes)
        before = packed[-1:]


def _best_filters(rows: Bytes2d, above: Bytes2d, pixel_bytes: int) -> bytes:
    def left_of(values: NDArray[np.int16]) -> NDArray[np.int16]:
        return np.pad(values, ((0, 0), (pixel_bytes, 0)))[:, : values.shape[1]]

    x, b = rows.astype(np.int16), above.astype(np.int16)
    a, c = left_of(x), left_of(b)
    off_a, off_b, off_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)  # of Paeth's estimate a + b - c
    paeth = np.where((off_a <= off_b) & (off_a <= off_c), a, np.where(off_b <= off_c, b, c))
    choices = np.stack([x, x - a, x - b, x - (a + b) // 2, x - paeth]).astype(np.uint8)
    best = np.abs(choices.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64).argmin(axis=0)
    return np.column_stack([best.astype(np.uint8), choices[best, np.arange(len(x))]]).tobytes()


def unfilter(rows: bytes, layout: Layout) -> NDArray[np.uint8]:
    """Samples [H, W, B] of filtered rows. Raises Corrupt for an unknown filter."""
    return unfilter_pieces([rows], layout)


def unfilter_pieces(pieces: Iterable[bytes], layout: Layout) -> NDArray[np.uint8]:
    """The same of rows that come in pieces of any length."""
    sample_bytes = 1 if layout.depth < 8 else layout.pixel_bytes
    samples = np.empty((layout.height, layout.width, sample_bytes), np.uint8)
    above: Bytes2d = np.zeros((1, layout.row_bytes), np.uint8)
    done = 0
    for table in _strips(pieces, 1 + layout.row_bytes):
        _check_filters(table[:, 0])
        packed = _unfiltered(table[:, 0], table[:, 1:], above, layout.pixel_bytes)
        _unpack(packed, layout.depth, samples[done : done + len(packed)])
        above = packed[-1:].copy()
        done += len(packed)
    return samples


def _strips(pieces: Iterable[bytes], stride: int) -> Iterator[Bytes2d]:
    """Whole rows [n, stride], some at a time and at least one, of bytes that come in pieces."""
    buffer = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            buffer += memoryview(piece)[start : start + _PIECE]
            rows = len(buffer) // stride
            if rows:
                data, buffer = buffer, buffer[rows * stride :]
                yield np.frombuffer(data, np.uint8, rows * stride).reshape(rows, stride)


def _check_filters(filters: NDArray[np.uint8]) -> None:
    """Raises Corrupt for filters that PNG does not have."""
    if filters.size and filters.max() > 4:
        raise Corrupt(f"row filter {filters.max()}, expected 0 to 4")


def _unfiltered(filters: NDArray[np.uint8], body: Bytes2d, above: Bytes2d, pixel_bytes: int) -> Bytes2d:
    """Rows [n, row_bytes] without their filters [n]. above: the row before them [1, row_bytes]."""
    if body.shape[1] == pixel_bytes:  # nothing is left of a pixel that is a row: "left" is none, "Paeth" is "above"
        filters = np.array([0, 0, 2, 3, 2], np.uint8)[filters]
    if not filters.any():
        return body
    if (filters & 0xFD).any():
        return _undo_by_pillow(filters, body, above, pixel_bytes)
    return _undo_up(filters, body, above)


def _undo_up(filters: NDArray[np.uint8], body: Bytes2d, above: Bytes2d) -> Bytes2d:
    """Rows of which each has filter 0 (none) or 2 (difference to the row above): sums, modulo 256, since the last 0."""
    result = np.empty_like(body)
    since = np.maximum.accumulate(np.where(filters, 0, np.arange(1, len(body) + 1)))
    step = max(1, _PIECE // len(body))
    for begin in range(0, body.shape[1], step):
        part = slice(begin, begin + step)
        rows = np.vstack([above[:, part], body[:, part]])
        sums = np.cumsum(rows, axis=0, dtype=np.uint8)
        result[:, part] = sums[1:] - (sums - rows)[since]
    return result


def _undo_by_pillow(filters: NDArray[np.uint8], body: Bytes2d, above: Bytes2d, pixel_bytes: int) -> Bytes2d:
    """Rows with any filters, in tiles, so that long rows take little memory.

    A filter relates a byte only to bytes of the same place in other pixels. So rows of any layout are also rows of
    8-bit images of 1 to 4 channels (two of them for pixels of 6 or 8 bytes), which Pillow undoes quickly. Before a
    tile stand the row above it and the pixels to its left, filtered so that they come out as they are known."""
    result = np.empty_like(body)
    width, filters = body.shape[1], np.concatenate([[0], filters]).astype(np.uint8)
    step = max(1, 4 * _PIECE // (len(filters) * pixel_bytes)) * pixel_bytes
    for begin in range(0, width, step):
        part = slice(begin, begin + step)
        tile = np.vstack([above[:, part], body[:, part]])
        if begin:
            left = slice(begin - pixel_bytes, begin)
            tile = np.hstack([_as_first(filters, np.vstack([above[:, left], result[:, left]])), tile])
        pixels = tile.reshape(len(tile), -1, pixel_bytes)
        groups = np.split(pixels, 2 if pixel_bytes > 4 else 1, axis=2)
        undone = np.concatenate([_unfilter_by_pillow(filters[:, None], group) for group in groups], axis=2)
        result[:, part] = undone.reshape(len(tile), -1)[1:, pixel_bytes * bool(begin) :]
    return result


def _as_first(filters: NDArray[np.uint8], pixels: Bytes2d) -> Bytes2d:
    """Pixels [n, B], the first of n rows, filtered: nothing is left of them, so only the one above counts."""
    above = np.vstack([np.zeros_like(pixels[:1]), pixels[:-1]])
    share = np.choose(filters[:, None], [above & 0, above & 0, above, above >> 1, above])
    return pixels - share  # type: ignore[no-any-return]


def _unfilter_by_pillow(filters: Bytes2d, body: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the row filters [H, 1] of body [H, W, 1 to 4]."""
    height, width, channels = body.shape
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[channels]
    rows = np.hstack([filters, body.reshape(height, -1)]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    png = b"".join([SIGNATURE, *(part for chunk in parts for part in _chunk_parts(*chunk))])
    # The plug-in's class rather than Image.open: that one has a pixel limit of its own, global to the process.
    with PngImageFile(io.BytesIO(png)) as image:
        return np.asarray(image).reshape(body.shape)


def _deinterlace(rows: bytes, passes: list[Layout], layout: Layout) -> NDArray[np.uint8]:
    """Samples [H, W, B] of the seven passes, which follow one another."""
    sample_bytes = 1 if layout.depth < 8 else layout.pixel_bytes
    pixels = np.zeros((layout.height, layout.width, sample_bytes), np.uint8)
    start = 0
    for part, (x, y, dx, dy) in zip(passes, ADAM7, strict=True):
        if part.size:
            pixels[y::dy, x::dx] = unfilter(rows[start : start + part.size], part)
        start += part.size
    return pixels


def _chunk_parts(kind: bytes, body: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    return struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) up to and with IEND; checksums are checked where we use the content."""
    if data[:8] != SIGNATURE:
        raise UnsupportedImage("not a PNG file: wrong signature")
    start, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(
            ">I4s", data.ljust(start + 8, b"\0") if len(data) < start + 8 else data, start
        )
        end = start + 8 + length
        if len(data) < end + 4:
            raise UnsupportedImage(f"damaged PNG: ends at byte {len(data)}, inside a chunk")
        if kind[0] < 0x60 or kind in (b"tRNS", b"acTL"):  # a capital first letter: cannot be ignored
            body = data[start + 8 : end]
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end : end + 4], "big"):
                raise UnsupportedImage(f"damaged PNG: wrong checksum of the chunk at byte {start}")
            yield kind, body
        start = end + 4


def _parts(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """IHDR, all IDAT joined, PLTE, tRNS."""
    found: dict[bytes, list[bytes]] = {}
    for kind, body in _chunks(data):
        found.setdefault(kind, []).append(body)
    frames = int.from_bytes(found.pop(b"acTL", [b""])[0][:4], "big")
    if frames > 1:
        raise UnsupportedImage(f"animated PNG of {frames} frames: only still images can be stored")
    unknown = found.keys() - {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
    if unknown or b"IHDR" not in found or b"IDAT" not in found:
        names = sorted(kind.decode("latin-1") for kind in unknown)
        raise UnsupportedImage(f"damaged PNG: unknown chunks {names}" if names else "damaged PNG: no IHDR or no IDAT")
    empty = [b""]
    return found[b"IHDR"][0], b"".join(found[b"IDAT"]), found.get(b"PLTE", empty)[0], found.get(b"tRNS", empty)[0]


def _layout(header: bytes, max_pixels: int, max_bytes: int) -> tuple[Layout, bool]:
    """(layout, whether interlaced) from IHDR."""
    if len(header) != 13:
        raise UnsupportedImage(f"damaged PNG: IHDR of {len(header)} bytes, expected 13")
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in DEPTHS.get(colour, ()) or compression or filters or interlace > 1 or not width or not height:
        raise UnsupportedImage(f"damaged PNG: impossible header {header.hex()}")
    if width * height > max_pixels:
        raise TooLarge(f"PNG of {width} x {height} pixels, limit {max_pixels}")
    layout = Layout(width, height, depth, colour)
    if width * height * layout.sample_bytes > max_bytes:
        raise TooLarge(f"PNG of {width * height * layout.sample_bytes} bytes once decoded, limit {max_bytes}")
    return layout, bool(interlace)


def _inflate_idat(idat: bytes, size: int) -> tuple[bytes, bytes]:
    """(rows, raw deflate stream without zlib's header and checksum)."""
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(idat, size + 1)
    except zlib.error as error:
        raise UnsupportedImage(f"damaged PNG: {error}") from error
    if len(rows) != size or not unpacker.eof:
        raise UnsupportedImage(f"damaged PNG: pixel data do not end after {size} bytes")
    return rows, idat[2 : len(idat) - len(unpacker.unused_data) - 4]
