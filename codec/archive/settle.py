"""Which images go to solid blocks: where many of them together, as pixels, take fewer bytes than as they were coded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ...bitstream.archive import Block
from .blocks import Form, files_block, is_by_model
from .solid import MAX_IMAGES, MAX_PIXEL_BYTES, Run
from .solid_search import Family, blocks_of, families, size_of
from .tasks import Done, Part

_UNCERTAIN = 0.85  # how far below its estimate a size may come out
_SMALL = 1 << 17  # bytes of pixels of which every choice is made and measured
_FORM_BYTES = 3  # of an image in a FILES block, besides its file


@dataclass(eq=False)
class _Unit:
    """Images that are chosen together. size: bytes that they take as they were coded, infinite if they were not."""

    runs: list[Run] = field(default_factory=list)
    size: float = 0


@dataclass(frozen=True)
class _Choice:
    """Units whose images go to solid blocks; rest: bytes that the others take."""

    chosen: tuple[_Unit, ...]
    kinds: list[Family]
    rest: float

    @property
    def estimate(self) -> float:
        return self.rest + sum(kind.estimate for kind in self.kinds)


def settled(done: Iterable[Done]) -> Iterator[Done]:
    """The same images in the blocks that are smallest, some of them later. Holds the pixels of a solid block."""
    waiting: list[Part] = []
    images = size = 0
    for each in done:
        yield Done(each.images, tuple(part for part in each.parts if not part.runs), each.notes)
        for part in each.parts:
            if not part.runs:
                continue
            held, nbytes = _images(part), sum(run.body_bytes for run in part.runs)
            if waiting and (size + nbytes > MAX_PIXEL_BYTES or images + held > MAX_IMAGES):
                yield Done(0, tuple(smallest(waiting)))
                waiting, images, size = [], 0, 0
            waiting.append(part)
            images, size = images + held, size + nbytes
    if waiting:
        yield Done(0, tuple(smallest(waiting)))


def smallest(parts: Sequence[Part]) -> list[Part]:
    """Parts of the same images that take the fewest bytes."""
    units = _units(parts)
    best = sum(unit.size for unit in units)
    taken: tuple[tuple[_Unit, ...], list[Block]] = (), []
    for choice in _choices(units):
        if _UNCERTAIN * choice.estimate >= best and not _are_few(units):
            continue
        blocks = blocks_of(choice.kinds)
        if choice.rest + size_of(blocks) < best:
            best, taken = choice.rest + size_of(blocks), (choice.chosen, blocks)
    gone = {number for run in _runs(taken[0]) for number in run.numbers}
    return [*(left for part in parts if (left := _without(part, gone))), *(Part(block, None, ()) for block in taken[1])]


def _images(part: Part) -> int:
    return sum(len(run.rows) for run in part.runs)


def _runs(units: Sequence[_Unit]) -> list[Run]:
    """The runs of units in the order of their first images, which is that of the archive."""
    return sorted((run for unit in units for run in unit.runs), key=lambda run: run.numbers[0])


def _are_few(units: Sequence[_Unit]) -> bool:
    return sum(run.nbytes for unit in units for run in unit.runs) <= _SMALL


def _units(parts: Sequence[Part]) -> list[_Unit]:
    """A unit per bits-back block; of files, one for each colour type and depth, and whether models coded them."""
    units: dict[object, _Unit] = defaultdict(_Unit)
    for number, part in enumerate(parts):
        if part.block is None:
            units[None].runs.extend(part.runs)
            units[None].size = math.inf
            continue
        if part.forms is None:
            units[number] = _Unit(list(part.runs), size_of([part.block]))
            continue
        forms = dict(zip(part.block.numbers, part.forms, strict=True))
        for run in part.runs:
            unit = units[run.look.colour, run.look.depth, is_by_model(forms[run.numbers[0]])]
            unit.runs.append(run)
            unit.size += sum(len(forms[image].data) + _FORM_BYTES for image in run.numbers)
    return list(units.values())


def _choices(units: Sequence[_Unit]) -> list[_Choice]:
    """All images, and those that seem to take less by themselves; the one that seems the smaller first."""
    gains = {kind.key: kind.gain for kind in families(_runs(units))}
    better = [unit for unit in units if sum(gains[kind.key] * kind.quick for kind in families(unit.runs)) < unit.size]
    choices = [
        _Choice(tuple(chosen), families(_runs(chosen)), sum(unit.size for unit in units if unit not in chosen))
        for chosen in ([units] if len(better) == len(units) else [better, units])
        if chosen
    ]
    return sorted(choices, key=lambda choice: choice.estimate)


def _without(part: Part, gone: set[int]) -> Part | None:
    """What is left of a part without some images."""
    if part.block is None:
        return None
    kept = [position for position, number in enumerate(part.block.numbers) if number not in gone]
    if len(kept) == len(part.block.numbers):
        return part
    if not kept or part.forms is None:
        return None
    forms: list[Form] = [part.forms[position] for position in kept]
    return Part(files_block([part.block.numbers[position] for position in kept], forms), tuple(forms), ())
