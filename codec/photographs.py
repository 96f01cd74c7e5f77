"""Photographs as files: colour and grey images of 8 bits and any size, with transparency, by a photograph model.

The model codes three colours; transparency stands in front of its payload losslessly, and so do, on request, the colour
profile and EXIF. FORMAT.md, "Photographs"."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..bitstream import container
from ..bitstream.container import ModelHeader
from ..bitstream.errors import Corrupt, TooLarge, Truncated, UnsupportedImage
from ..bitstream.numbers import leb128, read_leb128
from . import plain
from .family import METADATA, PhotoCodec
from .images import psnr_db, upright_exif
from .models import Model
from .progress import Report, silent, within

MODES = ("L", "LA", "RGB", "RGBA")
METADATA_LIMIT = 1 << 24
"""Bytes of a colour profile, and of EXIF, that a file may keep."""
FREE_PIXELS, PIXELS_PER_BYTE = 1 << 18, 1 << 15
"""A payload of n bytes holds at most FREE_PIXELS + n * PIXELS_PER_BYTE pixels, so that a file of a few bytes cannot ask
for the work of a large image; flat images have some 4,000 pixels a byte."""
_ROWS = 64  # read at a time
_NEAR = 4  # times the least size, which files made in a hurry stay below
_FAR = 12  # the same where they do not see repeats


class TooFlat(UnsupportedImage):
    """An image that a model codes in fewer bytes than a decoder accepts."""


@dataclass(frozen=True)
class Wish:
    """What a photograph's file should be.

    quality: 1..100.  bpp: largest size in bits per pixel, header and all, in place of a quality.  metadata: whether to
    keep colour profile and EXIF."""

    quality: int
    bpp: float | None = None
    metadata: bool = False


@dataclass(frozen=True)
class Metadata:
    """What a file says of an image besides its pixels; empty where it says nothing."""

    icc_profile: bytes = b""
    exif: bytes = b""

    @classmethod
    def of(cls, image: Image.Image) -> Metadata:
        """Of a Pillow image, which is upright whatever its EXIF says."""
        return cls(image.info.get("icc_profile") or b"", upright_exif(image.info.get("exif") or b""))

    def attach(self, image: Image.Image) -> None:
        """Put it where Pillow looks for it."""
        image.info |= {name: value for name, value in vars(self).items() if value}


def is_photograph(image: Image.Image) -> bool:
    """Whether a photograph model takes an image: 8 bits of grey or colour, transparency only as a channel."""
    return image.mode in MODES and image.info.get("transparency") is None and min(image.size) > 0


def encode(image: Image.Image, model: Model, wish: Wish, progress: Report = silent) -> tuple[bytes, bool]:
    """The file of an image, and whether the model renders it as well as images that it knows (not asked
    of those of a given size).

    progress: told of the share of the work that is done. Raises UnsupportedImage for a mode that it does not take,
    TooFlat, and TooLarge beyond the container's limit and METADATA_LIMIT."""
    if not is_photograph(image):
        raise UnsupportedImage(f"{model.name} takes {model.codec.takes}, found mode {image.mode}")
    if image.width * image.height > container.MAX_PIXELS:
        raise TooLarge(f"image of {image.width} x {image.height} pixels, limit {container.MAX_PIXELS}")
    codec, pixels = _codec(model), _colours(image)
    front = _front(image, wish.metadata)

    def wrapped(payload: bytes, parameter: int) -> bytes:
        parameter |= METADATA if wish.metadata else 0
        width, height = image.size
        header = ModelHeader(parameter, image.mode, width, height, model.number, model.sha256[:8], model.name)
        if width * height > most_pixels(len(payload)):
            raise TooFlat(f"image of {width} x {height} pixels with nothing in it: store it plain")
        return container.write(header, front + payload)

    if wish.bpp is not None:
        return _of_size(codec, pixels, wish.bpp * image.width * image.height / 8, wrapped, progress), True
    setting = -(-wish.quality * codec.qualities // 100)
    coded = codec.encode_photo(pixels, setting, progress=progress)
    assert coded.x_hat is not None
    known = psnr_db(_squared_error(coded.x_hat, pixels), pixels.size) >= codec.floor(setting)
    return wrapped(coded.payload, coded.parameter), known


def decode(
    header: ModelHeader, payload: bytes, model: Model, preview: bool = False, progress: Report = silent
) -> Image.Image:
    """The image of a file. preview: what can be seen from the start of its payload. Raises Corrupt, Truncated."""
    if header.mode not in MODES:
        raise Corrupt(f"mode {header.mode}: {model.name} takes {model.codec.takes}")
    metadata, alpha, begin = _read_front(header, payload)
    codec, size = _codec(model), (header.height, header.width)
    if header.width * header.height > most_pixels(len(payload) - begin):
        what = Truncated if preview else Corrupt
        raise what(f"payload: {len(payload) - begin} bytes cannot hold {header.width} x {header.height} pixels")
    told = payload[begin:], header.parameter & ~METADATA, *size
    pixels = codec.preview_photo(*told) if preview else codec.decode_photo(*told, progress)
    if header.mode in ("L", "LA"):
        pixels = ((pixels.sum(2, dtype=np.uint16) + 1) // 3).astype(np.uint8)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    image = Image.fromarray(np.ascontiguousarray(pixels))
    metadata.attach(image)
    return image


def most_pixels(payload_bytes: int) -> int:
    """Pixels that a photograph model's payload of so many bytes may have."""
    return FREE_PIXELS + PIXELS_PER_BYTE * payload_bytes


def may_be_smaller_plain(image: Image.Image, size: int) -> bool:
    """Whether a plain file may have no more bytes than `size`, as with drawings, screens and text.

    Plain files made in a hurry tell: a good one is at most _NEAR times smaller, or _FAR times where rows repeat."""
    samples = np.atleast_3d(np.asarray(image))
    quick = plain.quick_size(samples)
    return quick < _NEAR * size or (quick < _FAR * size and plain.repeats_size(samples) < _NEAR * size)


def _squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    """Of all samples of [H, W, 3], some rows at a time."""
    starts = range(0, len(a), _ROWS)
    return sum(int(((a[n : n + _ROWS].astype(np.int32) - b[n : n + _ROWS]) ** 2).sum()) for n in starts)


def _codec(model: Model) -> PhotoCodec:
    return cast(PhotoCodec, model.codec)


def _colours(image: Image.Image) -> NDArray[np.uint8]:
    """Colours uint8 [H, W, 3] without transparency."""
    return np.array(image.convert("RGB") if image.mode != "LA" else image.getchannel(0).convert("RGB"))


def _of_size(
    codec: PhotoCodec,
    pixels: NDArray[np.uint8],
    most: float,
    wrapped: Callable[[bytes, int], bytes],
    progress: Report,
) -> bytes:
    """The file of the best setting that has at most so many bytes, by bisection (sizes rise with it); of the smallest
    setting if none has."""
    tries = codec.qualities.bit_length() + 1

    @cache
    def file(setting: int) -> bytes:
        begin = file.cache_info().currsize / tries
        coded = codec.encode_photo(pixels, setting, render=False, progress=within(progress, begin, begin + 1 / tries))
        return wrapped(coded.payload, coded.parameter)

    low, high = 1, codec.qualities
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(file(middle)) <= most else (low, middle - 1)
    return file(low)


def _front(image: Image.Image, keep: bool) -> bytes:
    """What stands in front of the model's payload: metadata if kept, and transparency where the mode has it."""
    parts = [_deflated(*each) for each in vars(Metadata.of(image)).items()] if keep else []
    if image.mode in ("LA", "RGBA"):
        method, extra, payload = plain.encode(plain.from_pil(image.getchannel("A")))
        parts.append(bytes([method]) + leb128(len(extra)) + extra + payload)
    return b"".join(leb128(len(part)) + part for part in parts)


def _read_front(header: ModelHeader, payload: bytes) -> tuple[Metadata, NDArray[np.uint8] | None, int]:
    """Metadata, transparency uint8 [H, W], and where the model's payload begins."""
    place, metadata, alpha = 0, Metadata(), None
    if header.parameter & METADATA:
        icc_profile, place = _part(payload, place)
        exif, place = _part(payload, place)
        metadata = Metadata(_inflated(icc_profile), _inflated(exif))
    if header.mode in ("LA", "RGBA"):
        part, place = _part(payload, place)
        length, begin = read_leb128(part, 1)
        stored = part[0], part[begin : begin + length], part[begin + length :]
        alpha = plain.decode(*stored, header.width, header.height, "L", header.width * header.height).pixels
        alpha = alpha.reshape(header.height, header.width)
    return metadata, alpha, place


def _part(payload: bytes, place: int) -> tuple[bytes, int]:
    length, place = read_leb128(payload, place)
    if place + length > len(payload):
        raise Truncated(f"payload: expected {length} bytes at offset {place}, found {len(payload) - place}")
    return payload[place : place + length], place + length


def _deflated(name: str, part: bytes) -> bytes:
    if len(part) > METADATA_LIMIT:
        raise TooLarge(f"{name} of {len(part)} bytes, at most {METADATA_LIMIT} can be kept")
    return zlib.compress(part, 9)


def _inflated(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, METADATA_LIMIT)
    except zlib.error as error:
        raise Corrupt(f"payload: metadata: {error}") from error
    if not unpacker.eof:
        raise Corrupt(f"payload: metadata is cut, or has more than {METADATA_LIMIT} bytes")
    if unpacker.unused_data:
        raise Corrupt(f"payload: {len(unpacker.unused_data)} bytes follow the metadata")
    return found
