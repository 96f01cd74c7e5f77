"""Names of an archive's images, kept as runs: 00000.png, 00001.png, ... take the memory and the bytes of one name."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, overload

MAX_NAME = 4096
"""Bytes of UTF-8 in a name."""

_BAD = re.compile(r"[\0-\x1f\x7f-\x9f\\\ud800-\udfff]|\A[A-Za-z]:|(?:\A|/)\.{0,2}(?:/|\Z)")
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
    """The name itself, which is a relative path with "/" between its parts, safe to join to a folder.

    Raises ValueError if it is empty, absolute (/x, C:x) or longer than MAX_NAME bytes, has a part that is empty, "." or
    "..", or holds a backslash, a control character or a surrogate."""
    if _BAD.search(name):
        rule = 'a relative path without backslashes, control characters, and parts that are empty, "." or ".."'
        raise ValueError(f"name {_short(name)}: expected {rule}")
    if len(name) > MAX_NAME or len(name.encode()) > MAX_NAME:
        raise ValueError(f"name {_short(name)}: expected at most {MAX_NAME} bytes of UTF-8, found more")
    return name


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
