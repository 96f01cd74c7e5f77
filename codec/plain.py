"""Lossless storing of any image: the fallback for what no model fits. Never larger than an optimised PNG.

`encode` tries every method that applies and keeps the smallest result that decodes to the same image.

    0 deflate  PNG's filtered rows as a raw deflate stream: the source file's own, Pillow's optimised, or one made here
    1 lzma     the same rows as raw LZMA2; tried for small images and 16-bit ones, since it is slow
    2 webp     8 bits or fewer per sample: the samples as 1 to 4 channels of a lossless WebP (VP8L)

The samples of grey and palette images may be coded with another bit depth than their own (FORMAT.md, "Plain methods").
"""

import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..bitstream.errors import Corrupt, TooLarge, UnsupportedImage
from .png import (
    CHANNELS,
    DEPTHS,
    GREY,
    GREY_ALPHA,
    MAX_BYTES,
    MAX_PIXELS,
    PALETTE,
    RGB,
    RGBA,
    Layout,
    PlainImage,
    checked_colours,
    deflate,
    filtered,
    inflated,
    pack,
    parts_of,
    png_of_stream,
    png_stream,
    unfilter_pieces,
    unfiltered_rows,
)
from .strict_pillow import strict_pillow

METHODS = {0: "deflate", 1: "lzma", 2: "webp"}
DEFLATE, LZMA, WEBP = METHODS

MODE_OF = {
    (GREY, 1): "1", (GREY, 2): "L", (GREY, 4): "L", (GREY, 8): "L", (GREY, 16): "I;16",
    (RGB, 8): "RGB", (RGB, 16): "RGB;16", (GREY_ALPHA, 8): "LA", (GREY_ALPHA, 16): "LA;16",
    (PALETTE, 1): "P", (PALETTE, 2): "P", (PALETTE, 4): "P", (PALETTE, 8): "P",
    (RGBA, 8): "RGBA", (RGBA, 16): "RGBA;16",
}  # fmt: skip
# Mode of the header -> (colour type, bit depth unless the extra bytes say otherwise): the last of the entries above.
KIND_OF = {mode: kind for kind, mode in MODE_OF.items()}
PILLOW_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 2**23, "lc": 3, "lp": 0, "pb": 0}]
_QUICK_LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**22}]
SMALL = 2**19  # bytes of pixels up to which everything is tried
LZMA_LIMIT_16 = 2**23  # bytes of rows up to which LZMA is tried at 16 bits, where there is no WebP
WEBP_SIDE = 2**14 - 1  # bound of VP8L
WEBP_SLOW_PIXELS = 2**22  # beyond, settings that take half the time and 1 % more bytes

_PIECE = 1 << 20  # bytes of rows that are made at a time

Samples = NDArray[np.uint8]


class Stored(NamedTuple):
    """An image in its coded form."""

    method: int
    extra: bytes  # depths, palette, transparency; empty where the mode says it all
    payload: bytes


def mode_of(image: PlainImage) -> str:
    """Name of the image's mode in the container header."""
    return MODE_OF[image.colour, image.depth]


def from_pil(image: Image.Image) -> PlainImage:
    """The same image as PNG would hold it. Raises UnsupportedImage for modes and palettes that PNG cannot hold."""
    if image.mode not in PILLOW_MODES:
        raise UnsupportedImage(
            f"image mode {image.mode} has no PNG form: convert it to one of {', '.join(PILLOW_MODES)}"
        )
    if not image.width or not image.height:
        raise UnsupportedImage(f"image of {image.width} x {image.height} pixels: nothing to store")
    if image.width * image.height > MAX_PIXELS:
        raise TooLarge(f"image of {image.width} x {image.height} pixels, limit {MAX_PIXELS}")
    png = _pillow_png(image, optimise=False)
    with PngImageFile(io.BytesIO(png)) as copy:
        if copy.mode != image.mode or copy.tobytes() != image.tobytes():
            raise UnsupportedImage(f"image of mode {image.mode} does not survive as PNG: is its palette too short?")
    plain = PlainImage.from_png(png)
    return replace(plain, stream=b"")  # it was made for speed


def to_pil(image: PlainImage) -> Image.Image:
    """The image as Pillow opens its PNG file; 16-bit colour loses the low 8 bits of its samples."""
    if image.depth == 16 and image.colour != GREY:
        high = replace(image, pixels=image.pixels[:, :, ::2], depth=8)
        return _with_transparency(_pillow_form(high), image)
    return _with_transparency(_pillow_form(image), image)


def _with_transparency(picture: Image.Image | None, image: PlainImage) -> Image.Image:
    """The picture with tRNS where Pillow looks for it, in its form: bytes, or an index, level or colour."""
    assert picture is not None
    values = image.transparency
    if not values:
        return picture
    if image.colour == PALETTE:
        opaque = values.count(255) == len(values) - 1 and values.count(0) == 1
        picture.info["transparency"] = values.index(0) if opaque else values
        return picture
    levels = struct.unpack(f">{len(values) // 2}H", values)
    if picture.mode == "1":
        levels = (255 if levels[0] else 0,)
    picture.info["transparency"] = levels if image.colour == RGB else levels[0]
    return picture


def encode(image: PlainImage) -> Stored:
    """The smallest coded form that `decode` turns back into the same image."""
    size, mode = (image.width, image.height), mode_of(image)
    forms = sorted(_candidates(image), key=lambda form: len(form.extra) + len(form.payload))
    return next(form for form in forms if decode(*form, *size, mode, size[0] * size[1]).same_image(image))


def quick_size(samples: Samples) -> int:
    """Bytes that a payload for samples uint8 [H, W, 1 to 4] of 8 bits need not exceed: of a form made in a hurry.

    About 2.5 times what `encode` needs at most, unless rows repeat from afar."""
    if max(samples.shape[:2]) <= WEBP_SIDE:
        return len(_to_webp(samples, quality=20, method=1))
    left = np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
    return min(len(zlib.compress(form.tobytes(), 1)) for form in (samples, left))


def repeats_size(samples: Samples) -> int:
    """The same, by a method that sees repeats some megabytes away and takes several times as long."""
    return len(lzma.compress(samples.tobytes(), lzma.FORMAT_RAW, filters=_QUICK_LZMA_FILTERS))


def decode(
    method: int,
    extra: bytes,
    payload: bytes,
    width: int,
    height: int,
    mode: str,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> PlainImage:
    """Inverse of `encode`. Raises Corrupt for what `encode` cannot have written, TooLarge beyond the limits."""
    told = _told(method, extra, (width, height), mode, max_pixels, max_bytes)
    samples = _samples(method, payload, told.coded)
    pixels = with_depth(samples, told.coded.colour, told.coded.depth, told.depth)
    if pixels is None:
        raise Corrupt(f"plain image: samples coded with {told.coded.depth} bits do not fit the image's {told.depth}")
    stream = payload if method == DEFLATE and told.depth == told.coded.depth else b""
    return PlainImage(pixels, told.depth, told.coded.colour, told.palette, told.transparency, stream)


def to_png(
    method: int,
    extra: bytes,
    payload: bytes,
    width: int,
    height: int,
    mode: str,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """The PNG file of a coded form, without decoding it to samples where PNG has the same form. Raises as `decode`."""
    told = _told(method, extra, (width, height), mode, max_pixels, max_bytes)
    if method == DEFLATE and told.depth == told.coded.depth:
        return png_of_stream(payload, told.coded, told.palette, told.transparency)
    return decode(method, extra, payload, width, height, mode, max_pixels, max_bytes).to_png()


class _Told(NamedTuple):
    """What is known of an image before its payload is read. coded: layout of the coded samples; depth: the image's."""

    coded: Layout
    depth: int
    palette: bytes
    transparency: bytes


def _told(method: int, extra: bytes, size: tuple[int, int], mode: str, max_pixels: int, max_bytes: int) -> _Told:
    """Raises Corrupt, and TooLarge beyond the limits."""
    width, height = size
    if mode not in KIND_OF or method not in METHODS or not width or not height:
        raise Corrupt(f"plain image: method {method}, mode {mode}, {width} x {height} pixels")
    colour, depth, coded_depth, palette, transparency = parse_extra(extra, mode)
    coded = Layout(width, height, coded_depth, colour)
    if width * height > max_pixels:
        raise TooLarge(f"image of {width} x {height} pixels, limit {max_pixels}")
    if width * height * coded.sample_bytes > max_bytes:
        raise TooLarge(f"image of {width * height * coded.sample_bytes} bytes once decoded, limit {max_bytes}")
    return _Told(coded, depth, palette, transparency)


def _candidates(image: PlainImage) -> Iterator[Stored]:
    """Coded forms worth trying; `encode` checks each before it is used."""
    if image.stream:
        yield Stored(DEFLATE, extra_of(image, image.depth), image.stream)
    form = _pillow_form(image)
    if form is not None:
        depth, stream = png_stream(_pillow_png(form, optimise=True))
        yield Stored(DEFLATE, extra_of(image, depth), stream)
    for depth, rows in _row_sets(image, form is not None):
        yield Stored(DEFLATE, extra_of(image, depth), deflate(rows, 9))
        if len(rows) <= (LZMA_LIMIT_16 if depth == 16 else SMALL):
            yield Stored(LZMA, extra_of(image, depth), lzma.compress(rows, lzma.FORMAT_RAW, filters=LZMA_FILTERS))
    if image.depth <= 8 and max(image.width, image.height) <= WEBP_SIDE:
        yield Stored(WEBP, extra_of(image, image.depth), _to_webp(image.pixels, *_webp_effort(image.pixels)))


def _row_sets(image: PlainImage, done_by_pillow: bool) -> Iterator[tuple[int, bytes]]:
    """(coded depth, rows): unfiltered at the least depth, and filtered. Of large images only what is promising."""
    depth, pixels = _least_depth(image)
    small = image.pixels.size <= SMALL
    if small or depth < 8 or image.colour == PALETTE:
        yield depth, unfiltered_rows(pixels, depth)
    if image.depth >= 8 and image.colour != PALETTE and (small or not done_by_pillow):
        yield image.depth, filtered(image)


def _samples(method: int, payload: bytes, layout: Layout) -> Samples:
    """Samples [H, W, B] at the coded depth."""
    if method == WEBP:
        return _from_webp(payload, layout)
    pieces = inflated(payload, layout.size) if method == DEFLATE else _from_lzma(payload, layout.size)
    return unfilter_pieces(pieces, layout)


def _from_lzma(payload: bytes, size: int) -> Iterator[bytes]:
    """Undo raw LZMA2 to exactly `size` bytes, a piece at a time. Raises Corrupt for any other length, at the end."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    made, data = 0, payload
    while not unpacker.eof and made <= size:
        try:
            piece = unpacker.decompress(data, min(_PIECE, size + 1 - made))
        except lzma.LZMAError as error:
            raise Corrupt(f"LZMA stream: {error}") from error
        if not piece and unpacker.needs_input:
            break
        made, data = made + len(piece), b""
        if made <= size:
            yield piece
    if made != size or not unpacker.eof or unpacker.unused_data:
        raise Corrupt(f"LZMA stream: does not end after exactly {size} bytes of pixels")


def _webp_effort(samples: Samples) -> tuple[int, int]:
    """Quality and method, the effort that libwebp takes, for samples [H, W, B]."""
    return (75, 6) if samples.shape[0] * samples.shape[1] <= WEBP_SLOW_PIXELS else (50, 3)


def _to_webp(samples: Samples, quality: int, method: int) -> bytes:
    """VP8L data (without RIFF framing) of samples [H, W, 1 to 4]: grey as R = G = B, and then alpha."""
    channels = {1: [0, 0, 0], 2: [0, 0, 0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[samples.shape[2]]
    buffer = io.BytesIO()
    # exact: keep the colour of transparent pixels. Quality 100 gains 0.2 % on photographs and takes 30 times as long.
    Image.fromarray(np.ascontiguousarray(samples[:, :, channels])).save(
        buffer, "WEBP", lossless=True, exact=True, quality=quality, method=method
    )
    size = int.from_bytes(buffer.getvalue()[16:20], "little")
    return buffer.getvalue()[20 : 20 + size]


def _from_webp(payload: bytes, layout: Layout) -> Samples:
    """Inverse of `_to_webp`. VP8L starts with 0x2f, then 14 bits width - 1, 14 bits height - 1, alpha, version 0."""
    bits = int.from_bytes(payload[1:5], "little")
    size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if payload[:1] != b"\x2f" or size != (layout.width, layout.height) or bits >> 29 or layout.depth > 8:
        raise Corrupt(f"WebP data: start {payload[:5].hex()} is not that of {layout.width} x {layout.height} pixels")
    body = struct.pack("<4s4sI", b"WEBP", b"VP8L", len(payload)) + payload + b"\0" * (len(payload) % 2)
    try:
        with (
            strict_pillow(layout.width * layout.height),
            WebPImageFile(io.BytesIO(struct.pack("<4sI", b"RIFF", len(body)) + body)) as image,
        ):
            samples = _channels(image, CHANNELS[layout.colour])
    except (OSError, SyntaxError, ValueError) as error:
        raise Corrupt(f"WebP data: {error}") from error
    if samples.max() >= 2**layout.depth:
        raise Corrupt(f"WebP data: sample {samples.max()} in an image of {layout.depth} bits")
    return samples


def _channels(image: Image.Image, channels: int) -> Samples:
    """[H, W, 1 to 4] of an image of mode RGB or RGBA: R, then A; or R, G, B, then A."""
    image.load()
    if channels < 3:
        bands = [image.getchannel("R"), image.getchannel("A") if image.mode == "RGBA" else None][:channels]
        opaque = np.uint8(255)
        planes = [np.broadcast_to(opaque, image.size[::-1]) if band is None else np.asarray(band) for band in bands]
        return planes[0][:, :, None] if channels == 1 else np.stack(planes, axis=2)
    mode = "RGB" if channels == 3 else "RGBA"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def with_depth(samples: Samples, colour: int, depth: int, new_depth: int) -> Samples | None:
    """The same grey levels or palette indices in samples of another depth (both <= 8); None if they do not fit."""
    if depth == new_depth:
        return samples
    old, new = (1 if colour == PALETTE else 255 // (2**bits - 1) for bits in (depth, new_depth))
    values, rest = np.divmod(np.arange(2**depth) * old, new)
    fits, table = (rest == 0) & (values < 2**new_depth), values.astype(np.uint8)
    result = np.empty_like(samples)
    for part, target in zip(parts_of(samples), parts_of(result), strict=True):
        if not fits[part].all():
            return None
        target[...] = table[part]
    return result


def _least_depth(image: PlainImage) -> tuple[int, Samples]:
    """The least coded depth that holds the image, and its samples then."""
    if image.colour in (GREY, PALETTE) and image.depth <= 8:
        for depth in (1, 2, 4):
            samples = with_depth(image.pixels, image.colour, image.depth, depth)
            if samples is not None:
                return depth, samples
    return image.depth, image.pixels


def extra_of(image: PlainImage, coded_depth: int) -> bytes:
    """Extra bytes of an image whose samples are coded with so many bits.

    Nothing if the mode says it all, else: depths (log2; image's low, coded high), palette with its size, tRNS."""
    if KIND_OF[mode_of(image)] == (image.colour, coded_depth) and image.depth == coded_depth and not _colours(image):
        return b""
    depths = (image.depth.bit_length() - 1) | (coded_depth.bit_length() - 1) << 4
    return bytes([depths]) + _colours(image)


def _colours(image: PlainImage) -> bytes:
    count = bytes([len(image.palette) // 3 - 1]) if image.palette else b""
    return count + image.palette + image.transparency


def parse_extra(extra: bytes, mode: str) -> tuple[int, int, int, bytes, bytes]:
    """(colour type, depth, coded depth, palette, tRNS) of extra bytes and the header's mode. Raises Corrupt."""
    colour, depth = KIND_OF[mode]
    if not extra and colour != PALETTE:
        return colour, depth, depth, b"", b""
    depth, coded_depth = (1 << (extra[0] & 15), 1 << (extra[0] >> 4)) if extra else (0, 0)
    same = coded_depth == depth or (colour in (GREY, PALETTE) and max(depth, coded_depth) <= 8)
    if MODE_OF.get((colour, depth)) != mode or coded_depth not in DEPTHS[colour] or not same:
        raise Corrupt(f"plain image: depth {depth} coded with {coded_depth} bits in mode {mode}")
    size = 3 * (extra[1] + 1) if colour == PALETTE and len(extra) > 1 else 0
    start = 2 if colour == PALETTE else 1
    palette, transparency = extra[start : start + size], extra[start + size :]
    if colour in (GREY_ALPHA, RGBA) and transparency:
        raise Corrupt(f"plain image: {len(transparency)} extra bytes in mode {mode}")
    return colour, depth, coded_depth, *checked_colours(colour, palette, transparency)


def _pillow_form(image: PlainImage) -> Image.Image | None:
    """The image for Pillow to optimise, where Pillow can hold all of its pixels; grey of 2 and 4 bits at 8 bits."""
    size = image.width, image.height
    if image.depth == 16:
        grey = image.colour == GREY
        return Image.frombytes("I;16", size, image.pixels.tobytes(), "raw", "I;16B") if grey else None
    if (image.colour, image.depth) == (GREY, 1):
        return Image.frombytes("1", size, pack(image.pixels, 1).tobytes())
    samples = with_depth(image.pixels, image.colour, image.depth, 8)
    form = Image.frombytes(MODE_OF[image.colour, 8], size, np.asarray(samples).tobytes())
    if image.palette:
        form.putpalette(image.palette)
    return form


def _pillow_png(image: Image.Image, optimise: bool) -> bytes:
    """PNG file by Pillow. Raises UnsupportedImage if the pixels cannot be had, as of a damaged JPEG."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", optimize=optimise, compress_level=1, icc_profile=None)
    except OSError as error:
        raise UnsupportedImage(f"cannot read the image: {error}") from error
    return buffer.getvalue()
