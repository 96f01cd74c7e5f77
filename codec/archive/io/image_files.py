"""Decoded images as files of the formats that their names ask for, where those keep every pixel."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ....bitstream.errors import UnsupportedImage
from ... import files
from ...files import FileError
from ...strict_pillow import strict_pillow
from .array_sink import Stored

_FORMATS = {
    ".bw": "SGI", ".dds": "DDS", ".dib": "DIB", ".gif": "GIF", ".im": "IM", ".j2k": "JPEG2000", ".jp2": "JPEG2000",
    ".msp": "MSP", ".pbm": "PPM", ".pcx": "PCX", ".pgm": "PPM", ".pnm": "PPM", ".qoi": "QOI", ".rgb": "SGI",
    ".rgba": "SGI", ".sgi": "SGI", ".tga": "TGA",
}  # fmt: skip
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def saved_as(suffix: str, stored: Stored) -> bytes | None:
    """The image in the format of a suffix; None if that is not written here or would lose something of it."""
    kind = files.SAVE_FORMATS.get(suffix) or _FORMATS.get(suffix)
    if kind is None:
        return None
    if kind not in Image.OPEN:
        Image.init()
    try:
        image = stored.pil()
    except UnsupportedImage:  # 16-bit colour, which PNG holds
        return None
    data = _saved(image, kind, suffix)
    return data if data is not None and _is_same(image, data, kind, suffix in files.SAVE_FORMATS) else None


def _saved(image: Image.Image, kind: str, suffix: str) -> bytes | None:
    if suffix in files.SAVE_FORMATS:
        with suppress(FileError, UnsupportedImage):
            return files.saved(image, Path(f"image{suffix}"))
        return None
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind)
    except Exception:  # Pillow's writers raise what they like for modes that their format lacks
        return None
    return buffer.getvalue()


def _is_same(image: Image.Image, data: bytes, kind: str, any_mode: bool) -> bool:
    """Whether a file holds just the pixels. any_mode: grey may come back as colour with three equal channels."""
    try:
        with strict_pillow(image.width * image.height):
            found = Image.OPEN[kind][0](io.BytesIO(data), "")
            found.load()
    except Exception:  # so do its readers
        return False
    if found.size != image.size:
        return False
    same = found.mode == image.mode and found.tobytes() == image.tobytes()
    if image.mode not in _EIGHT_BITS or found.mode not in _EIGHT_BITS:
        return same
    return (same or any_mode) and found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
