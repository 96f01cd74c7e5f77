"""Images in IDX, .npy and .npz files, plain or gzip: read as a stream, so that one image is held at a time."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ....bitstream.container import MAX_BYTES, MAX_PIXELS
from ....bitstream.errors import TooLarge, UnsupportedImage
from ...files import FileError
from ...idx import read_shape
from ...images import CHANNELS, advice
from .places import Place, Skip

NPY, ZIP, GZIP = b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b"
MAX_IMAGES = 1 << 24
"""Images that one source may state."""

_MAX_TURNED = 1 << 31  # bytes of an array in Fortran order, which has to be held whole
_MAX_RATIO = 1040  # deflate cannot make a file smaller than its 1032nd part
_IDX_TYPES = b"\x08\x09\x0b\x0c\x0d\x0e"
_NPY_HEADERS = {b"\1\0": (npy.read_array_header_1_0, 2), b"\2\0": (npy.read_array_header_2_0, 4)}
_MAX_NPY_HEADER = 10_000  # bytes; those of images have about a hundred
_LEAST_SIDE, _LONGEST, _DIGITS = 8, 2, 28  # see `_flattened`
_EXPECTED = "expected [N, H, W], [H, W], [N, 1, H, W], or uint8 [N, H, W, 1 to 4] or [N, 1 to 4, H, W]"
_TYPES = (np.uint8, np.bool_, np.uint16)
Images = Iterator[tuple[str, NDArray[Any]]]


@dataclass(frozen=True)
class Stack:
    """Images of one array. path: of the file, for messages; offset: where the pixels begin in the stream."""

    path: str
    count: int
    shape: tuple[int, ...]
    """Of one image: [H, W] or [H, W, 1 to 4]."""
    dtype: np.dtype[Any]
    turned: bool
    """Whether the array is in Fortran order."""
    single: bool
    """Whether the array is one image, not a list of them."""
    channels_first: bool = False
    """Whether the array is [N, C, H, W]."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * self.dtype.itemsize

    def name(self, number: int) -> str:
        """Zero-padded to the width of the count; empty for the only image of an array [H, W]."""
        return "" if self.single else f"{number:0{len(str(self.count))}}"

    def images(self, stream: BinaryIO) -> Images:
        """Names and images from a stream that stands at the first pixel. Raises UnsupportedImage if it ends early or
        late."""
        for number in range(self.count) if not self.turned else ():
            data = stream.read(self.image_bytes)
            if len(data) != self.image_bytes:
                raise UnsupportedImage(
                    f"{self.path}: the header promises {self.count} images, but the file ends inside image {number + 1}"
                )
            yield self.name(number), self._image(np.frombuffer(data, self.dtype))
        if self.turned:
            yield from self._turned(stream)
        if stream.read(1):
            raise UnsupportedImage(
                f"{self.path}: the header promises {self.count} images, but the file has bytes left over"
            )

    def _turned(self, stream: BinaryIO) -> Images:
        data = stream.read(self.count * self.image_bytes)
        if len(data) != self.count * self.image_bytes:
            raise UnsupportedImage(
                f"{self.path}: the header promises {self.count} images, but the file is too short for them"
            )
        shape = self._as_it_lies if self.single else (self.count, *self._as_it_lies)
        whole = np.frombuffer(data, self.dtype).reshape(shape[::-1]).T
        for number, image in enumerate(whole[None] if self.single else whole):
            yield self.name(number), self._image(image)

    @property
    def _as_it_lies(self) -> tuple[int, ...]:
        """Shape of one image in the file."""
        return (self.shape[2], *self.shape[:2]) if self.channels_first else self.shape

    def _image(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Channels last, without an axis of length 1 for them, contiguous, in this machine's byte order."""
        array = samples.reshape(self._as_it_lies)
        array = np.moveaxis(array, 0, 2) if self.channels_first else array
        plane = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
        return np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays whose headers were read. members: label of each array ("" for the only one) and its Stack."""

    place: Place
    members: dict[str, Stack]
    open_member: Callable[[BinaryIO, str], BinaryIO]
    """The stream of a member, at its beginning, from the file's."""

    @property
    def total(self) -> int:
        """How many images there are."""
        return sum(stack.count for stack in self.members.values())

    def images(self) -> Images:
        """Images by name: NUMBER, MEMBER/NUMBER in a .npz, and "" or MEMBER for an array of one image.

        Raises FileError and UnsupportedImage for a damaged file."""
        with reading(str(self.place)), self.place.open() as file:
            for label, stack in self.members.items():
                with self.open_member(file, label) as stream:
                    _header(stream)
                    for name, image in stack.images(stream):
                        yield "/".join(filter(None, (label, name))), image


def array_file(place: Place, skip: Skip, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> ArrayFile | None:
    """The arrays in a file, None if it is no IDX, .npy or .npz file (by its first bytes, not its name).

    skip: told of members of a .npz that are no arrays. Raises UnsupportedImage for arrays that are no images (see
    `_stack`), TooLarge for more than max_pixels, max_bytes or MAX_IMAGES, FileError for a damaged or hostile file."""
    with reading(str(place)), place.open() as file:
        start = file.read(len(NPY))
        file.seek(0)
        if start.startswith(ZIP):
            return _zip_file(place, file, skip, max_pixels, max_bytes)
        unpack, most = (_gunzipped, _MAX_RATIO * place.size()) if start.startswith(GZIP) else (_as_it_is, place.size())
        with unpack(file, "") as stream:
            if not _is_array(stream.read(len(NPY))):
                return None
            stack = _stack(str(place), stream, most, max_pixels, max_bytes)
    return ArrayFile(place, {"": stack}, unpack)


def _is_array(start: bytes) -> bool:
    return start == NPY or (start[:2] == b"\0\0" and start[2:3] in _IDX_TYPES and start[3:4] in b"\1\2\3\4")


def _as_it_is(file: BinaryIO, label: str) -> BinaryIO:
    return file


def _gunzipped(file: BinaryIO, label: str) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _unzipped(file: BinaryIO, label: str) -> BinaryIO:
    return cast(BinaryIO, zipfile.ZipFile(file).open(f"{label}.npy"))


def _zip_file(place: Place, file: BinaryIO, skip: Skip, max_pixels: int, max_bytes: int) -> ArrayFile:
    members: dict[str, Stack] = {}
    left_out: list[tuple[str, str]] = []
    with zipfile.ZipFile(file) as archive:
        for info in _checked_members(place, archive.infolist()):
            label = info.filename.removesuffix(".npy")
            if label == info.filename:
                left_out.append((info.filename, "no array"))
                continue
            with archive.open(info) as stream:
                found = cast(BinaryIO, stream)
                try:
                    members[label] = _stack(f"{place}/{label}", found, info.file_size, max_pixels, max_bytes)
                except (UnsupportedImage, ValueError) as error:  # ValueError: a header that NumPy cannot read
                    left_out.append((label, str(error)))
    for label in _labels(members):
        rows = members.pop(label).shape[0]
        left_out.append((label, f"has as many rows as there are images ({rows}): labels, no image"))
    if not members:
        reasons = "; ".join(reason for name, reason in left_out if reason != "no array")
        raise UnsupportedImage(reasons or f"{place}: a zip file without arrays (.npy) in it")
    for name, reason in left_out:
        skip(f"{place}/{name}", reason)
    return ArrayFile(place, members, _unzipped)


def _labels(members: dict[str, Stack]) -> list[str]:
    """Names of the arrays of two axes with a row for each image of another array, and not of its images' size."""
    stacks = [stack for stack in members.values() if not stack.single]
    single = {label: stack.shape for label, stack in members.items() if stack.single}
    return [
        label
        for label, shape in single.items()
        if any(stack.count == shape[0] for stack in stacks) and all(stack.shape[:2] != shape for stack in stacks)
    ]


def _checked_members(place: Place, infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The same, if they are what NumPy writes. Raises FileError for a zip file that expands without measure."""
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise FileError(f"{place}: a zip file with two members of one name")
    if any(
        info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos
    ):
        raise FileError(f"{place}: a zip file that NumPy did not write (encrypted or another compression)")
    size = place.size()  # members that overlap, and sizes that deflate cannot reach, are how small files expand to huge
    if sum(info.compress_size for info in infos) > size or sum(info.file_size for info in infos) > _MAX_RATIO * size:
        raise FileError(f"{place}: its members state more bytes than a file of {size} bytes can hold")
    return infos


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type; the stream then stands at the first pixel. Raises ValueError."""
    stream.seek(0)
    if stream.read(len(NPY)) != NPY:
        stream.seek(0)
        return read_shape(stream.read, limit=1 << 62), False, np.dtype(np.uint8)
    version = stream.read(2)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version.hex('.')} of .npy, expected 01.00 or 02.00")
    parse, size = _NPY_HEADERS[version]
    length = stream.read(size)
    count = int.from_bytes(length, "little")
    if count > _MAX_NPY_HEADER:
        raise ValueError(f"a header of {count} bytes, expected at most {_MAX_NPY_HEADER}")
    try:
        return parse(io.BytesIO(length + stream.read(count)))
    except ValueError:
        raise
    except Exception as error:  # NumPy's parser of Python literals: TokenError, RecursionError, MemoryError, ...
        raise ValueError(f"a header that NumPy cannot read: {type(error).__name__}") from error


def _stack(path: str, stream: BinaryIO, most: int, max_pixels: int, max_bytes: int) -> Stack:
    """The images in an array: uint8, bool or uint16 [H, W], [N, H, W] or [N, 1, H, W], uint8 [N, H, W, 1 to 4], and
    [N, 2 to 4, H, W] where W is more.

    most: bytes that the stream can hold. Raises UnsupportedImage for any other."""
    shape, turned, dtype = _header(stream)
    told = f"{path}: array of shape {list(shape)} and type {dtype}"
    if dtype.newbyteorder("=") not in _TYPES:
        raise UnsupportedImage(f"{told}: expected uint8 (0..255), bool or uint16{advice(dtype)}")
    _check_shape(told, shape)
    single = len(shape) == 2
    first = len(shape) == 4 and shape[1] <= CHANNELS < shape[3]
    one = shape if single else (*shape[2:], shape[1]) if first else shape[1:]
    if len(one) == 3 and one[2] not in ((1, 2, 3, 4) if dtype == np.uint8 else (1,)):
        raise UnsupportedImage(f"{told}: {_EXPECTED}")
    stack = Stack(path, 1 if single else shape[0], one, dtype, turned, single, first)
    _check_size(stack, told, most - stream.tell(), max_pixels, max_bytes)
    return stack


def _check_shape(told: str, shape: tuple[int, ...]) -> None:
    """Raises UnsupportedImage for shapes that are no images, or may mean several things."""
    if not 2 <= len(shape) <= 4:
        raise UnsupportedImage(f"{told}: {_EXPECTED}")
    if min(shape) < 1:
        raise UnsupportedImage(f"{told} holds no images")
    if len(shape) == 3 and shape[2] <= CHANNELS:
        raise UnsupportedImage(f"{told} may be one image or many: save it as [1, H, W, channels] or [N, H, W, 1]")
    if len(shape) == 2 and (image := _flattened(*shape)):
        raise UnsupportedImage(
            f"{told} looks like images as rows of numbers: reshape it to {[shape[0], *image]}, or to "
            f"{[1, *shape, 1]} if it is one image"
        )


def _flattened(rows: int, width: int) -> tuple[int, ...] | None:
    """Shape of the images that the rows of an array may be: squares of S x S pixels, grey or of three colours.

    None if the array may well be one image: it is a square, or S is less than 8, or S is no multiple of 28, as digits
    have, and neither side is more than twice the other."""
    for colours in (1, 3):
        side = math.isqrt(width // colours)
        if side >= _LEAST_SIDE and colours * side * side == width and rows != width:
            usual = max(rows, width) <= _LONGEST * min(rows, width) and side % _DIGITS
            return None if usual else (side, side) if colours == 1 else (side, side, 3)
    return None


def _check_size(stack: Stack, told: str, most: int, max_pixels: int, max_bytes: int) -> None:
    if stack.count > MAX_IMAGES or math.prod(stack.shape[:2]) > max_pixels:
        raise TooLarge(f"{told}: at most {MAX_IMAGES} images of {max_pixels} pixels can be read")
    if stack.image_bytes > max_bytes:
        raise TooLarge(f"{told}: images of at most {max_bytes} bytes can be read")
    if stack.count * stack.image_bytes > most:
        raise UnsupportedImage(f"{told}: the file has fewer bytes")
    if stack.turned and stack.count * stack.image_bytes > _MAX_TURNED:
        raise TooLarge(f"{told} is in Fortran order and too large to reorder; save it with np.ascontiguousarray")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what libraries raise for damaged files into FileError and UnsupportedImage with the file's name."""
    try:
        yield
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise UnsupportedImage(f"{path}: {error}") from error
