"""How the pixels of a solid block are coded: forms are tried on a sample, and the best one or two on all pixels."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from ...bitstream.archive import SOLID, Block
from ..png import GREY, GREY_ALPHA, PALETTE, RGB
from .solid import (
    COLUMNS,
    MAX_PIXEL_BYTES,
    PLANES,
    ROWS,
    Arrangement,
    Coded,
    Run,
    body_of,
    fits,
    joined,
    payload_of,
    pixel_bytes,
)

Settings = tuple[int, int, int]
"""LZMA's lc, lp and pb."""
_XZ: Settings = (3, 0, 2)
"""What `xz` takes."""
_AS_IT_IS = Arrangement()
_SAMPLE, _CLUSTERS = 1 << 18, 8  # bytes of a sample, and groups of neighbours that it consists of
_SAMPLE_PRESET, _QUICK_PRESET = 4, 0
_CLEARLY = 1.05  # how much smaller a sample must be than as it is, for the form to need no comparison on all pixels
_TELLS = 16  # a sample that is coded in a smaller part of its bytes does not tell forms apart
_SHARED = 1 << 16  # bytes of pixels below which kinds of images share a block
_ONE_BLOCK = 1 << 18  # bytes of pixels of all kinds below which they do, too
_BLOCK_BYTES = 14  # what the index takes for a block, about


@dataclass(frozen=True)
class Coding:
    """A way to code images of one colour type and depth. depth: bits of a coded sample."""

    depth: int
    arrangement: Arrangement = _AS_IT_IS
    settings: Settings = _XZ


class Family:
    """Images of one colour type and depth, with any sizes and palettes, and how they are best coded."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = joined(runs)
        self.nbytes = sum(run.nbytes for run in self.runs)
        self.key = self.runs[0].look.colour, self.runs[0].look.depth

    @cached_property
    def codings(self) -> tuple[Coding, ...]:
        """The one that is best for a sample; then the pixels as they are, if those may be smaller on the whole."""
        tried = _tried(self.runs)
        sizes = [_size(self._sample, coding, _SAMPLE_PRESET) for coding in tried]
        best = tried[int(np.argmin(sizes))]
        same = (best.depth, best.arrangement) == (tried[0].depth, tried[0].arrangement)
        clear = best == tried[0] or ((same or min(sizes) * _CLEARLY < sizes[0]) and min(sizes) * _TELLS > self._sampled)
        return (best,) if clear else (best, tried[0])

    @property
    def sampled(self) -> float:
        """About the bytes of the coded pixels, as far as a sample tells: it sees no images that repeat far away."""
        return self.gain * self.quick

    @property
    def estimate(self) -> float:
        """About the bytes of the coded pixels, repeats included."""
        return self.gain * self._quick_whole

    @cached_property
    def gain(self) -> float:
        """What the best coding of a sample takes of what a quick pass takes, as for all of the images."""
        return _size(self._sample, self.codings[0], _SAMPLE_PRESET) / _size(self._sample, self._quick, _QUICK_PRESET)

    @cached_property
    def quick(self) -> float:
        """About the bytes that a quick pass takes, as far as a sample tells."""
        return _size(self._sample, self._quick, _QUICK_PRESET) * self.nbytes / self._sampled

    @cached_property
    def _quick_whole(self) -> int:
        return _size(self.runs, self._quick, _QUICK_PRESET)

    @property
    def _quick(self) -> Coding:
        return Coding(self.runs[0].look.depth)

    @property
    def _sampled(self) -> int:
        """Bytes of the sample's pixels."""
        return _bytes(self._sample)

    @cached_property
    def _sample(self) -> list[Run]:
        return list(_clusters(self.runs, self.nbytes)) if self.nbytes > _SAMPLE else self.runs


def families(runs: Iterable[Run]) -> list[Family]:
    """The images by colour type and depth, each in their order."""
    found: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in runs:
        found[run.look.colour, run.look.depth].append(run)
    return [Family(part) for part in found.values()]


def blocks_of(kinds: Sequence[Family]) -> list[Block]:
    """SOLID blocks of all of the images: one for each kind, but small kinds share one."""
    if sum(kind.nbytes for kind in kinds) <= _ONE_BLOCK:
        return [_block(kinds)]
    small = [kind for kind in kinds if kind.nbytes <= _SHARED]
    return [_block([kind]) for kind in kinds if kind not in small] + ([_block(small)] if small else [])


def size_of(blocks: Iterable[Block]) -> int:
    """Bytes of blocks, and about what the index takes for them."""
    return sum(len(block.payload) + len(block.extra) + _BLOCK_BYTES for block in blocks)


def _block(kinds: Sequence[Family]) -> Block:
    """The smallest block of the images of some kinds."""
    largest = max(kinds, key=lambda kind: kind.nbytes)
    payloads = []
    for number in range(max(len(kind.codings) for kind in kinds)):
        chosen = [kind.codings[min(number, len(kind.codings) - 1)] for kind in kinds]
        body = body_of([_coded(kind.runs, coding) for kind, coding in zip(kinds, chosen, strict=True)])
        settings = {largest.codings[min(number, len(largest.codings) - 1)].settings}
        payloads += [payload_of(body, each) for each in settings | ({_XZ} if len(body) <= _SHARED else set())]
    return Block(SOLID, b"", min(payloads, key=len), [n for kind in kinds for run in kind.runs for n in run.numbers])


def _coded(runs: Sequence[Run], coding: Coding) -> Coded:
    return Coded(runs, coding.depth, coding.arrangement)


def _size(runs: Sequence[Run], coding: Coding, preset: int) -> int:
    """Bytes of the coded pixels."""
    return len(payload_of(pixel_bytes([_coded(runs, coding)]), coding.settings, preset))


def _bytes(runs: Sequence[Run]) -> int:
    return sum(run.nbytes for run in runs)


def _clusters(runs: Sequence[Run], total: int) -> Iterator[Run]:
    """Parts of runs: neighbours from evenly spaced places, and some rows of images that are large."""
    begins, share = list(accumulate((run.nbytes for run in runs), initial=0)), _SAMPLE // _CLUSTERS
    for cluster in range(_CLUSTERS):
        at = total * cluster // _CLUSTERS
        number, left = bisect_right(begins, at) - 1, share
        first = (at - begins[number]) * len(runs[number].rows) // runs[number].nbytes
        while left > 0 and number < len(runs):
            part = _part(runs[number], first, left)
            yield part
            number, first, left = number + 1, 0, left - part.nbytes


def _part(run: Run, first: int, size: int) -> Run:
    """Images from the first one on of about so many bytes; some rows of one that is larger."""
    each = run.nbytes // len(run.rows)
    part = run[first : first + max(1, size // each)]
    rows = max(1, size // part.rows.shape[2]) if each > size else run.height
    top = (run.height - rows) // 2
    return Run(part.numbers, part.rows[:, top : top + rows], run.width, run.look)


def _tried(runs: Sequence[Run]) -> list[Coding]:
    """Codings worth trying, the pixels as they are first."""
    look = runs[0].look
    depths = _depths(runs)
    found = [Coding(look.depth)]
    for depth in depths:
        found.append(Coding(depth, settings=(4, 0, 0) if look.depth < 16 else (3, 1, 1)))
        if look.colour in (GREY, PALETTE) and depth <= 8:
            found.append(Coding(depth, Arrangement(order=COLUMNS), (4, 0, 0)))
    if look.depth >= 8 and look.colour != PALETTE:
        found += _filtered(look.colour, look.depth)
    return found


def _filtered(colour: int, depth: int) -> Iterator[Coding]:
    """Codings with PNG's filters, colour differences, and colours apart."""
    differences = depth == 8 and colour not in (GREY, GREY_ALPHA)
    yield Coding(depth, Arrangement(4, differences, PLANES), (3, 0, 0))
    if depth == 16:
        yield Coding(depth, Arrangement(1, False, PLANES), (3, 0, 0))
        yield Coding(depth, Arrangement(0, False, PLANES), (3, 0, 0))
    elif colour == GREY:
        yield Coding(depth, Arrangement(2), (4, 0, 0))
        yield Coding(depth, Arrangement(1), (4, 0, 0))
    elif colour == RGB:
        yield Coding(depth, Arrangement(0, True, ROWS), (3, 0, 0))
        yield Coding(depth, Arrangement(0, True, PLANES), (3, 0, 0))
    else:
        settings = (2, 2, 2) if depth == 8 and colour != GREY_ALPHA else (3, 1, 1)
        yield Coding(depth, Arrangement(0, False, ROWS), settings)
        yield Coding(depth, Arrangement(0, differences, ROWS), settings)
        yield Coding(depth, Arrangement(0, differences, PLANES), (3, 0, 0))


def _depths(runs: Sequence[Run]) -> list[int]:
    """Bits per sample that images can be coded with: their own, the least, and a byte for images of fewer bits."""
    look = runs[0].look
    if look.colour not in (GREY, PALETTE) or look.depth == 16:
        return [look.depth]
    least = next(depth for depth in (1, 2, 4, 8) if depth == look.depth or all(fits(run, depth) for run in runs))
    small = _bytes(runs) * 8 // look.depth <= min(MAX_PIXEL_BYTES, _SAMPLE * 16)
    return list(dict.fromkeys([look.depth, least, *([8] if small else [])]))
