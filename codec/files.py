"""Images and vqcodec files on disk: what `compress` and `decompress` do. Output appears whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from ..bitstream.container import MAX_BYTES, MAX_PIXELS
from ..bitstream.errors import BitstreamError, UnsupportedImage
from ..bitstream.errors import FileError as FileError
from . import api
from .opening import Source as Source
from .opening import image_of as image_of

SUFFIX = ".vqc"
_MAX_FILE = 1 << 31  # bytes read of any input
SAVE_FORMATS = {".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".webp": "WEBP"}
"""Formats besides PNG that images are written to, all lossless, by suffix."""


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises FileError."""
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder, expected a file")
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is no regular file")
        if path.stat().st_size > _MAX_FILE:
            raise FileError(f"{path} has more than {_MAX_FILE} bytes")
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def read_image(path: Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Source:
    """An image file of one of `opening.FORMATS`. Raises FileError, UnsupportedImage or TooLarge."""
    return image_of(str(path), read_bytes(path), max_pixels, max_bytes)


def compress(
    source: Path,
    model: str = "auto",
    lossless: bool = False,
    quality: int | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
    bpp: float | None = None,
    metadata: bool = False,
    max_bytes: int = MAX_BYTES,
) -> tuple[bytes, Source]:
    """The vqcodec file of an image file. PNG files keep everything PNG can hold, 16-bit colour included.

    Other arguments as for `api.encode_batch`."""
    image = read_image(source, max_pixels, max_bytes)
    blobs = api.encode_sources([image], model, lossless, quality, device, bpp=bpp, metadata=metadata)
    return blobs[0], image


def image_bytes(
    blob: bytes,
    target: Path,
    model: str | None,
    device: str,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """Content of the image file `target` for a vqcodec file: PNG, or what the suffix names of the lossless formats."""
    if _format_of(target) == "PNG":
        return api.decode_to_png(blob, model, device, max_pixels, max_bytes=max_bytes)
    return saved(api.decode(blob, "pil", model, device, max_pixels, max_bytes=max_bytes), target)


def preview_bytes(
    blob: bytes,
    target: Path,
    model: str | None,
    device: str,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> tuple[bytes, bool]:
    """The same for the preview of a file that may have been cut, and whether all of it was there."""
    image, whole = api.preview(blob, "pil", model, device, max_pixels, max_bytes=max_bytes)
    return saved(image, target), whole


def _format_of(target: Path) -> str:
    suffix = target.suffix.lower()
    if suffix not in (*SAVE_FORMATS, ".png", ""):
        raise FileError(f"{target}: can write .png, {', '.join(SAVE_FORMATS)}")
    return SAVE_FORMATS.get(suffix, "PNG")


def saved(image: Image.Image, target: Path) -> bytes:
    """Content of the image file `target`. Raises FileError for a mode that its format cannot hold."""
    kind, buffer = _format_of(target), io.BytesIO()
    if kind == "WEBP" and image.mode == "I;16":  # Pillow would write eight bits of it
        raise FileError(f"{target}: this format cannot hold mode I;16; use .png")
    if kind in ("BMP", "PPM") and image.mode == "RGBA":  # Pillow would leave transparency out
        raise FileError(f"{target}: this format cannot hold mode RGBA; use .png")
    try:
        image.save(buffer, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    except (OSError, ValueError) as error:
        raise FileError(f"{target}: this format cannot hold mode {image.mode}: {error}; use .png") from error
    return buffer.getvalue()


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name in front of the message of a BitstreamError or UnsupportedImage from inside."""
    try:
        yield
    except (BitstreamError, UnsupportedImage) as error:
        raise error if os.fspath(path) in str(error) else type(error)(f"{os.fspath(path)}: {error}") from error


def check_target(target: Path, force: bool, source: Path | None = None) -> None:
    """Raises FileError if the file may not be written.

    So it is if it is the source, exists (unless `force`), is no regular file, or its folder is missing or read-only."""
    try:
        if target.is_dir():
            raise FileError(f"{target} is a folder, expected the name of a file to write")
        if not target.parent.is_dir():
            raise FileError(f"cannot write {target}: no folder {target.parent}")
        if target.exists() and source is not None and target.samefile(source):
            raise FileError(f"{target} is the input; name another output")
        if target.exists() and not target.is_file():
            raise FileError(f"{target} is no regular file")
        if target.exists() and not force:
            raise FileError(f"{target} exists; use --force to overwrite it")
        if not os.access(os.path.dirname(os.path.realpath(target)), os.W_OK):
            raise FileError(f"cannot write {target}: no permission to write to its folder")
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error


def write_bytes(target: Path, data: bytes, force: bool = False) -> None:
    """Write a file under a temporary name, then rename it: it appears whole or not at all. Raises FileError."""
    check_target(target, force)
    real = Path(os.path.realpath(target))  # a link stays a link
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".vqcodec-", dir=real.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        mode = real.stat().st_mode if real.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode & 0o7777)
        os.replace(temporary, real)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error


def _umask() -> int:
    """The process's file mode mask (there is no way to read it without setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
