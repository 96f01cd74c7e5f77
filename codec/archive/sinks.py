"""What an archive is unpacked to: a folder of image files, or one .npy, .npz or IDX file. Whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import cast

from ...bitstream.archive import checked_name
from ...bitstream.errors import UnsupportedImage
from .. import files
from ..files import FileError
from ..whole import TEMPORARY
from .array_sink import Put, Stored, array_file, format_of
from .outputs import check_free
from .places import Local, Place, Remote, place_of


@contextmanager
def open_sink(
    target: str | os.PathLike[str], numbers: Iterable[int], name_of: Callable[[int], str], force: bool = False
) -> Iterator[Put]:
    """What writes images to `target`: one file if it ends in .npy, .npz, -ubyte or .idx (IDX), else a folder.

    It is there once the context ends without an error. numbers: of the images that may come, ascending. force:
    overwrite a file, or put images into a folder that is there, overwriting those of the same names. Raises FileError
    if the target may not be written, before anything is done."""
    place = place_of(target)
    kind = format_of(place.name)
    check_free(place, force, "folder" if kind is None else "file")
    with _folder(place) if kind is None else array_file(place, kind, numbers, name_of, force) as put:
        yield put


def file_of(name: str, stored: Stored) -> tuple[str, bytes]:
    """Name and content of the file for an image.

    That of its original, if it was kept; else the name's own format if that is lossless and can hold the image; else
    PNG, with .png added."""
    suffix = PurePosixPath(name).suffix.lower()
    if stored.original is not None:
        return name, stored.original
    if suffix in files.SAVE_FORMATS:
        with suppress(FileError, UnsupportedImage):
            return name, files.saved(stored.pil(), Path(name))
    return name if suffix == ".png" else f"{name}.png", stored.png()


@contextmanager
def _folder(place: Place) -> Iterator[Put]:
    """One file per image, in folders by their names. They are written to a folder beside the target, then renamed."""
    staging = _LocalStaging(place) if isinstance(place, Local) else _RemoteStaging(cast(Remote, place))
    try:
        yield lambda number, name, stored: staging.write(*file_of(checked_name(name), stored))
        staging.finish()
    finally:
        staging.discard()


class _LocalStaging:
    """A folder beside the target. Raises FileError."""

    def __init__(self, target: Local):
        self._target = target.path
        self._folder = target.path.resolve().parent / (TEMPORARY + secrets.token_hex(6))
        self._mkdir(self._folder)

    def write(self, name: str, data: bytes) -> None:
        """A new file."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(data)
        except FileExistsError as error:
            raise FileError(f"{self._target}: two images of the archive would be written to {name!r}") from error
        except OSError as error:
            raise FileError(f"cannot write {self._target / name}: {error.strerror or error}") from error

    def finish(self) -> None:
        """Renames the folder, or moves its files into the target that is there."""
        try:
            if not self._target.exists():
                self._folder.rename(self._target)
                return
            for path in sorted(self._folder.rglob("*")):
                place = self._target / path.relative_to(self._folder)
                if path.is_dir():
                    place.mkdir(exist_ok=True)
                else:
                    path.replace(place)
        except OSError as error:
            raise FileError(f"cannot write {self._target}: {error.strerror or error}") from error

    def discard(self) -> None:
        """Removes what was not renamed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mkdir(self, folder: Path) -> None:
        try:
            folder.mkdir()
        except OSError as error:
            raise FileError(f"cannot write {self._target}: {error.strerror or error}") from error


class _RemoteStaging:
    """The same at a URL: files are moved one by one, so that a whole folder appears only where moving is quick."""

    def __init__(self, target: Remote):
        self._target = target
        self._folder = target.sibling(TEMPORARY + secrets.token_hex(6))
        self._names: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        """A new file."""
        if name in self._names:
            raise FileError(f"{self._target}: two images of the archive would be written to {name!r}")
        self._names.add(name)
        path = self._made(f"{self._folder}/{name}")
        self._target.attempt(lambda: self._target.system.pipe_file(path, data))

    def finish(self) -> None:
        """Moves the files."""
        for name in sorted(self._names):
            self._move(f"{self._folder}/{name}", self._made(f"{self._target.path.rstrip('/')}/{name}"))

    def discard(self) -> None:
        """Removes what was not moved."""
        with suppress(FileError):
            self._target.attempt(lambda: self._target.system.rm(self._folder, recursive=True))

    def _move(self, source: str, path: str) -> None:
        self._target.attempt(lambda: self._target.system.mv(source, path))

    def _made(self, path: str) -> str:
        """The path, once its folder is there (for file systems that have folders)."""
        self._target.attempt(lambda: self._target.system.makedirs(path.rpartition("/")[0], exist_ok=True))
        return path
