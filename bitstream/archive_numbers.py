"""Which images the blocks of an archive hold: numbers kept as runs of consecutive ones."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np

MAX_IMAGES = 1 << 24


class Numbers(Sequence[int]):
    """Numbers in a block's order. Memory: that of the runs, of which `runs` gives (first number, length >= 1)."""

    def __init__(self, runs: Iterable[tuple[int, int]]):
        self.firsts = array("q")
        self.begins = array("q", [0])  # position of each run's first number, then the number of numbers
        for first, length in runs:
            self.firsts.append(first)
            self.begins.append(self.begins[-1] + length)

    def __len__(self) -> int:
        return self.begins[-1]

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        run = bisect_right(self.begins, index) - 1
        return self.firsts[run] + index - self.begins[run]

    def __iter__(self) -> Iterator[int]:
        for first, length in self.runs():
            yield from range(first, first + length)

    def runs(self) -> Iterator[tuple[int, int]]:
        """(first number, length) of each run, in order."""
        for first, (begin, end) in zip(self.firsts, pairwise(self.begins), strict=True):
            yield first, end - begin


def runs_of(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The numbers as the fewest runs (first number, length). Raises ValueError for numbers outside [0, MAX_IMAGES)."""
    first = length = 0
    for number in numbers:
        if not 0 <= number < MAX_IMAGES:
            raise ValueError(f"number of an image: expected 0..{MAX_IMAGES - 1}, found {number}")
        if length and number == first + length:
            length += 1
            continue
        if length:
            yield first, length
        first, length = int(number), 1
    if length:
        yield first, length


class Places:
    """Where each image is. Raises ValueError unless the blocks together hold each of 0, 1, ..., n - 1 once."""

    def __init__(self, blocks: Sequence[Numbers]):
        empty = np.zeros(0, np.int64)
        firsts = np.concatenate([empty, *(np.asarray(block.firsts) for block in blocks)])
        begins = np.concatenate([empty, *(np.asarray(block.begins)[:-1] for block in blocks)])
        lengths = np.concatenate([empty, *(np.diff(block.begins) for block in blocks)])
        order = np.argsort(firsts, kind="stable")
        self._firsts, self._begins = firsts[order], begins[order]
        self._blocks = np.repeat(np.arange(len(blocks)), [len(block.firsts) for block in blocks])[order]
        ends = self._firsts + lengths[order]
        self._count = int(ends[-1]) if ends.size else 0
        if not np.array_equal(self._firsts, np.concatenate([np.zeros(min(ends.size, 1), np.int64), ends[:-1]])):
            raise ValueError(f"numbers of the images: expected each of 0..{lengths.sum() - 1} once")

    def __len__(self) -> int:
        return self._count

    def find(self, number: int) -> tuple[int, int]:
        """Block and position in its order. Raises IndexError for numbers outside 0..n - 1."""
        if not 0 <= number < self._count:
            raise IndexError(f"image {number}: expected 0..{self._count - 1}")
        run = int(np.searchsorted(self._firsts, number, "right")) - 1
        return int(self._blocks[run]), int(self._begins[run] + number - self._firsts[run])
