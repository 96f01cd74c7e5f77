"""Classical codecs of photographs behind the same two functions as ours: colour images to whole files and back.

At settings that one would use: slow enough to be at their best or close to it, encoding in one thread, JPEG and AVIF
with colour at half resolution (4:2:0). On Kodak's suite 4:4:4 takes 9 % more bits at equal PSNR (BD-rate) with JPEG,
and 0.2 % more with AVIF (at speed 8). Qualities cover 0.1 to 2 bits per pixel of ordinary photographs."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, features

from .metrics import Images
from .peers import Peer, jpegxl

_JPEG = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
_AVIF = {"subsampling": "4:2:0", "speed": 4, "max_threads": 1}


def photo_peers() -> dict[str, Peer]:
    """The codecs that this machine has, by name: JPEG XL comes with imagecodecs, AVIF with some builds of Pillow."""
    found = [
        Peer("JPEG", (3, 5, 10, 20, 35, 55, 75, 85, 90), partial(_save, "JPEG", _JPEG), _open),
        Peer("WebP", (1, 5, 15, 30, 50, 70, 80, 87, 92), partial(_save, "WEBP", {"method": 6}), _open),
    ]
    if features.check("avif"):
        found.append(Peer("AVIF", (8, 16, 25, 35, 45, 55, 65, 75, 85), partial(_save, "AVIF", _AVIF), _open))
    if library := jpegxl():
        encode, decode = partial(_encode_jpegxl, library), partial(library.jpegxl_decode, numthreads=1)
        found.append(Peer("JPEG XL", (5, 15, 25, 40, 55, 70, 80, 88, 93), encode, decode))
    return {peer.name: peer for peer in found}


def lossless_photo_peers() -> list[Peer]:
    """The lossless codecs that this machine has, at the effort of their defaults: their best takes minutes."""
    found = [
        Peer("PNG", (None,), partial(_save, "PNG", {"optimize": True}), _open),
        Peer("WebP lossless", (None,), partial(_save, "WEBP", {"lossless": True}), _open),
    ]
    if library := jpegxl():
        encode, decode = partial(_encode_jpegxl, library), partial(library.jpegxl_decode, numthreads=1)
        found.append(Peer("JPEG XL lossless", (None,), encode, decode))
    return found


def jpegxl_distance(quality: int) -> float:
    """Butteraugli distance of a quality of 0..99, as cjxl takes it: 25 to 0.19.

    `JxlEncoderDistanceFromQuality` of libjxl 0.11, lib/jxl/encode.cc."""
    return 0.1 + (100 - quality) * 0.09 if quality >= 30 else 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def _encode_jpegxl(imagecodecs: Any, image: Images, quality: int | None) -> bytes:
    kept: dict[str, Any] = {"lossless": True} if quality is None else {"distance": jpegxl_distance(quality)}
    return bytes(imagecodecs.jpegxl_encode(image, effort=7, numthreads=1, **kept))


def _save(kind: str, options: dict[str, Any], image: Images, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **({} if quality is None else {"quality": quality}), **options)
    return buffer.getvalue()


def _open(data: bytes) -> Images:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
