"""What an archive is unpacked to: a folder of image files, or one .npy, .npz or IDX file. Whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, cast

from ....bitstream.archive import Names
from ....bitstream.archive_names import runs_of
from ...files import FileError
from ...whole import TEMPORARY
from .array_sink import Put, Stored, array_file, format_of
from .file_names import FileNames, FileSystem, probed
from .folders import entries_below, make_folders, remove
from .image_files import saved_as
from .outputs import check_free
from .places import Local, Place, Remote, place_of
from .signatures import SIGNATURE_BYTES, image_suffix, suffix_of

Renamed = Callable[[str, str], None]
"""Told of an image whose file is not called as it is: its name, and that of the file."""
_REFUSED = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT)


@contextmanager
def open_sink(
    target: str | os.PathLike[str],
    numbers: Iterable[int],
    name_of: Callable[[int], str],
    force: bool = False,
    names: Names | None = None,
    renamed: Renamed = lambda name, file: None,
) -> Iterator[Put]:
    """What writes images to `target`: one file if it ends in .npy, .npz, -ubyte or .idx (IDX), else a folder.

    It is there once the context ends without an error. numbers: of the images that may come, ascending. force:
    overwrite a file, or put images into a folder that is there, overwriting those of the same names. names: all of the
    archive, so that files are called the same whichever come; None: those of the numbers. renamed: told of images whose
    files are called otherwise, but for those numbered from an array (0017 to 0017.png). Raises FileError if the target
    may not be written, before anything is done."""
    place = place_of(target)
    kind = format_of(place.name)
    check_free(place, force, "folder" if kind is None else "file")
    if kind is not None:
        with array_file(place, kind, numbers, name_of, force) as put:
            yield put
        return
    known = Names(runs_of(map(name_of, numbers))) if names is None else names
    with _folder(place, known, renamed) as put:
        yield put


class Content(NamedTuple):
    """What is written for an image."""

    data: bytes
    suffix: str
    """Of its format; "" if it is not known."""
    fits: bool
    """Whether the image's own name may stand for it."""


def content_of(name: str, stored: Stored) -> Content:
    """The original, if it was kept; else the format that the name asks for, if that keeps every pixel; else PNG.

    PNG fits every name but those of other image formats, and those of images from arrays, which are numbers."""
    suffix = image_suffix(name)
    if stored.original is not None:
        return Content(stored.original, suffix or suffix_of(stored.original[:SIGNATURE_BYTES]), True)
    if suffix in (".png", ".apng"):
        return Content(stored.png(), suffix, True)
    if suffix and (data := saved_as(suffix, stored)) is not None:
        return Content(data, suffix, True)
    return Content(stored.png(), ".png", not suffix and not _is_number(name))


def _is_number(name: str) -> bool:
    part = name.rpartition("/")[2]
    return part.isascii() and part.isdecimal()


@contextmanager
def _folder(place: Place, names: Names, renamed: Renamed) -> Iterator[Put]:
    """One file per image, in folders by their names. They are written to a temporary folder, then moved."""
    staging = _LocalStaging(place, names) if isinstance(place, Local) else _RemoteStaging(cast(Remote, place), names)

    def put(number: int, name: str, stored: Stored) -> None:
        content = content_of(name, stored)
        file = staging.write(name, content)
        if file not in (name, f"{name}.png" if _is_number(name) else name):
            renamed(name, file)

    try:
        yield put
        staging.finish()
    finally:
        staging.discard()


class _LocalStaging:
    """A folder in the target if that is there, else beside it. Raises FileError."""

    def __init__(self, target: Local, names: Names):
        self._target = target.path
        self._real = os.path.realpath(target.path)
        self._into = os.path.isdir(self._real)
        self._folder = os.path.join(
            self._real if self._into else os.path.dirname(self._real), TEMPORARY + secrets.token_hex(6)
        )
        self._last = ""  # the folder that was made last
        with self._writing(self._target):
            os.mkdir(self._folder)
        self._files = FileNames(names, probed(self._folder, self._real))

    def write(self, name: str, content: Content) -> str:
        """A new file; its path below the target."""
        file = self._files.file(name, content.suffix, content.fits)
        with self._writing(self._target / file):
            try:
                self._create(file, content.data)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                file = self._files.last_resort(name, content.suffix)
                self._create(file, content.data)
        return file

    def finish(self) -> None:
        """Renames the folder, or moves its files into the target that is there. Nothing moves if not all can."""
        with self._writing(self._target):
            if not self._into:
                os.rename(self._folder, self._real)
                return
            entries = [(entry.path, self._below(entry), entry.is_dir()) for entry in entries_below(self._folder)]
            for _, place, is_folder in entries:
                self._check(place, is_folder)
            for path, place, is_folder in entries:
                if not is_folder:
                    os.replace(path, place)
                elif not os.path.isdir(place):
                    os.mkdir(place)

    def discard(self) -> None:
        """Removes what was not renamed."""
        remove(self._folder)

    def _create(self, file: str, data: bytes) -> None:
        path = os.path.join(self._folder, file)
        if (folder := os.path.dirname(path)) != self._last:
            make_folders(folder)
            self._last = folder
        with open(path, "xb") as stream:
            stream.write(data)

    def _below(self, entry: os.DirEntry[str]) -> str:
        """The place in the target for what lies in the folder."""
        return self._real + entry.path[len(self._folder) :]

    def _check(self, place: str, is_folder: bool) -> None:
        """Raises FileError if a file or folder cannot be moved to this place, above all because of a link."""
        try:
            mode = os.lstat(place).st_mode
        except FileNotFoundError:
            return
        if is_folder and stat.S_ISLNK(mode):
            raise FileError(
                f"cannot write below {place}: it is a link to another place; remove it, or unpack elsewhere"
            )
        if is_folder and not stat.S_ISDIR(mode):
            raise FileError(f"cannot write below {place}: it is a file")
        if is_folder and not os.access(place, os.W_OK | os.X_OK):
            raise FileError(f"cannot write below {place}: you may not write to it")
        if not is_folder and stat.S_ISDIR(mode):
            raise FileError(f"cannot write {place}: it is a folder")

    @contextmanager
    def _writing(self, what: object) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(f"cannot write {what}: {error.strerror or error}") from error


class _RemoteStaging:
    """The same at a URL: files are moved one by one, so that a whole folder appears only where moving is quick."""

    def __init__(self, target: Remote, names: Names):
        self._target = target
        self._folder = target.sibling(TEMPORARY + secrets.token_hex(6))
        self._files = FileNames(names, FileSystem())
        self._written: list[str] = []

    def write(self, name: str, content: Content) -> str:
        """A new file; its path below the target."""
        file = self._files.file(name, content.suffix, content.fits)
        self._written.append(file)
        path = self._made(f"{self._folder}/{file}")
        self._target.attempt(lambda: self._target.system.pipe_file(path, content.data))
        return file

    def finish(self) -> None:
        """Moves the files."""
        for file in sorted(self._written):
            self._move(f"{self._folder}/{file}", self._made(f"{self._target.path.rstrip('/')}/{file}"))

    def discard(self) -> None:
        """Removes what was not moved."""
        with suppress(FileError):
            self._target.attempt(lambda: self._target.system.rm(self._folder, recursive=True))

    def _move(self, source: str, path: str) -> None:
        system = self._target.system
        if not set("*?[") & set(source + path):
            self._target.attempt(lambda: system.mv(source, path))
            return
        self._target.attempt(lambda: system.cp_file(source, path))  # mv would take the name for a pattern
        self._target.attempt(lambda: system.rm_file(source))

    def _made(self, path: str) -> str:
        """The path, once its folder is there (for file systems that have folders)."""
        self._target.attempt(lambda: self._target.system.makedirs(path.rpartition("/")[0], exist_ok=True))
        return path
