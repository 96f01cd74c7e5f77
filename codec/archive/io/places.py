"""Where sources and archives lie: in the local file system, or at a URL that fsspec knows (s3://, memory://, ...)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ...files import FileError

Kind = Literal["file", "folder"]
Skip = Callable[[str, str], None]
"""Told of a file that is left out: its name, and why."""
LeaveOut = Callable[[str, str, bool], None]
"""The same, and whether an image may be lost."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|:.*://)")  # one letter is a drive; zip::s3://... is a chain


class Place(Protocol):
    """A file or folder, wherever it is. Every method raises FileError for what cannot be read."""

    @property
    def name(self) -> str:
        """The last part of the path."""

    def kind(self) -> Kind | None:
        """What is there; None if nothing is."""

    def size(self) -> int:
        """Bytes of the file."""

    def open(self) -> BinaryIO:
        """The file, to be read; it can seek."""

    def walk(self, leave_out: LeaveOut) -> Iterator[str]:
        """Names of the folder's files, relative and with /, in ascending order of their parts, without hidden ones.

        leave_out: told of what is neither a file nor a folder, of links to folders, which are not followed, and of
        folders below that cannot be read."""

    def child(self, name: str) -> Place:
        """The file of a name that `walk` gave."""


def place_of(path: str | os.PathLike[str]) -> Place:
    """The place of a path or URL; nothing is opened yet. Raises FileError for a URL that fsspec does not know."""
    text = os.fsdecode(path)
    if "\0" in text:
        raise FileError(f"cannot read {text!r}: a path without null characters is expected")
    if not _URL.match(text):
        return Local(Path(text))
    if text.startswith(("file://", "local://")):
        return Local(Path(url2pathname(urlsplit(text).path)))
    return _remote(text)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL of another place than the local file system."""
    text = os.fsdecode(path)
    return bool(_URL.match(text)) and not text.startswith(("file://", "local://"))


@dataclass(frozen=True)
class Local:
    """A path of the local file system."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path, also for `.` and `..`."""
        return self.path.name if self.path.name not in ("", "..") else self.path.resolve().name

    def kind(self) -> Kind | None:
        """As in Place; a device or pipe is an error."""
        try:
            if self.path.is_dir():
                return "folder"
            if self.path.exists() and not self.path.is_file():
                raise FileError(f"{self.path} is not a regular file")
            return "file" if self.path.exists() else None
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}") from error

    def size(self) -> int:
        """As in Place."""
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}") from error

    def open(self) -> BinaryIO:
        """As in Place."""
        if self.kind() == "folder":
            raise FileError(f"{self.path} is a folder; name a file")
        try:
            return self.path.open("rb")
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}") from error

    def walk(self, leave_out: LeaveOut) -> Iterator[str]:
        """As in Place."""
        pending = [iter(_listed(str(self.path), ""))]  # of the folder, of one in it, and so on down
        while pending:
            for name, entry in pending[-1]:
                if _is_folder(entry):
                    with _left_out(entry, leave_out):
                        pending.append(iter(_listed(entry.path, f"{name}/")))
                        break
                elif _is_file(entry):
                    yield name
                else:
                    leave_out(entry.path, *_why_no_file(entry))
            else:
                pending.pop()

    def child(self, name: str) -> Local:
        """As in Place."""
        return Local(self.path / name)


def _listed(folder: str, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a folder and not hidden, with names, in order. Raises FileError."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise FileError(f"cannot read {folder}: {error.strerror or error}") from error
    return [(prefix + entry.name, entry) for entry in found if not entry.name.startswith(".")]


@contextmanager
def _left_out(entry: os.DirEntry[str], leave_out: LeaveOut) -> Iterator[None]:
    """Leaves out a folder that cannot be read."""
    try:
        yield
    except FileError as error:
        leave_out(entry.path, str(error), True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir(follow_symlinks=False)
    return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_file()
    return False


def _why_no_file(entry: os.DirEntry[str]) -> tuple[str, bool]:
    """Why an entry is left out, and whether an image may be lost."""
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        return f"cannot read it: {error.strerror or error}", True
    return ("link to a folder" if stat.S_ISDIR(mode) else "not a regular file"), False


@dataclass(frozen=True)
class Remote:
    """A path of one of fsspec's file systems."""

    url: str
    system: Any
    path: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    def kind(self) -> Kind | None:
        """As in Place."""
        if self.attempt(lambda: self.system.isdir(self.path)):
            return "folder"
        return "file" if self.attempt(lambda: self.system.exists(self.path)) else None

    def size(self) -> int:
        """As in Place."""
        return int(self.attempt(lambda: self.system.size(self.path)))

    def open(self) -> BinaryIO:
        """As in Place."""
        return cast(BinaryIO, self.attempt(lambda: self.system.open(self.path, "rb")))

    def walk(self, leave_out: LeaveOut) -> Iterator[str]:
        """As in Place; such file systems have no links or devices."""
        root = self.system._strip_protocol(self.path).rstrip("/")
        found = self.attempt(lambda: self.system.find(root))
        names = [path[len(root) :].lstrip("/").split("/") for path in found]
        yield from ("/".join(parts) for parts in sorted(names) if not any(part.startswith(".") for part in parts))

    def child(self, name: str) -> Remote:
        """As in Place."""
        return Remote(f"{self.url.rstrip('/')}/{name}", self.system, f"{self.path.rstrip('/')}/{name}")

    def sibling(self, name: str) -> str:
        """Path of another file beside this one."""
        return f"{self.path.rstrip('/').rpartition('/')[0]}/{name}"

    def attempt(self, action: Callable[[], Any]) -> Any:
        """What the action gives. Raises FileError whatever it raises: each of fsspec's systems has kinds of its own."""
        try:
            return action()
        except Exception as error:
            raise FileError(f"{self.url}: {error or type(error).__name__}") from error


def _remote(url: str) -> Remote:
    try:
        import fsspec
    except ImportError as error:
        raise FileError(f"{url}: URLs need fsspec: pip install 'vqcodec[remote]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # ImportError names the package of the protocol, ValueError an unknown one
        raise FileError(f"{url}: {error or type(error).__name__}") from error
    return Remote(url, system, path)
