"""Which images go into a block together: decided from the images alone, as they come, so that the archive is the same
whoever does the work. Few images are held: those of blocks that are not full yet."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import TooLarge, UnsupportedImage
from ..images import is_binary
from ..opening import size_of
from .blocks import MAX_BITS_BACK, MAX_BLOCK_BYTES, MAX_FILES, MAX_FILES_BYTES
from .io.sources import Item
from .library import Candidate
from .pictures import plane_of, read_item
from .tasks import Files, Group, Task

_MAX_FILES_PIXELS = 1 << 24
_Key = tuple[str, int, tuple[str, ...]]  # mode, side, models


def plan(
    items: Iterable[Item],
    candidates: Sequence[Candidate],
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Task]:
    """Tasks that hold the images, numbered from 0 as they come.

    Grey images of the size of candidates go to groups by mode and by the candidates that may take them, all others to
    blocks of files."""
    groups: dict[_Key, _Pixels] = {}
    rest = _Rest()
    sides = {candidate.side for candidate in candidates}
    for number, item in enumerate(items):
        shape = _shape(item)
        square = shape is not None and shape[0] == shape[1] and shape[0] in sides
        found = _grey(item, shape, max_pixels, max_bytes) if shape and square else None
        if found is None:
            yield from rest.add(number, item, shape)
            continue
        mode, plane = found
        key = (mode, len(plane), _that_take(plane, candidates))
        if not key[2]:
            yield from rest.add(number, item, shape)
            continue
        group = groups.setdefault(key, _Pixels())
        group.add(number, plane)
        if len(group.numbers) == min(MAX_BITS_BACK, max(1, MAX_BLOCK_BYTES // plane.nbytes)):
            yield groups.pop(key).task(key)
    yield from (group.task(key) for key, group in groups.items())
    yield from rest.flush()


@dataclass
class _Pixels:
    """A group that is not full yet."""

    numbers: list[int] = field(default_factory=list)
    planes: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, number: int, plane: NDArray[np.uint8]) -> None:
        self.numbers.append(number)
        self.planes.append(plane)

    def task(self, key: _Key) -> Group:
        return Group(tuple(self.numbers), key[0], np.stack(self.planes), key[2])


@dataclass
class _Rest:
    """A block of files that is not full yet. pixels: of its images, which whoever codes them holds."""

    numbers: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    size: int = 0
    pixels: int = 0

    def add(self, number: int, item: Item, shape: tuple[int, ...] | None) -> Iterator[Files]:
        """Yields the block if the image would make it too large, or is its last."""
        size, pixels = _size(item), math.prod(shape or ())
        if self.size + size > MAX_FILES_BYTES or self.pixels + pixels > _MAX_FILES_PIXELS:
            yield from self.flush()
        self.numbers.append(number)
        self.items.append(item)
        self.size += size
        self.pixels += pixels
        if len(self.items) == MAX_FILES:
            yield from self.flush()

    def flush(self) -> Iterator[Files]:
        """Yields the block, unless it is empty."""
        if self.items:
            yield Files(tuple(self.numbers), tuple(self.items))
        self.numbers, self.items, self.size, self.pixels = [], [], 0, 0


def _size(item: Item) -> int:
    if item.array is not None:
        return item.array.nbytes
    return len(item.file or b"")


def _that_take(plane: NDArray[np.uint8], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    fit = [candidate for candidate in candidates if candidate.side == len(plane)]
    binary = any(candidate.binary for candidate in fit) and is_binary(plane)
    return tuple(candidate.source for candidate in fit if binary or not candidate.binary)


def _grey(item: Item, shape: tuple[int, ...], max_pixels: int, max_bytes: int) -> tuple[str, NDArray[np.uint8]] | None:
    """Mode and pixels uint8 [S, S] of an image that is nothing but grey and has the shape of its header, else None.

    None also for what cannot be read: that is found out when it is coded."""
    if item.array is not None and item.array.ndim == 2 and item.array.dtype == np.uint8:
        return "L", item.array.copy()  # as it comes by way of Pillow, which takes ten times as long
    with suppress(UnsupportedImage, TooLarge):
        source = read_item(item, max_pixels, max_bytes)
        plane = plane_of(source)
        return None if plane is None or plane.shape != shape else (source.picture.mode, plane)
    return None


def _shape(item: Item) -> tuple[int, ...] | None:
    """Height and width by the header, None if it cannot be read."""
    if item.array is not None:
        return item.array.shape[:2]
    with suppress(UnsupportedImage, TooLarge):
        return size_of(io.BytesIO(item.file or b""))[::-1]
    return None
