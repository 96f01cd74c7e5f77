"""Classical codecs behind the same two functions as ours: grey images to whole files in memory and back."""

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
    """A codec. encode(image uint8 [H, W], quality) gives a file, decode the image back.

    qualities: of a rate-distortion curve, worst first; (None,) for lossless codecs, which have no quality."""

    name: str
    qualities: tuple[int | None, ...]
    encode: Callable[[Images, int | None], bytes]
    decode: Callable[[bytes], Images]


def peers() -> dict[str, Peer]:
    """The codecs that this machine has, by name: JPEG XL comes with imagecodecs, AVIF with some builds of Pillow."""
    lossy: tuple[int | None, ...] = (1, 5, 10, 20, 35, 50, 65, 80, 90)
    found = [
        Peer("PNG", (None,), partial(_save, "PNG", {"optimize": True}), _open),
        Peer("WebP lossless", (None,), partial(_save, "WEBP", {"lossless": True, "quality": 100, "method": 6}), _open),
        Peer("WebP", lossy, partial(_save, "WEBP", {"method": 6}), _open),
        Peer("JPEG", lossy, partial(_save, "JPEG", {"optimize": True}), _open),
    ]
    if features.check("avif"):
        found.append(Peer("AVIF", lossy, partial(_save, "AVIF", {"subsampling": "4:0:0"}), _open))
    if jpegxl := _jpegxl():
        found.append(jpegxl)
    return {peer.name: peer for peer in found}


def _jpegxl() -> Peer | None:
    try:
        import imagecodecs
    except ImportError:
        return None
    if not imagecodecs.JPEGXL.available:
        return None
    return Peer("JPEG XL", (1, 10, 30, 50, 70, 80, 90), partial(_encode_jpegxl, imagecodecs), imagecodecs.jpegxl_decode)


def _encode_jpegxl(imagecodecs: Any, image: Images, quality: int | None) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(image, level=quality, effort=7))


def _save(kind: str, options: dict[str, Any], image: Images, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({} if quality is None else {"quality": quality}), **options)
    return buffer.getvalue()


def _open(data: bytes) -> Images:
    """Grey pixels; codecs without a grey mode give back three channels."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))
