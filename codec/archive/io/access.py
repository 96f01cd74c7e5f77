"""The bytes of an archive's file, read at any place by several threads and forked processes at once.

Local files are read by `os.pread`, which knows no position that readers could take from each other, and bytes in memory
where they are. Other streams have a position, and a lock; in a forked process, which would share it with its parent,
they are opened anew."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO, Protocol

from ....bitstream.archive import RandomAccess
from ....bitstream.forks import Lock
from ...files import FileError
from .places import place_of


class Access(RandomAccess, Protocol):
    """A file that is read at any place. Every method raises OSError and FileError."""

    def close(self) -> None:
        """Close the file, unless it was given as a stream."""


def open_path(path: str) -> Access:
    """The file at a path or URL. Raises FileError."""
    stream = place_of(path).open()
    return _Positional(stream) if _is_regular_file(stream) else _of_stream(stream, path)


def open_stream(stream: BinaryIO) -> Access:
    """What a stream holds, which stays the caller's; if it is a local file, it also keeps its position.

    Raises FileError."""
    if getattr(stream, "closed", False):
        raise FileError("the archive's stream is closed")
    if not _is_regular_file(stream):
        return _of_stream(stream, None)
    stream.flush()
    return _Positional(open(os.dup(stream.fileno()), "rb", 0))


def _is_regular_file(stream: BinaryIO) -> bool:
    """Whether a stream is a file of the system, as it is: not one that changes what it reads, as GzipFile does."""
    raw = stream.raw if isinstance(stream, io.BufferedReader | io.BufferedRandom) else stream
    if type(stream) not in (io.BufferedReader, io.BufferedRandom, io.FileIO) or type(raw) is not io.FileIO:
        return False
    return hasattr(os, "pread") and raw.readable() and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)


def _of_stream(stream: BinaryIO, path: str | None) -> Access:
    if isinstance(stream, io.BytesIO) and type(stream).read is io.BytesIO.read:
        return _Memory(stream)
    return _Shared(stream, path)


class _Memory(Access):
    """Bytes in memory, which a forked process has for itself."""

    def __init__(self, stream: io.BytesIO) -> None:
        """The stream stays open."""
        self._stream = stream

    def close(self) -> None:
        """As in Access; there is nothing to give back."""

    def size(self) -> int:
        """As in Access."""
        with self._stream.getbuffer() as view:
            return len(view)

    def read_at(self, offset: int, size: int) -> bytes:
        """As in Access."""
        with self._stream.getbuffer() as view:
            return bytes(view[offset : offset + size])


class _Positional(Access):
    """A file with a descriptor of its own."""

    def __init__(self, stream: BinaryIO) -> None:
        """The stream is closed with it."""
        self._stream = stream

    def size(self) -> int:
        """As in Access."""
        return os.fstat(self._descriptor()).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """As in Access."""
        parts, left = [], size
        while left and (part := os.pread(self._descriptor(), left, offset + size - left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """As in Access."""
        self._stream.close()

    def _descriptor(self) -> int:
        if self._stream.closed:
            raise FileError("the archive was closed")
        return self._stream.fileno()


class _Shared(Access):
    """A stream with a position, and a lock."""

    def __init__(self, stream: BinaryIO, path: str | None) -> None:
        """path: where it can be opened again; None: it was given by the caller."""
        self._stream, self._path = stream, path
        self._lock, self._process = Lock(), os.getpid()
        self._size = stream.seek(0, os.SEEK_END)

    def size(self) -> int:
        """As in Access."""
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        """As in Access."""
        with self._lock.held():
            stream = self._own()
            stream.seek(offset)
            data = bytearray()
            while len(data) < size and (part := stream.read(size - len(data))):
                data += part
        return bytes(data)

    def close(self) -> None:
        """As in Access."""
        if self._path is not None and self._process == os.getpid():
            self._stream.close()

    def _own(self) -> BinaryIO:
        """The stream, if need be another one than the parent's."""
        if self._stream.closed:
            raise FileError("the archive was closed")
        if self._process == os.getpid() or isinstance(self._stream, io.BytesIO):
            return self._stream
        if self._path is None:
            raise FileError("the archive's stream belongs to the process that forked this one; open it by path or URL")
        stream = place_of(self._path).open()
        if stream.seek(0, os.SEEK_END) != self._size:
            raise FileError(f"{self._path} has changed since it was opened")
        self._stream, self._process = stream, os.getpid()
        return stream
