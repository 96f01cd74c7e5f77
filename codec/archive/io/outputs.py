"""Files and folders that appear whole or not at all: written under a temporary name beside their own, then renamed."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ... import files
from ...files import FileError
from ...whole import TEMPORARY
from ...whole import whole_file as whole_local_file
from .places import Kind, Local, Place, Remote


def check_free(place: Place, force: bool, kind: Kind) -> None:
    """Raises FileError if a file or folder may not be written: it exists (unless `force`, or it is an empty folder), is
    the other kind, or has no folder to lie in."""
    if isinstance(place, Local) and kind == "file":
        files.check_target(place.path, force)
        return
    there = place.kind()
    if there is not None and there != kind:
        raise FileError(f"{place} is a {there}; name a {kind} or a new place")
    if there is not None and not force and not (kind == "folder" and _is_empty(place)):
        advice = "put the images into it" if kind == "folder" else "overwrite it"
        raise FileError(f"{place} exists; use --force to {advice}")
    if isinstance(place, Local):
        parent = place.path.resolve().parent
        if not parent.is_dir():
            raise FileError(f"cannot write {place}: the folder {place.path.parent} does not exist")
        if not os.access(parent, os.W_OK):
            raise FileError(f"cannot write {place}: you may not write to its folder")


def _is_empty(place: Place) -> bool:
    if isinstance(place, Local):
        return not any(place.path.iterdir())
    return not any(True for _ in place.walk(lambda name, reason, lost: None))


@contextmanager
def whole_file(place: Place, force: bool = False) -> Iterator[BinaryIO]:
    """A stream to write a file to, which takes its name when the context ends without an error. Raises FileError."""
    check_free(place, force, "file")
    if isinstance(place, Local):
        with _local_file(place.path) as stream:
            yield stream
    else:
        with _remote_file(cast(Remote, place)) as stream:
            yield stream


@contextmanager
def _local_file(target: Path) -> Iterator[BinaryIO]:
    try:
        with whole_local_file(target) as stream:
            yield stream
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error


@contextmanager
def _writing(target: Place) -> Iterator[None]:
    """Turns what the system raises, as for a full disk, into FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error


@contextmanager
def _remote_file(target: Remote) -> Iterator[BinaryIO]:
    """Written here first: what fsspec has opened for writing appears even if one gives up half-way."""
    with _writing(target), tempfile.NamedTemporaryFile(prefix=TEMPORARY) as stream:
        yield cast(BinaryIO, stream)
        stream.flush()
        temporary = target.sibling(TEMPORARY + secrets.token_hex(6))
        try:
            target.attempt(lambda: target.system.put_file(stream.name, temporary))
            target.attempt(lambda: target.system.mv(temporary, target.path))
        except FileError:
            with suppress(FileError):
                target.attempt(lambda: target.system.rm_file(temporary))
            raise
