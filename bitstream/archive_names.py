"""Names of an archive's images, kept as runs: 00000.png, 00001.png, ... take the memory and the bytes of one name.

A name is what the file system of its image called it: a str, with bytes that are no UTF-8 as surrogates, as
`os.fsdecode` gives them. An index stores it escaped, see `stored_name`."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, overload

MAX_NAME = 4096
"""Bytes in a name, before it is escaped."""

_BAD = re.compile(r"\0|(?:\A|/)\.{0,2}(?:/|\Z)")
_ESCAPED = re.compile(r"[\1-\x1f\x7f-\x9f\\\udc80-\udcff]|(?<=\A[A-Za-z]):")
_ESCAPE = re.compile(rb"\\([0-9a-f]{2})|\\")
_DIGITS = re.compile(r"([0-9]+)")
_SUFFIX = re.compile(r"\.[^0-9./][^./]*\Z")
_MAX_DIGITS = 18  # so that numbers stay below 2^63


class Run(NamedTuple):
    """A name and the number of names, >= 1: itself and those counting on from it."""

    first: str
    length: int


class _Parts(NamedTuple):
    """A name cut around the digits that count, "" if there are none."""

    head: str
    digits: str
    tail: str


def checked_name(name: str) -> str:
    """The name itself, which is a relative path with "/" between its parts.

    Raises ValueError if it is empty, absolute (/x) or longer than MAX_NAME bytes, has a part that is empty, "." or
    "..", or holds U+0000 or surrogates that `os.fsdecode` never makes."""
    if _BAD.search(name):
        rule = 'a relative path without zero bytes, and without parts that are empty, "." or ".."'
        raise ValueError(f"name {_short(name)}: expected {rule}")
    if len(name) > MAX_NAME or len(_bytes(name)) > MAX_NAME:
        raise ValueError(f"name {_short(name)}: expected at most {MAX_NAME} bytes of UTF-8, found more")
    return name


def stored_name(name: str) -> str:
    r"""The name as an index has it, and as it is shown: some bytes become a backslash and two hexadecimal digits.

    They are those of backslashes, of control characters (U+0001 to U+001F, U+007F to U+009F), of what is no UTF-8, and
    of a colon after a first letter: a:b is a\3ab, as C:x would be another drive on some systems. Raises ValueError as
    `checked_name` does."""
    return _ESCAPED.sub(_escape, checked_name(name))


def name_of_stored(data: bytes) -> str:
    """Inverse of `stored_name`, from UTF-8. Raises ValueError for what that never gives: no name has two forms."""
    name = _ESCAPE.sub(_unescape, data).decode("utf-8", "surrogateescape")
    if stored_name(name).encode() != data:
        raise ValueError(f"name {_short(data.decode(errors='replace'))}: expected another form of {_short(name)}")
    return name


def shown(text: str, encoding: str | None = "utf-8") -> str:
    """Text for a terminal or a line of a list, on which it has no effect but to be seen.

    What cannot be printed, or not in this encoding, is escaped as in `stored_name`; backslashes stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _is_plain(char, encoding or "utf-8") else _escaped(char) for char in text)


def _is_plain(char: str, encoding: str) -> bool:
    if char.isascii():
        return char.isprintable()
    try:
        return char.isprintable() and bool(char.encode(encoding))
    except UnicodeEncodeError:
        return False


def _escape(match: re.Match[str]) -> str:
    return _escaped(match[0])


def _escaped(char: str) -> str:
    is_byte = "\udc80" <= char <= "\udcff"  # that is no UTF-8
    data = char.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:02x}" for byte in data)


def _unescape(match: re.Match[bytes]) -> bytes:
    if not match[1]:
        raise ValueError("name: expected two hexadecimal digits after a backslash")
    return bytes([int(match[1], 16)])


def _bytes(name: str) -> bytes:
    """The name's bytes. Raises ValueError if they do not decode to it again."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"name {_short(name)}: expected no surrogate that stands for no byte") from error
    if data.decode("utf-8", "surrogateescape") != name:
        raise ValueError(f"name {_short(name)}: expected no surrogates that spell characters")
    return data


def runs_of(names: Iterable[str]) -> Iterator[Run]:
    """The names as the fewest runs."""
    first, length, parts = "", 0, _Parts("", "", "")
    for name in names:
        found = _split(name)
        if length and _counts_on(parts, found):
            length += 1
        else:
            if length:
                yield Run(first, length)
            first, length = name, 1
        parts = found
    if length:
        yield Run(first, length)


class Names(Sequence[str]):
    """Names in the archive's order. Memory: that of the runs.

    Raises ValueError for a bad name, a name that is there twice, or a run that counts beyond its digits."""

    def __init__(self, runs: Iterable[Run]):
        self._firsts: list[str] = []
        self._begins = array("q", [0])  # index of each run's first name, then the number of names
        self._run_of: dict[str, int] = {}  # first name -> run
        self._long: dict[tuple[str, int, str], list[tuple[int, int]]] = {}  # (head, digits, tail) -> (number, run)
        for run in runs:
            self._add(run)
        self._check_overlaps()
        self._folders: _Folders | None = None  # made when asked for

    def __len__(self) -> int:
        return self._begins[-1]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        run = bisect_right(self._begins, index) - 1
        return _later(self._firsts[run], index - self._begins[run])

    def __iter__(self) -> Iterator[str]:
        for run in self.runs():
            for steps in range(run.length):
                yield _later(run.first, steps)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def runs(self) -> Iterator[Run]:
        """The runs in order."""
        for first, (begin, end) in zip(self._firsts, pairwise(self._begins), strict=True):
            yield Run(first, end - begin)

    def number(self, name: str) -> int:
        """Index of a name. Raises KeyError."""
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def is_folder(self, path: str) -> bool:
        """Whether a name lies below this path."""
        if self._folders is None:
            self._folders = _Folders(self.runs())
        return path in self._folders

    def _find(self, name: str) -> int | None:
        run = self._run_of.get(name)
        return self._inside(name) if run is None else self._begins[run]

    def _inside(self, name: str) -> int | None:
        """Index of a name that is inside a run, not its first."""
        head, digits, tail = _split(name)
        long = self._long.get((head, len(digits), tail), [])
        place = bisect_right(long, int(digits or 0), key=lambda entry: entry[0]) - 1
        if place < 0:
            return None
        first, run = long[place]
        index = self._begins[run] + int(digits) - first
        return index if index < self._begins[run + 1] else None

    def _add(self, run: Run) -> None:
        if checked_name(run.first) in self._run_of:
            raise ValueError(f"name {_short(run.first)}: there twice")
        if run.length > 1:
            self._add_long(run)
        self._run_of[run.first] = len(self._firsts)
        self._firsts.append(run.first)
        self._begins.append(self._begins[-1] + run.length)

    def _add_long(self, run: Run) -> None:
        head, digits, tail = _split(run.first)
        if int(digits or 0) + run.length > 10 ** len(digits):
            raise ValueError(f"name {_short(run.first)}: its digits do not count on to {run.length} names")
        self._long.setdefault((head, len(digits), tail), []).append((int(digits), len(self._firsts)))

    def _check_overlaps(self) -> None:
        for long in self._long.values():
            long.sort()
            for (first, run), (after, other) in pairwise(long):
                if first + self._begins[run + 1] - self._begins[run] > after:
                    raise ValueError(f"name {_short(self._firsts[other])}: there twice")
        for run, name in enumerate(self._firsts) if self._long else ():
            if self._begins[run + 1] - self._begins[run] == 1 and self._inside(name) is not None:
                raise ValueError(f"name {_short(name)}: there twice")


class _Folders:
    """The folders of names. Memory: that of the runs."""

    def __init__(self, runs: Iterable[Run]):
        self._firsts: list[str] = []
        self._counting: dict[tuple[str, int], list[tuple[str, int, int]]] = {}  # (head, digits) -> (tail, begin, end)
        for first, length in runs:
            self._firsts.append(first)
            head, digits, tail = _split(first)
            if length > 1 and "/" in tail:
                entry = tail, int(digits), int(digits) + length
                self._counting.setdefault((head, len(digits)), []).append(entry)
        self._firsts.sort()
        for entries in self._counting.values():
            entries.sort()

    def __contains__(self, path: str) -> bool:
        place = bisect_left(self._firsts, f"{path}/")
        following = self._firsts[place] if place < len(self._firsts) else ""
        return following.startswith(f"{path}/") or self._counts(path)

    def _counts(self, path: str) -> bool:
        """Whether it is a folder whose digits count: a7/x.png counts on to a8/x.png."""
        digits, after = ["", *_DIGITS.split(path)][-2:] if self._counting else ("", "")
        digits = digits[-_MAX_DIGITS:]
        head = path[: len(path) - len(digits) - len(after)]
        entries = self._counting.get((head, len(digits)), [])
        for place in range(bisect_left(entries, (f"{after}/",)), len(entries)):
            tail, begin, end = entries[place]
            if not tail.startswith(f"{after}/"):
                break
            if begin <= int(digits) < end:
                return True
        return False


def _split(name: str) -> _Parts:
    """The digits that count are the last ones before the suffix, so that 1.jp2 counts on to 2.jp2 and not to 1.jp3."""
    suffix = _SUFFIX.search(name)
    stem = name[: suffix.start()] if suffix else name
    digits, after = ["", *_DIGITS.split(stem)][-2:]
    digits = digits[-_MAX_DIGITS:]
    return _Parts(stem[: len(stem) - len(digits) - len(after)], digits, after + name[len(stem) :])


def _counts_on(before: _Parts, after: _Parts) -> bool:
    same = (before.head, len(before.digits), before.tail) == (after.head, len(after.digits), after.tail)
    return same and bool(after.digits) and int(after.digits) == int(before.digits) + 1


def _later(name: str, steps: int) -> str:
    """The name so many steps on."""
    if not steps:
        return name
    head, digits, tail = _split(name)
    return f"{head}{int(digits) + steps:0{len(digits)}}{tail}"


def _short(name: str) -> str:
    """The name for a message: one line, not endless."""
    return repr(name if len(name) <= 80 else name[:80] + "...")
