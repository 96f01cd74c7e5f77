"""Local folders of any depth: made, listed and removed step by step, as Python's own functions recurse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress


def make_folders(folder: str) -> None:
    """Make a folder, and those above it, unless they are there. Raises OSError."""
    missing = []
    while not _made(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        _made(path)


def _made(folder: str) -> bool:
    """Make one folder; False if the one above is missing."""
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        if not os.path.dirname(folder):
            raise
        return False
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
    return True


def entries_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """All that lies below a folder, each folder before what it holds; links are not followed. Raises OSError."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def remove(folder: str) -> None:
    """Remove a folder and all below it, as far as that is possible."""
    folders = [folder]
    with suppress(OSError):
        for entry in entries_below(folder):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)
    for path in reversed(folders):
        with suppress(OSError):
            os.rmdir(path)
