"""What an archive is packed from: folders, image files, lists of them, IDX files, .npy and .npz, here or at URLs.

    folder         every image below it; names are paths relative to it. Hidden files and other files are left out, and
                   links to folders are not followed.
    image file     its name
    @list.txt      one path or URL of an image file per line; names are those paths, without a leading / or ../
    IDX, .npy      NUMBER, zero-padded to the width of the count; the file's name for an array of one image
    .npz           MEMBER/NUMBER; labels and other arrays that are no images are left out

With several sources the names begin with the source's own name, without its suffix if it is a file of arrays."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from ....bitstream.archive import checked_name
from ....bitstream.container import MAX_BYTES, MAX_PIXELS
from ....bitstream.errors import TooLarge, UnsupportedImage
from ...files import FileError
from ...opening import size_of
from .arrays import ArrayFile, array_file, reading
from .places import LeaveOut, Local, Place, Skip, is_url, place_of
from .signatures import SIGNATURE_BYTES, image_suffix, suffix_of

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


@dataclass
class LeftOut:
    """How many files were left out, and how many of them are images, or may be as they cannot be read."""

    files: int = 0
    images: int = 0

    def add(self, image: bool) -> None:
        """One file more."""
        self.files += 1
        self.images += image


@dataclass(frozen=True)
class Sources(Iterable[Item]):
    """The images of several sources, read while one iterates.

    total: how many there are, with those that will be skipped. left_out: what was, of which `listed` says how much when
    the sources were opened. Iterating raises FileError and UnsupportedImage for what cannot be read, and
    UnsupportedImage if there is no image at all."""

    total: int
    paths: tuple[str, ...]
    parts: tuple[_Part, ...]
    left_out: LeftOut
    listed: tuple[int, int]

    def __iter__(self) -> Iterator[Item]:
        self.left_out.files, self.left_out.images = self.listed
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
            raise FileError(
                f"{texts[labels.index(label)]} and {texts[number]} would both be named {label!r}; rename one"
            )
    opener = _Opener(skip, max_pixels, leave_out, max_bytes)
    parts = tuple(opener.open(text, label, several) for text, label in zip(texts, labels, strict=True))
    left_out = opener.left_out
    return Sources(sum(part.total for part in parts), texts, parts, left_out, (left_out.files, left_out.images))


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
    archive: str | os.PathLike[str] | None
    max_bytes: int
    left_out: LeftOut = field(default_factory=LeftOut)

    def leave_out(self, name: str, reason: str, image: bool) -> None:
        """Count a file that is not packed, and tell of it."""
        self.left_out.add(image)
        self.skip(name, reason)

    def open(self, text: str, label: str, several: bool) -> _Part:
        """A source, whatever it is."""
        prefix = f"{label}/" if several and label else ""
        if text.startswith("@"):
            return self._list(text[1:], prefix)
        place = place_of(text)
        kind = place.kind()
        if kind is None:
            raise FileError(f"cannot read {text}: no such file or folder")
        if kind == "folder":
            return self._folder(place, prefix)
        arrays = array_file(place, self._leave_out_member, self.max_pixels, self.max_bytes)
        if arrays is None:
            return _Part(1, lambda: self._files([(place.name, place)], "", _refuse_file))
        return _Part(arrays.total, lambda: _array_items(arrays, prefix, label))

    def _leave_out_member(self, name: str, reason: str) -> None:
        """A member of a file of arrays that is no image."""
        self.leave_out(name, reason, False)

    def _folder(self, folder: Place, prefix: str) -> _Part:
        names = [name for name in folder.walk(self.leave_out) if not self._is_archive(folder.child(name))]
        if not names:
            raise FileError(f"no images in {folder}: the folder is empty")
        return _Part(len(names), lambda: self._files(_children(folder, names), prefix, self.leave_out))

    def _is_archive(self, place: Place) -> bool:
        if self.archive is None or not isinstance(place, Local) or is_url(self.archive):
            return str(place) == str(self.archive)
        return place.name == Path(self.archive).name and place.path.resolve() == Path(self.archive).resolve()

    def _list(self, text: str, prefix: str) -> _Part:
        place = place_of(text)
        if place.kind() != "file":
            raise FileError(f"cannot read the list {text}: no such file")
        paths = _lines(place)
        if not paths:
            raise FileError(f"no images in {text}: the list is empty")
        return _Part(len(paths), lambda: self._files(_listed(paths), prefix, self.leave_out))

    def _files(self, files: Iterable[tuple[str, Place]], prefix: str, leave_out: LeaveOut) -> Iterator[Item]:
        """The image files among files, given with their names."""
        for name, place in files:
            try:
                item = Item(checked_name(prefix + name), file=_image_file(place, self.max_pixels, self.max_bytes))
            except FileError as error:
                leave_out(str(place), str(error), True)
            except (UnsupportedImage, TooLarge, ValueError) as error:  # ValueError: a name that no archive can hold
                leave_out(str(place), str(error), _seems_an_image(place))
            else:
                yield item


def _children(folder: Place, names: Iterable[str]) -> Iterator[tuple[str, Place]]:
    """Names and places of files in a folder."""
    return ((name, folder.child(name)) for name in names)


def _listed(paths: Iterable[str]) -> Iterator[tuple[str, Place]]:
    """Names and places of the files of a list."""
    return ((_name_of(path), place_of(path)) for path in paths)


def _seems_an_image(place: Place) -> bool:
    """Whether a file is an image by its name or its first bytes, or cannot be read."""
    if image_suffix(place.name):
        return True
    try:
        with place.open() as stream:
            return bool(suffix_of(stream.read(SIGNATURE_BYTES)))
    except (FileError, OSError):
        return True


def _refuse_file(name: str, reason: str, image: bool) -> None:
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
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
            raise UnsupportedImage(f"{place}: expected a list of paths in utf-8, found utf-16 or no text")
        lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
        return [line.removesuffix("\r") for line in lines if line.strip()]


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
