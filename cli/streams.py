"""Pipes in place of files: `-`, /dev/stdin and /dev/stdout, <(...) of shells, and FIFOs with a name."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ..codec import files
from ..codec.files import FileError

STDIO = "-"
"""Names stdin and stdout; a file of this name is ./- ."""
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_NAMED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_CHUNK = 1 << 20  # bytes copied at a time
_IN_MEMORY = 1 << 26  # bytes of a pipe that are kept out of a temporary file


def is_stream(name: str) -> bool:
    """Whether a name is that of a stream, which is read and written as it is: nothing can lie beside it."""
    if name == STDIO or _descriptor(name) is not None:
        return True
    try:
        kind = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISCHR(kind) or stat.S_ISSOCK(kind)


def is_stdout(name: str) -> bool:
    """Whether a name is that of standard output."""
    return name == STDIO or _descriptor(name) == 1


def in_words(name: str, output: bool = False) -> str:
    """What messages call it."""
    return ("stdout" if output else "stdin") if name == STDIO else name


def check_output(name: str) -> None:
    """Raises FileError for a stream that data cannot be written to: a terminal, or one that is open for reading."""
    number = 1 if name == STDIO else _descriptor(name)
    advice = "send it to a file or a pipe, or name the output with -o"
    try:
        if number is not None:
            if os.isatty(number):
                raise FileError(f"{in_words(name, True)} is a terminal, which shows no image files; {advice}")
            if not _is_open_for(number, os.O_RDONLY):
                return
            raise FileError(f"{in_words(name, True)} is open for reading only; {advice}")
        if stat.S_ISCHR(os.stat(name).st_mode) and name != os.devnull:
            raise FileError(f"{name} is not a regular file; {advice}")
    except OSError as error:
        raise FileError(f"cannot write {in_words(name, True)}: {error.strerror or error}") from error


def contents(name: str) -> bytes:
    """All of a file or stream. Raises FileError."""
    return _read(name, files.MAX_FILE) if is_stream(name) else files.read_bytes(Path(name))


def check_target(name: str, force: bool, source: str) -> None:
    """Raises FileError if a file or stream may not be written: as `files.check_target` and `check_output` say."""
    if is_stream(name):
        check_output(name)
    else:
        files.check_target(Path(name), force, None if is_stream(source) else Path(source))


def put(name: str, data: bytes, force: bool = False) -> None:
    """Write a file, which appears whole or not at all, or to a stream.

    Raises FileError, and BrokenPipeError if nobody reads the stream any more."""
    if not is_stream(name):
        files.write_bytes(Path(name), data, force)
        return
    with output(name) as stream:
        stream.write(data)


@contextmanager
def opened(name: str) -> Iterator[str | BinaryIO]:
    """The name of a file as it is; of a stream, all that it gives, as a file that can seek."""
    if is_stream(name):
        with _seekable(name) as stream:
            yield stream
    else:
        yield name


@contextmanager
def output(name: str) -> Iterator[BinaryIO]:
    """A stream to write to. Raises FileError, BrokenPipeError if nobody reads it any more."""
    check_output(name)
    number = 1 if name == STDIO else _descriptor(name)
    try:
        with _opened(name, number, "wb") as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {in_words(name, True)}: {error.strerror or error}") from error


def _read(name: str, limit: int) -> bytes:
    """All that a stream gives. Raises FileError, also for more than `limit` bytes."""
    found = bytearray()
    with _input(name) as stream:
        while part := stream.read(_CHUNK):
            found += part
            if len(found) > limit:
                raise FileError(f"{in_words(name)} is too large: the limit is {limit} bytes")
    return bytes(found)


@contextmanager
def _seekable(name: str) -> Iterator[BinaryIO]:
    """What a stream gives as a file that can seek: in memory, or a nameless temporary file if it is long."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
        with _input(name) as stream:
            while part := stream.read(_CHUNK):
                spool.write(part)
        spool.seek(0)
        yield cast(BinaryIO, spool)


@contextmanager
def _input(name: str) -> Iterator[BinaryIO]:
    number = 0 if name == STDIO else _descriptor(name)
    try:
        kind = os.fstat(number).st_mode if number is not None else os.stat(name).st_mode
        if stat.S_ISDIR(kind):
            raise FileError(f"{in_words(name)} is a folder; name a file")
        if number is not None and os.isatty(number):
            raise FileError(f"{in_words(name)} is a terminal; redirect a file or a pipe to it, or name a file")
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise FileError(f"{in_words(name)} is a device; name a regular file or a pipe")
        with _opened(name, number, "rb") as stream:
            yield stream
    except OSError as error:
        raise FileError(f"cannot read {in_words(name)}: {error.strerror or error}") from error


def _opened(name: str, number: int | None, mode: str) -> BinaryIO:
    """A stream of its own; of a duplicate where the process has it open: opening it by name would cut a file there."""
    if number is None:
        return cast(BinaryIO, open(name, mode))
    if number == 1 and sys.stdout is not None:
        sys.stdout.flush()
    return cast(BinaryIO, os.fdopen(os.dup(number), mode))


def _descriptor(name: str) -> int | None:
    """Number of the open file that a name is another word for."""
    if name in _NAMED:
        return _NAMED[name]
    found = _DESCRIPTOR.fullmatch(name)
    return int(found[1]) if found else None


def _is_open_for(number: int, access: int) -> bool:
    """Whether an open file has this kind of access and no other; not known on Windows."""
    try:
        import fcntl
    except ImportError:
        return False
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == access
