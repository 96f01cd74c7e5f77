"""Unpacking to one file of arrays: .npy, .npz or IDX."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, Literal, Protocol, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from ....bitstream.archive_names import stored_name
from ....bitstream.errors import UnsupportedImage
from ... import idx
from ...files import FileError
from ...images import from_pil
from ...whole import TEMPORARY
from .outputs import whole_file
from .places import Local, Place

Format = Literal["npy", "npz", "idx"]
_SUFFIXES: dict[str, Format] = {".npy": "npy", ".npz": "npz", ".idx": "idx", "-ubyte": "idx"}


class Stored(Protocol):
    """An image from an archive, however it was stored."""

    @property
    def original(self) -> bytes | None:
        """The bytes of the image file that it came from, where those were kept."""

    def pil(self) -> Image.Image:
        """As Pillow holds it. Raises UnsupportedImage."""

    def png(self) -> bytes:
        """As a PNG file."""


Put = Callable[[int, str, Stored], None]
"""Takes an image, by its number and name in the archive; in any order."""


def format_of(name: str) -> Format | None:
    """The format of a file of arrays of this name; None for any other name."""
    return next((kind for suffix, kind in _SUFFIXES.items() if name.lower().endswith(suffix)), None)


@contextmanager
def array_file(
    place: Place, kind: Format, numbers: Iterable[int], name_of: Callable[[int], str], force: bool
) -> Iterator[Put]:
    """Takes images of one shape and type, and writes them as an array [N, H, W] or [N, H, W, C] in ascending order.

    In a .npz, images whose names have a folder (train/00000) are an array of its name, the others one named "images".
    Pixels go to nameless temporary files first, since they come in any order, and some may never come."""
    with ExitStack() as temporaries:
        arrays = _Arrays(place, kind, numbers, name_of, temporaries)
        yield arrays.put
        with whole_file(place, force) as stream:
            arrays.write(stream)


class _Arrays:
    """The arrays of a file by name, "" for the only one of a .npy or IDX file."""

    def __init__(
        self, place: Place, kind: Format, numbers: Iterable[int], name_of: Callable[[int], str], temporaries: ExitStack
    ):
        self._place, self._kind, self._temporaries = place, kind, temporaries
        self._positions: dict[int, int] = {}
        counts: dict[str, int] = {}
        for number in numbers:
            member = self._member(name_of(number))
            self._positions[number] = counts.get(member, 0)
            counts[member] = counts.get(member, 0) + 1
        self._stacks: dict[str, _Stack | None] = dict.fromkeys(counts)

    def put(self, number: int, name: str, stored: Stored) -> None:
        """An image. Raises UnsupportedImage if it differs from those before in shape or type, FileError."""
        member = self._member(name)
        image = from_pil(stored.pil(), "numpy")
        if image.dtype == np.bool_:
            image = image.view(np.uint8) != 0  # Pillow's true is 255, NumPy's 1
        if self._kind == "idx" and image.dtype != np.uint8:
            raise UnsupportedImage(f"{name}: IDX files hold 8-bit pixels, found {image.dtype}; use .npy")
        try:
            stack = self._stacks[member] or _Stack(name, image, self._temporary())
            self._stacks[member] = stack
            stack.put(self._positions[number], name, image)
        except OSError as error:
            raise FileError(f"cannot write {self._place}: {error.strerror or error}") from error

    def write(self, stream: BinaryIO) -> None:
        """The whole file. Raises UnsupportedImage if no image came."""
        stacks = {member: stack for member, stack in self._stacks.items() if stack}
        if not stacks:
            raise UnsupportedImage(f"{self._place}: no images to write")
        if self._kind == "npz":
            _write_npz(stream, stacks)
        elif self._kind == "npy":
            _write_npy(stream, stacks[""])
        else:
            stream.write(idx.header(stacks[""].shape))
            stacks[""].copy(stream)

    def _member(self, name: str) -> str:
        return (name.rpartition("/")[0] or "images") if self._kind == "npz" else ""

    def _temporary(self) -> BinaryIO:
        folder = self._place.path.resolve().parent if isinstance(self._place, Local) else None
        stream = cast(BinaryIO, tempfile.TemporaryFile(dir=folder, prefix=TEMPORARY))  # noqa: SIM115 - closed by _close
        self._temporaries.callback(_close, stream)
        return stream


def _close(stream: BinaryIO) -> None:
    """Closes a file whose content is not needed any more: that the rest of it cannot be written does not matter."""
    with suppress(OSError):
        stream.close()


class _Stack:
    """Images of one shape and type in a temporary file, each at its place."""

    def __init__(self, name: str, image: NDArray[Any], stream: BinaryIO):
        self._first, self._image, self._stream = name, image, stream
        self._positions: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that the images make."""
        return len(self._positions), *self._image.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self._image.dtype

    def put(self, position: int, name: str, image: NDArray[Any]) -> None:
        """An image. Raises UnsupportedImage and OSError."""
        found, expected = (f"{one.dtype} {list(one.shape)}" for one in (image, self._image))
        if found != expected:
            raise UnsupportedImage(
                f"{name} is {found}, but {self._first} is {expected}; an array needs images of one shape and type, so "
                "unpack into a folder"
            )
        self._stream.seek(position * image.nbytes)
        self._stream.write(image.tobytes())
        self._positions.append(position)

    def copy(self, target: BinaryIO) -> None:
        """Write the pixels in order, without the places to which no image came."""
        for position in sorted(self._positions):
            self._stream.seek(position * self._image.nbytes)
            target.write(self._stream.read(self._image.nbytes))


def _write_npy(stream: BinaryIO, stack: _Stack) -> None:
    described = {"descr": npy.dtype_to_descr(stack.dtype), "fortran_order": False, "shape": stack.shape}
    npy.write_array_header_1_0(stream, described)
    stack.copy(stream)


def _write_npz(stream: BinaryIO, stacks: dict[str, _Stack]) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for member, stack in stacks.items():
            # Its date is always 1980, so that equal images make equal files.
            info = zipfile.ZipInfo(f"{stored_name(member)}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as part:
                _write_npy(cast(BinaryIO, part), stack)
