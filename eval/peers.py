"""Classical codecs behind the same two functions as ours: grey images to whole files in memory and back.

Those of photographs: `photo_peers`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, features

from .metrics import Images


@dataclass(frozen=True)
class Peer:
    """A codec. encode(image uint8 [H, W] or [H, W, 3], quality) gives a file, decode the image back.

    qualities: of a rate-distortion curve, worst first; (None,) for lossless codecs, which have no quality."""

    name: str
    qualities: tuple[int | None, ...]
    encode: Callable[[Images, int | None], bytes]
    decode: Callable[[bytes], Images]


_LOSSY = (1, 5, 10, 20, 35, 50, 65, 80, 90, 95, 98, 100)  # qualities


def peers() -> dict[str, Peer]:
    """The codecs that this machine has, by name: JPEG XL comes with imagecodecs, AVIF with some builds of Pillow."""
    found = [
        *lossless_peers(binary=False),
        Peer("WebP", _LOSSY, partial(_save, "WEBP", {"method": 6}), _open),
        Peer("JPEG", _LOSSY, partial(_save, "JPEG", {"optimize": True}), _open),
    ]
    if features.check("avif"):
        found.append(Peer("AVIF", _LOSSY, partial(_save, "AVIF", {"subsampling": "4:0:0"}), _open))
    if library := jpegxl():
        qualities = (1, 10, 30, 50, 70, 80, 90, 95, 98, 99)
        found.append(Peer("JPEG XL", qualities, partial(_encode_jpegxl, library), library.jpegxl_decode))
    return {peer.name: peer for peer in found}


def lossless_peers(binary: bool) -> list[Peer]:
    """The lossless codecs that this machine has, at their smallest. binary: for pixels 0 and 255 only, of one bit."""
    save = _save_binary if binary else _save
    found = [
        Peer("PNG", (None,), partial(save, "PNG", {"optimize": True}), _open),
        Peer("WebP lossless", (None,), partial(_save, "WEBP", {"lossless": True, "quality": 100, "method": 6}), _open),
    ]
    if binary and features.check("libtiff"):
        found.append(Peer("TIFF G4", (None,), partial(_save_binary, "TIFF", {"compression": "group4"}), _open))
    if library := jpegxl():
        encode, decode = partial(_encode_jpegxl_lossless, library, binary), partial(_decode_jpegxl, library, binary)
        found.append(Peer("JPEG XL lossless", (None,), encode, decode))
    return found


def jpegxl() -> Any | None:
    """imagecodecs, if it is there with JPEG XL."""
    try:
        import imagecodecs
    except ImportError:
        return None
    return imagecodecs if imagecodecs.JPEGXL.available else None


def _encode_jpegxl(imagecodecs: Any, image: Images, quality: int | None) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(image, level=quality, effort=9))


def _encode_jpegxl_lossless(imagecodecs: Any, binary: bool, image: Images, _: int | None) -> bytes:
    levels, bits = (image // 255, 1) if binary else (image, 8)
    return bytes(imagecodecs.jpegxl_encode(levels, lossless=True, effort=10, bitspersample=bits))


def _decode_jpegxl(imagecodecs: Any, binary: bool, data: bytes) -> Images:
    levels: Images = imagecodecs.jpegxl_decode(data)
    return levels * np.uint8(255) if binary else levels


def _save_binary(kind: str, options: dict[str, Any], image: Images, _: int | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image > 0).save(buffer, kind, **options)
    return buffer.getvalue()


def _save(kind: str, options: dict[str, Any], image: Images, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({} if quality is None else {"quality": quality}), **options)
    return buffer.getvalue()


def _open(data: bytes) -> Images:
    """Grey pixels; codecs without a grey mode give back three channels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))
