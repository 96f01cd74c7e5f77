"""PNG taken apart and put together: the still image that every PNG holds, to the last bit of its samples.

Pillow cannot hold 16-bit colour or 2- and 4-bit grey, so the chunks are read here. What survives: size, bit depth,
colour type, palette (PLTE), transparency (tRNS) and every sample, also the colour of transparent pixels. What does not:
interlacing, and chunks that only describe (colour profile, text, EXIF, time, resolution, suggested palettes).

Source: Portable Network Graphics (PNG) Specification (Second Edition), W3C Recommendation 10 November 2003.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from ..bitstream.errors import Corrupt, TooLarge, UnsupportedImage

Bytes2d = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 2**28
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
TRANSPARENCY_BYTES = {GREY: 2, RGB: 6}
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
    def from_png(cls, data: bytes, max_pixels: int = MAX_PIXELS) -> "PlainImage":
        """Read a PNG file. Raises UnsupportedImage if it is damaged or animated, TooLarge beyond `max_pixels`."""
        return read_png(data, max_pixels)

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

    def adam7(self) -> list["Layout"]:
        """The seven passes of an interlaced image; some may be empty."""
        return [
            Layout(-(-(self.width - x) // dx), -(-(self.height - y) // dy), self.depth, self.colour)
            for x, y, dx, dy in ADAM7
        ]


def read_png(data: bytes, max_pixels: int = MAX_PIXELS) -> PlainImage:
    """Parse a PNG file. Raises UnsupportedImage if it is damaged or animated, TooLarge beyond `max_pixels`."""
    header, idat, palette, transparency = _parts(data)
    layout, interlaced = _layout(header, max_pixels)
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
    rows = inflate(image.stream, layout.size) if image.stream else filtered(image)
    body = image.stream or deflate(rows, 6)
    idat = b"\x78\x01" + body + struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(">IIBBBBB", image.width, image.height, image.depth, image.colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", image.palette), (b"tRNS", image.transparency)]
    limit = 2**31 - 1  # of a chunk
    chunks += [(b"IDAT", idat[start : start + limit]) for start in range(0, len(idat), limit)]
    return SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks if body) + _chunk(b"IEND", b"")


def descriptions(data: bytes) -> Iterator[bytes]:
    """PNG files of one pixel, each with one of the chunks of a PNG file in which Pillow finds a colour profile or EXIF:
    so that one can ask for these without decoding the pixels, and a damaged chunk takes no other with it."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind in (b"iCCP", b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
            pixel = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GREY, 0, 0, 0))
            rest = _chunk(b"IDAT", zlib.compress(bytes(2))) + _chunk(b"IEND", b"")
            yield SIGNATURE + pixel + data[start : start + length + 12] + rest
        start += length + 12


def size_of(start: bytes) -> tuple[int, int]:
    """Width and height from the first 33 bytes of a PNG file. Raises UnsupportedImage if its header is damaged."""
    header = start[12:29]
    if start[12:16] != b"IHDR" or zlib.crc32(header) != int.from_bytes(start[29:33], "big"):
        raise UnsupportedImage("damaged PNG: no IHDR, or its checksum is wrong")
    layout, _ = _layout(header[4:], 1 << 62)
    return layout.width, layout.height


def layout_of(image: PlainImage) -> Layout:
    """Layout of the image's rows at its own depth."""
    return Layout(image.width, image.height, image.depth, image.colour)


def png_stream(data: bytes) -> tuple[int, bytes]:
    """(bit depth, raw deflate stream) of a PNG file that this process made."""
    header, idat, _, _ = _parts(data)
    layout, _ = _layout(header, MAX_PIXELS)
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


def inflate(stream: bytes, size: int) -> bytes:
    """Undo raw deflate to exactly `size` bytes, never holding more. Raises Corrupt for any other length."""
    unpacker = zlib.decompressobj(-15)
    try:
        rows = unpacker.decompress(stream, size + 1)
    except zlib.error as error:
        raise Corrupt(f"deflate stream: {error}") from error
    if len(rows) != size or not unpacker.eof or unpacker.unused_data:
        raise Corrupt(f"deflate stream: does not end after exactly {size} bytes of pixels")
    return rows


def pack(samples: NDArray[np.uint8], depth: int) -> Bytes2d:
    """Samples [H, W, B] into rows of bytes [H, row_bytes], leftmost pixel in the highest bits, rest of a row 0."""
    if depth >= 8:
        return samples.reshape(len(samples), -1)
    per = 8 // depth
    padded = np.pad(samples[:, :, 0], ((0, 0), (0, -samples.shape[1] % per)))
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
    packed: Bytes2d = np.bitwise_or.reduce(padded.reshape(len(samples), -1, per) << shifts, axis=2)
    return packed


def unpack(packed: Bytes2d, layout: Layout) -> NDArray[np.uint8]:
    """Inverse of `pack`."""
    if layout.depth >= 8:
        return packed.reshape(layout.height, layout.width, -1)
    shifts = np.arange(8 - layout.depth, -1, -layout.depth, dtype=np.uint8)
    samples = (packed[:, :, None] >> shifts) & np.uint8(2**layout.depth - 1)
    return samples.reshape(layout.height, -1)[:, : layout.width, None]


def unfiltered_rows(samples: NDArray[np.uint8], depth: int) -> bytes:
    """Packed rows, each after filter byte 0 (none)."""
    return np.pad(pack(samples, depth), ((0, 0), (1, 0))).tobytes()


def filtered(image: PlainImage) -> bytes:
    """Rows with a filter chosen for each by the least sum of absolute differences (PNG 12.8); none below 8 bits."""
    if image.depth < 8 or image.colour == PALETTE:
        return unfiltered_rows(image.pixels, image.depth)
    packed = pack(image.pixels, image.depth)
    above = np.vstack([np.zeros_like(packed[:1]), packed[:-1]])
    step = max(1, 2**20 // packed.shape[1])  # rows at a time, to bound memory
    blocks = [slice(start, start + step) for start in range(0, len(packed), step)]
    return b"".join(_best_filters(packed[rows], above[rows], layout_of(image).pixel_bytes) for rows in blocks)


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
    """Samples [H, W, B] of filtered rows. Raises Corrupt for an unknown filter.

    A filter relates a byte only to bytes of the same place in other pixels. So rows of any layout are also rows of
    8-bit images of 1 to 4 channels (two of them for pixels of 6 or 8 bytes), which Pillow undoes quickly.
    """
    table = np.frombuffer(rows, np.uint8).reshape(layout.height, 1 + layout.row_bytes)
    if table[:, 0].max() > 4:
        raise Corrupt(f"row filter {table[:, 0].max()}, expected 0 to 4")
    groups = 2 if layout.pixel_bytes > 4 else 1
    body = table[:, 1:].reshape(layout.height, -1, groups, layout.pixel_bytes // groups)
    parts = [_unfilter_by_pillow(table[:, :1], body[:, :, group]) for group in range(groups)]
    return unpack(np.stack(parts, axis=2).reshape(layout.height, -1), layout)


def _unfilter_by_pillow(filters: Bytes2d, body: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the row filters [H, 1] of body [H, W, 1 to 4]."""
    height, width, channels = body.shape
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[channels]
    rows = np.hstack([filters, body.reshape(height, -1)]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    png = SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 0)) + _chunk(b"IEND", b"")
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


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


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


def _layout(header: bytes, max_pixels: int) -> tuple[Layout, bool]:
    """(layout, whether interlaced) from IHDR."""
    if len(header) != 13:
        raise UnsupportedImage(f"damaged PNG: IHDR of {len(header)} bytes, expected 13")
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in DEPTHS.get(colour, ()) or compression or filters or interlace > 1 or not width or not height:
        raise UnsupportedImage(f"damaged PNG: impossible header {header.hex()}")
    if width * height > max_pixels:
        raise TooLarge(f"PNG of {width} x {height} pixels, limit {max_pixels}")
    return Layout(width, height, depth, colour), bool(interlace)


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
