"""What an archive is packed from: folders, image files, lists of them, IDX files, .npy and .npz, here or at URLs.

    folder         every image below it; names are paths relative to it. Hidden files and other files are left out.
    image file     its name
    @list.txt      one path or URL of an image file per line; names are those paths, without a leading / or ../
    IDX, .npy      NUMBER, zero-padded to the width of the count; the file's name for an array of one image
    .npz           MEMBER/NUMBER; labels and other arrays that are no images are left out

With several sources the names begin with the source's own name, without its suffix if it is a file of arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from ...bitstream.archive import checked_name
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import TooLarge, UnsupportedImage
from ..files import FileError
from ..opening import size_of
from .arrays import ArrayFile, array_file, reading
from .places import Local, Place, Skip, is_url, place_of

_MAX_FILE = 1 << 31  # bytes of an image file
_MAX_LIST = 1 << 30  # bytes of a list
_ARRAY_SUFFIXES = (".gz", ".npy", ".npz", ".idx")


@dataclass(frozen=True)
class Item:
    """An image to pack, by its name in the archive: either an image file's bytes, or pixels.

    array: uint8 [H, W] or [H, W, 2 to 4], bool [H, W], or uint16 [H, W]."""

    name: str
    file: bytes | None = None
    array: NDArray[Any] | None = None


@dataclass(frozen=True)
class Sources(Iterable[Item]):
    """The images of several sources, read while one iterates.

    total: how many there are, with those that will be skipped. Iterating raises FileError and UnsupportedImage for
    what cannot be read, and UnsupportedImage if there is no image at all."""

    total: int
    paths: tuple[str, ...]
    parts: tuple[_Part, ...]

    def __iter__(self) -> Iterator[Item]:
        empty = True
        for part in self.parts:
            for item in part.items():
                empty = False
                yield item
        if empty:
            raise UnsupportedImage(f"no images in {', '.join(self.paths)}")


def open_sources(
    paths: Sequence[str | os.PathLike[str]],
    skip: Skip = lambda name, reason: None,
    max_pixels: int = MAX_PIXELS,
    leave_out: str | os.PathLike[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Sources:
    """The images of sources, in order; see the top of this file. Folders are listed and headers read at once.

    skip: called with name and reason for every file of a folder or list that is no image; it may raise.
    leave_out: a file that is not to be packed though it may lie in a folder: the archive. Raises FileError for what is
    missing, empty or of the same name as another source, UnsupportedImage or TooLarge for arrays that are no images."""
    texts = tuple(os.fspath(path) for path in paths)
    labels = [_label(text) for text in texts]
    several = len(texts) > 1
    for number, label in enumerate(labels):
        if several and label in labels[:number]:
            raise FileError(f"{texts[labels.index(label)]} and {texts[number]} would both be called {label!r}")
    opener = _Opener(skip, max_pixels, leave_out, max_bytes)
    parts = tuple(opener.open(text, label, several) for text, label in zip(texts, labels, strict=True))
    return Sources(sum(part.total for part in parts), texts, parts)


def _label(text: str) -> str:
    """Name of a source."""
    if text.startswith("@"):
        return PurePosixPath(Path(text[1:]).name).stem
    name = place_of(text).name
    while name.endswith(_ARRAY_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


@dataclass(frozen=True)
class _Part:
    """One source. total: of its images at most."""

    total: int
    items: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class _Opener:
    """The arguments of `open_sources` but the paths."""

    skip: Skip
    max_pixels: int
    leave_out: str | os.PathLike[str] | None
    max_bytes: int

    def open(self, text: str, label: str, several: bool) -> _Part:
        """A source, whatever it is."""
        prefix = f"{label}/" if several else ""
        if text.startswith("@"):
            return self._list(text[1:], prefix)
        place = place_of(text)
        kind = place.kind()
        if kind is None:
            raise FileError(f"cannot read {text}: no such file or folder")
        if kind == "folder":
            return self._folder(place, prefix)
        arrays = array_file(place, self.skip, self.max_pixels, self.max_bytes)
        if arrays is None:
            return _Part(1, lambda: self._files([(place.name, place)], "", _refuse))
        return _Part(arrays.total, lambda: _array_items(arrays, prefix, label))

    def _folder(self, folder: Place, prefix: str) -> _Part:
        names = [name for name in folder.walk(self.skip) if not self._is_left_out(folder.child(name))]
        if not names:
            raise FileError(f"no images in {folder}: the folder is empty")
        return _Part(len(names), lambda: self._files(((name, folder.child(name)) for name in names), prefix, self.skip))

    def _is_left_out(self, place: Place) -> bool:
        if self.leave_out is None or not isinstance(place, Local) or is_url(self.leave_out):
            return str(place) == str(self.leave_out)
        return place.name == Path(self.leave_out).name and place.path.resolve() == Path(self.leave_out).resolve()

    def _list(self, text: str, prefix: str) -> _Part:
        place = place_of(text)
        if place.kind() != "file":
            raise FileError(f"cannot read the list {text}: no such file")
        paths = _lines(place)
        if not paths:
            raise FileError(f"no images in {text}: the list is empty")
        return _Part(
            len(paths), lambda: self._files(((_name_of(path), place_of(path)) for path in paths), prefix, self.skip)
        )

    def _files(self, files: Iterable[tuple[str, Place]], prefix: str, skip: Skip) -> Iterator[Item]:
        """The image files among files, given with their names."""
        for name, place in files:
            try:
                item = Item(checked_name(prefix + name), file=_image_file(place, self.max_pixels, self.max_bytes))
            except (FileError, UnsupportedImage, TooLarge, ValueError) as error:  # ValueError: no name for an archive
                skip(str(place), str(error))
            else:
                yield item


def _refuse(name: str, reason: str) -> None:
    raise UnsupportedImage(reason if name in reason else f"{name}: {reason}")


def _array_items(arrays: ArrayFile, prefix: str, label: str) -> Iterator[Item]:
    for name, array in arrays.images():
        try:
            checked = checked_name(f"{prefix}{name}" if name else label)
        except ValueError as error:
            raise FileError(f"{arrays.place}: {error}") from error
        yield Item(checked, array=array)


def _lines(place: Place) -> list[str]:
    """The lines of a text file that are not empty."""
    with reading(str(place)), place.open() as stream:
        data = stream.read(_MAX_LIST + 1)
        if len(data) > _MAX_LIST:
            raise FileError(f"{place}: a list of more than {_MAX_LIST} bytes")
        return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]


def _name_of(path: str) -> str:
    """Name in the archive of a path or URL from a list: relative and without . and .., as tar does it."""
    text = path.partition("://")[2] if is_url(path) else os.path.normpath(path)
    parts = Path(os.path.splitdrive(text)[1]).parts
    return "/".join(part for part in parts if part not in ("..", ".", "/", os.sep))


def _image_file(place: Place, max_pixels: int, max_bytes: int) -> bytes:
    """The bytes of an image file, after a look at its header. Raises FileError, or UnsupportedImage with the reason."""
    if place.size() > _MAX_FILE:
        raise UnsupportedImage(f"more than {_MAX_FILE} bytes")
    with place.open() as stream:
        size_of(stream, max_pixels, max_bytes)
        try:
            stream.seek(0)
            return stream.read()
        except OSError as error:
            raise FileError(f"cannot read {place}: {error.strerror or error}") from error
