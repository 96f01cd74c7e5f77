"""What the public functions take: images and files in every form, and other arguments, checked before any work."""

from __future__ import annotations

import io
import operator
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..bitstream.container import MAX_BYTES, MAX_PIXELS
from ..bitstream.errors import BadArgument, FileError, TooLarge, UnsupportedImage
from .images import CHANNELS, OUTPUTS, Output, array_of, channels_last, to_pil
from .opening import Source, check_size, image_of

AnyFile = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""A vqcodec file: its bytes, its path, or a file object."""

_MAX_FILE = 1 << 31  # bytes read of a file object
_READ = 1 << 20
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")


def source_of(image: Any, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Source:
    """An image in any form: a Pillow image, an array or tensor (`images.to_pil` says which), or an image file: its
    path, its bytes, or a binary file object, which is read from its position on and stays open.

    Raises UnsupportedImage, TooLarge, FileError."""
    if _is_path(image):
        from .files import read_image  # which takes what the public functions give

        return read_image(_path(image), max_pixels, max_bytes)
    if isinstance(image, np.ndarray) and image.size > CHANNELS * max_pixels:  # a view may have more than memory
        raise TooLarge(f"array of shape {list(image.shape)}: expected at most {max_pixels} pixels")
    if not isinstance(image, Image.Image) and not hasattr(image, "__array__") and (data := _bytes(image)) is not None:
        return image_of("the data", data, max_pixels, max_bytes)
    try:
        if isinstance(image, Image.Image):
            check_size(image, max_pixels, max_bytes)  # before its pixels are read
        picture = to_pil(image)
        check_size(picture, max_pixels, max_bytes)
        return Source(picture, None, 0)
    except UnsupportedImage as error:
        if isinstance(image, Image.Image) or hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
            raise
        raise UnsupportedImage(
            f"{type(image).__name__}: expected a Pillow image, an array, a tensor, or an image file: its path, bytes, "
            "or a binary file object"
        ) from error


def sources_of(images: Any, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> list[Source]:
    """The images of an iterable, or of one array [N, H, W], [N, H, W, C], or [N, C, H, W] where it can mean nothing
    else. Raises BadArgument for one image in place of several, else as `source_of`."""
    single = _is_path(images) or isinstance(images, Image.Image) or hasattr(images, "read")
    if single or isinstance(images, bytes | bytearray | memoryview) or not isinstance(images, Iterable):
        raise BadArgument(f"images: expected a list of images, or an array [N, H, W], found {type(images).__name__}")
    if isinstance(images, np.ndarray) or hasattr(images, "detach"):
        images = array_of(images)
        if images.ndim < 3:
            raise BadArgument(f"images: expected an array [N, H, W], found shape {list(images.shape)}: reshape it")
        images = channels_last(images) if images.ndim == 4 else images
    return [source_of(image, max_pixels, max_bytes) for image in images]


def blob_of(file: Any) -> bytes:
    """The bytes of a vqcodec file: given as any bytes-like object, as a path, or as a binary file object, which is read
    from its position on and stays open. Raises BadArgument, FileError."""
    if isinstance(file, bytes):
        return file
    if _is_path(file):
        from .files import read_bytes

        return read_bytes(_path(file))
    data = None if isinstance(file, Image.Image) else _bytes(file)
    if data is None:
        raise BadArgument(
            f"expected a vqcodec file as bytes, a path or a binary file object, found {type(file).__name__}"
        )
    return data


def blobs_of(files: Any) -> list[bytes]:
    """The bytes of several vqcodec files. Raises BadArgument for one in place of several, else as `blob_of`."""
    single = _is_path(files) or hasattr(files, "read") or isinstance(files, bytes | bytearray | memoryview)
    if single or not isinstance(files, Iterable):
        raise BadArgument(f"expected a list of vqcodec files, found {type(files).__name__}")
    return [blob_of(file) for file in files]


def _is_path(thing: Any) -> bool:
    return isinstance(thing, str | os.PathLike)


def _path(path: Any) -> Path:
    return Path(checked_path(path))


def checked_path(path: str | os.PathLike[str]) -> str:
    """A path as text. Raises FileError for one that no file can have."""
    text = os.fsdecode(path)
    if "\0" in text:
        raise FileError(f"cannot read {text!r}: a path without null characters is expected")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:  # lone surrogates
        raise FileError(f"cannot read {text!r}: no file can have this path: {error.reason}") from error
    return text


def _bytes(thing: Any) -> bytes | None:
    """What a bytes-like object or a binary file object holds; None for anything else. Raises FileError, BadArgument."""
    if callable(getattr(thing, "read", None)):
        return _read(thing)
    try:
        view = memoryview(thing)
    except (TypeError, ValueError, BufferError):  # no buffer, or one that was released
        return None
    with view:
        return view.tobytes()


def _read(stream: Any) -> bytes:
    """The rest of a file object."""
    parts: list[bytes] = []
    size = 0
    try:
        while part := stream.read(_READ):
            if not isinstance(part, bytes | bytearray | memoryview):
                raise BadArgument(f"the file object gives {type(part).__name__}: open the file in binary mode")
            parts.append(bytes(part))
            size += len(part)
            if size > _MAX_FILE:
                raise FileError(f"the file object is too large: the limit is {_MAX_FILE} bytes")
    except BadArgument:
        raise
    except (OSError, ValueError, TypeError) as error:  # ValueError: it is closed, or gives text that is no UTF-8
        raise FileError(f"cannot read the file object: {error}") from error
    if part is None:
        raise FileError("cannot read the file object: it does not block, and has no bytes yet")
    if isinstance(part, str):
        raise BadArgument("the file object gives text: open the file in binary mode")
    return b"".join(parts)


def checked_device(device: Any) -> str:
    """A device of torch by its name. Raises BadArgument if it is none, or is not there; torch is loaded only for others
    than the CPU."""
    name = str(device) if type(device).__module__ == "torch" else device
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise BadArgument(f"device {device!r} cannot be used: expected 'cpu', 'cuda', 'cuda:1', 'mps' or 'xpu'")
    if name != "cpu" and (reason := _missing(name)):
        raise BadArgument(f"device {name!r} cannot be used: {reason}; 'cpu' always can")
    return name


@lru_cache
def _missing(device: str) -> str:
    """Why a device cannot be used; empty if it can."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return ""


def checked_output(output: Any) -> Output:
    """The form of decoded images. Raises BadArgument."""
    if not isinstance(output, str) or output not in OUTPUTS:
        raise BadArgument(f"output must be 'pil', 'numpy' or 'torch', found {output!r}")
    return output


def checked_model(model: Any) -> str:
    """A model's name or path. Raises BadArgument."""
    if not _is_path(model):
        raise BadArgument(f"model {model!r}: expected 'auto', 'plain', a model's name, or the path of a weights file")
    return os.fsdecode(model)


def checked_weights(model: Any) -> str | None:
    """A model for decoding. Raises BadArgument."""
    if model is not None and not _is_path(model):
        raise BadArgument(f"model {model!r}: expected None, a model's name, or the path of a weights file")
    return None if model is None else os.fsdecode(model)


def checked_quality(quality: Any) -> int | None:
    """A quality of 1..100. Raises BadArgument."""
    if quality is None:
        return None
    try:
        value = None if isinstance(quality, bool | np.bool_) else operator.index(quality)
    except TypeError:
        value = None
    if value is None or not 1 <= value <= 100:
        raise BadArgument(f"quality must be a whole number in 1..100, found {quality!r}")
    return value


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number, as max_pixels is. Raises BadArgument."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise BadArgument(f"{name} must be a whole number of at least {least}, found {value!r}")
    return number


def checked_flag(name: str, value: Any) -> bool:
    """True or False. Raises BadArgument."""
    if not isinstance(value, bool | np.bool_):
        raise BadArgument(f"{name} must be True or False, found {value!r}")
    return bool(value)


def check_callable(name: str, value: Any) -> None:
    """Raises BadArgument."""
    if not callable(value):
        raise BadArgument(f"{name} must be a function, found {value!r}")


def stream_of(source: Any) -> Any:
    """A source that is not a path as a binary stream that can seek. Raises BadArgument, FileError."""
    if all(callable(getattr(source, name, None)) for name in ("read", "seek", "tell")) and not _is_mapped(source):
        try:
            if isinstance(source.read(0), bytes):
                return source
        except (OSError, ValueError) as error:
            raise FileError(f"cannot read the archive: {getattr(error, 'strerror', None) or error}") from error
        raise BadArgument("the file object gives text: open the file in binary mode")
    data = None if isinstance(source, Image.Image) else _bytes(source)
    if data is None:
        raise BadArgument(
            f"expected an archive as a path, a URL, bytes or a file object that can seek, found {type(source).__name__}"
        )
    return io.BytesIO(data)


def _is_mapped(source: Any) -> bool:
    """Whether it is memory with the methods of a file, not all of whose results are those of a file."""
    try:
        memoryview(source).release()
    except TypeError:
        return False
    return True
