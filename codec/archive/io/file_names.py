"""Names of the files that an archive's images are unpacked to (FORMAT.md, "Names and file systems").

An image gets the file of its own name wherever the file system can have it. Else it gets another one, which follows
from the names of the archive and the image alone: the same whichever images are unpacked, and no other image's."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from ....bitstream.archive import Names

_DEVICE = r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?= *(?:[.:]|\Z))"
_WINDOWS = re.compile(rf'(?i:\A{_DEVICE})|[\x00-\x1f<>:"|?*\\]|[. ]\Z')
_BYTE = re.compile(r"[\udc80-\udcff]")
_SHORT_BYTES = 80  # of a name that stands for one that is too long
_LONGEST_SUFFIX = 16


@dataclass(frozen=True)
class FileSystem:
    """What a file system makes of names. The default takes all and keeps them apart."""

    folds_case: bool = False
    """Whether A and a are one."""
    composes: bool = False
    """Whether a letter with an accent is the same as the letter and the accent (NFC and NFD)."""
    unicode_only: bool = False
    """Whether it refuses bytes that are no UTF-8."""
    windows: bool = False
    """Whether devices (CON, NUL, ...), the characters < > : " | ? * \\, and dots and spaces at the end are refused."""
    part_bytes: int | None = None
    """The most in one part of a path; on Windows characters."""
    path_bytes: int | None = None
    """The most in a path below the target."""

    @property
    def merges(self) -> bool:
        """Whether names that differ may be one."""
        return self.folds_case or self.composes or self.windows

    def key(self, part: str) -> str:
        """Equal for parts that are one."""
        key = unicodedata.normalize("NFD", part) if self.composes else part
        key = key.casefold() if self.folds_case else key
        return unicodedata.normalize("NFC", key) if self.composes else key

    def spelled(self, part: str) -> str:
        """The part itself, or what stands for it where it is refused; no two refused ones have the same.

        What is refused, and every %, becomes % and two hexadecimal digits for each byte; a long part is cut."""
        spelled = self._percented(part)
        return spelled if self.part_bytes is None or self._size(spelled) <= self.part_bytes else marked(part, part)

    def _percented(self, part: str) -> str:
        refused = [pattern for pattern, on in ((_WINDOWS, self.windows), (_BYTE, self.unicode_only)) if on]
        if not any(pattern.search(part) for pattern in refused):
            return part
        part = part.replace("%", "%25")
        for pattern in refused:
            part = pattern.sub(_percent, part)
        return part

    def _size(self, part: str) -> int:
        return len(part.encode("utf-16-le", "surrogatepass")) // 2 if self.windows else len(_bytes(part))


def _percent(match: re.Match[str]) -> str:
    """The first character of what is refused as % and digits, then the rest."""
    return "".join(f"%{byte:02X}" for byte in _bytes(match[0][0])) + match[0][1:]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def marked(part: str, name: str) -> str:
    """A part that stands for another one: it keeps the beginning and the suffix, and a mark made of the whole name."""
    stem, dot, suffix = part.rpartition(".")
    if not stem or not suffix.isalnum() or not suffix.isascii() or len(suffix) > _LONGEST_SUFFIX:
        stem, dot, suffix = part, "", ""
    stem = _bytes(stem)[:_SHORT_BYTES].decode(errors="ignore")
    stem = re.sub(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\%]', "_", stem)
    return f"{stem}~{hashlib.sha256(_bytes(name)).hexdigest()[:12]}{dot}{suffix}"


def probed(folder: str, target: str) -> FileSystem:
    """What the file system of a folder, in which files are made to try, makes of the names below a target."""
    windows = os.name == "nt"
    return FileSystem(
        folds_case=_one(folder, "probe-a", "PROBE-A"),
        composes=_one(folder, "probe-\u00e9", "probe-e\u0301"),
        unicode_only=windows or not _can_be_made(folder, "probe-\udcff"),
        windows=windows or not _can_be_made(folder, "probe:?"),
        part_bytes=_limit(folder, "PC_NAME_MAX") or 255,
        path_bytes=_below(_limit(folder, "PC_PATH_MAX"), target),
    )


def _one(folder: str, name: str, other: str) -> bool:
    """Whether two names are one file."""
    with suppress(OSError, UnicodeError):
        with open(os.path.join(folder, name), "xb"):
            pass
        found = os.path.lexists(os.path.join(folder, other))
        os.unlink(os.path.join(folder, name))
        return found
    return False


def _can_be_made(folder: str, name: str) -> bool:
    with suppress(OSError, UnicodeError):
        with open(os.path.join(folder, name), "xb"):
            pass
        found = name in os.listdir(folder)
        os.unlink(os.path.join(folder, name))
        return found
    return False


def _limit(folder: str, name: str) -> int | None:
    try:
        return os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):
        return None


def _below(limit: int | None, target: str) -> int | None:
    """Bytes of a path below a target, where those of a whole path are limited; some are kept for a temporary folder."""
    return limit and max(0, limit - 1 - len(_bytes(target)) - 32)


class _Known(Protocol):
    """The names of an archive, as its file system sees them."""

    def has_file(self, path: str, but: str) -> bool:
        """Whether a name is the same as this path, one other than `but`."""

    def has_folder(self, path: str) -> bool:
        """Whether the folder of a name is the same as this path."""

    def owns(self, name: str, spelled: str) -> bool:
        """Whether a name may have the file that is spelled so."""

    def owns_folder(self, path: str, spelled: str) -> bool:
        """Whether a folder may be spelled so."""

    def is_twin(self, name: str) -> bool:
        """Whether a name before this one is the same."""


class _Exact:
    """Where all names differ. Memory: that of the runs."""

    def __init__(self, names: Names):
        self._names = names

    def has_file(self, path: str, but: str) -> bool:
        return path in self._names and path != but

    def has_folder(self, path: str) -> bool:
        return self._names.is_folder(path)

    def owns(self, name: str, spelled: str) -> bool:
        return not self.has_folder(spelled) and not self.has_file(spelled, name)

    def owns_folder(self, path: str, spelled: str) -> bool:
        return path == spelled or not (self.has_folder(spelled) or self.has_file(spelled, ""))

    def is_twin(self, name: str) -> bool:
        return False


class _Merged:
    """Where some names are one: the first has the file, a folder comes before all files. Memory: that of all names."""

    def __init__(self, names: Names, system: FileSystem):
        self._system = system
        self._files: dict[str, str] = {}  # key -> the first name that has it
        self._folders: dict[str, str] = {}
        known: set[str] = set()
        for name in names:
            self._files.setdefault(self._key(name), name)
            folder = name.rpartition("/")[0]
            while folder and folder not in known:
                known.add(folder)
                self._folders.setdefault(self._key(folder), folder)
                folder = folder.rpartition("/")[0]

    def has_file(self, path: str, but: str) -> bool:
        return self._files.get(self._key(path), but) != but

    def has_folder(self, path: str) -> bool:
        return self._key(path) in self._folders

    def owns(self, name: str, spelled: str) -> bool:
        return not self.has_folder(name) and not self.is_twin(name)

    def owns_folder(self, path: str, spelled: str) -> bool:
        return self._folders[self._key(path)] == path

    def is_twin(self, name: str) -> bool:
        return self._files[self._key(name)] != name

    def _key(self, path: str) -> str:
        """Equal for those parts of the same folder that are one; folders that are one get different names."""
        folder, _, part = path.rpartition("/")
        return joined(folder, self._system.key(self._system.spelled(part)))


def joined(folder: str, part: str) -> str:
    """The path of a part in a folder, "" for the top one."""
    return f"{folder}/{part}" if folder else part


class FileNames:
    """Files by the names of an archive's images."""

    def __init__(self, names: Names, system: FileSystem):
        self._system = system
        self._known: _Known = _Merged(names, system) if system.merges else _Exact(names)
        self._last = "", ""  # a folder, and what it is called

    def file(self, name: str, suffix: str, fits: bool) -> str:
        """Path of the file of an image, relative to the target.

        suffix: of its content's format, "" if there is none; fits: whether the content may bear the name."""
        folder, _, part = name.rpartition("/")
        path = joined(self._folder(folder), self._part(name, suffix, fits))
        if self._system.path_bytes is None or len(_bytes(path)) <= self._system.path_bytes:
            return path
        return self._free_part(name, "", marked(part, name), suffix, fits)

    def last_resort(self, name: str, suffix: str) -> str:
        """A file that any file system can have, where it refuses what `file` gives."""
        return marked("", name) + suffix

    def _part(self, name: str, suffix: str, fits: bool) -> str:
        folder, _, part = name.rpartition("/")
        own = self._system.spelled(part)
        if fits and self._known.owns(name, joined(folder, own)):
            return own
        return self._free_part(name, folder, marked(part, name) if self._known.is_twin(name) else part, suffix, fits)

    def _free_part(self, name: str, folder: str, part: str, suffix: str, fits: bool) -> str:
        candidates = self._candidates(part, suffix, fits)
        return next(one for one in candidates if self._is_free(name, folder, one))

    def _candidates(self, part: str, suffix: str, fits: bool) -> Iterator[str]:
        """With PNG in w.jpg: w.jpg.png, w.jpg.1.png, w.jpg.2.png, ..."""
        if fits:
            yield self._system.spelled(part)
        if suffix:
            yield self._system.spelled(part + suffix)
        for number in count(1):
            yield self._system.spelled(f"{part}.{number}{suffix}")

    def _is_free(self, name: str, folder: str, part: str) -> bool:
        """Whether a part is no name in the archive, nor what another name with a suffix may become."""
        path, stem = joined(folder, part), part.rpartition(".")[0]
        if self._known.has_folder(path) or self._known.has_file(path, name):
            return False
        return not stem or not self._known.has_file(joined(folder, stem), name)

    def _folder(self, path: str) -> str:
        if path != self._last[0]:
            self._last = path, self._folder_of(path)
        return self._last[1]

    def _folder_of(self, path: str) -> str:
        parts, above = [], ""
        for part in path.split("/") if path else ():
            parts.append(self._folder_part(above, part))
            above = joined(above, part)
        return "/".join(parts)

    def _folder_part(self, above: str, part: str) -> str:
        path, own = joined(above, part), self._system.spelled(part)
        if self._known.owns_folder(path, joined(above, own)):
            return own
        marks = (marked(part, f"{path}/{number}") for number in count())
        return next(mark for mark in marks if self._is_free("", above, mark))
