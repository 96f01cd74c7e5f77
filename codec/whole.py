"""Files that appear whole or not at all: written under a temporary name beside their own, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".vqcodec-"
"""Temporary names begin with this, so that one knows what a killed process left. Packing leaves hidden files out."""


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A stream to write a file to, which takes its name when the context ends without an error.

    A file that is there keeps its permissions until then and after; a new one gets those that the umask leaves. A link
    stays a link. Raises OSError."""
    real = Path(os.path.realpath(target))
    temporary = real.parent / (TEMPORARY + secrets.token_hex(6))
    mode = _mode(real)
    try:
        with os.fdopen(_created(temporary, 0o666 if mode is None else 0o600), "wb") as stream:
            if mode is not None:
                os.chmod(stream.fileno() if os.chmod in os.supports_fd else temporary, mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(real)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _mode(path: Path) -> int | None:
    """Permissions of a file; None if it is not there."""
    try:
        return path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def _created(path: Path, mode: int) -> int:
    """Descriptor of a new file, with what the umask leaves of the mode."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
