"""In which order pixels are coded: tiles side by side, each in waves of pixels that are no neighbours of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...bitstream.ans import Integers
from .model import NEIGHBOURS, RADIUS, SLOPE

TILE = 256
"""Side of a tile. Tiles do not know each other, so that their waves are coded together."""
TOGETHER = 64
"""Tiles of a group, which has a stream of its own; bounds the memory."""

Box = tuple[slice, slice]


def groups(height: int, width: int) -> list[list[Box]]:
    """Rows and columns of all tiles, row by row, in groups."""
    rows, columns = (_spans(length) for length in (height, width))
    boxes = [(row, column) for row in rows for column in columns]
    return [boxes[start : start + TOGETHER] for start in range(0, len(boxes), TOGETHER)]


def _spans(length: int) -> list[slice]:
    return [slice(start, min(start + TILE, length)) for start in range(0, length, TILE)]


@dataclass(frozen=True)
class Wave:
    """Pixels of all tiles of a group that are coded at once. pixels: the slice of `Waves.places` that they are.

    echoes: places beyond a tile's edges that take the values of pixels of this wave, int64 [m]; of: which, int64 [m],
    in this wave."""

    pixels: slice
    echoes: Integers
    of: Integers


class Waves:
    """Where the pixels of a group lie, wave after wave, on a canvas: per tile, `height` rows of `width` places.

    A tile's first pixel lies RADIUS rows and columns from the corner."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        """sizes: height and width of every tile."""
        self.height = max(height for height, _ in sizes) + RADIUS
        self.width = max(width for _, width in sizes) + 2 * RADIUS
        self.tiles = len(sizes)
        self.offsets = np.array([a * self.width + b for a, b in NEIGHBOURS])
        parts = [self._tile(number, *size) for number, size in enumerate(sizes)]
        wave, places = (np.concatenate([part[n] for part in parts]) for n in range(2))
        order = np.argsort(wave, kind="stable")
        self.places: Integers = places[order]
        self._ends = np.searchsorted(wave[order], np.arange(wave.max() + 2))
        # The last pixel of a row goes on to its right, the first one is what the next row sees to its left.
        beyond, left, right = np.arange(RADIUS), *(np.concatenate([part[n] for part in parts]) for n in (2, 3))
        sources = np.concatenate([left, right]).repeat(RADIUS)
        targets = np.concatenate([left[:, None] + self.width - RADIUS + beyond, right[:, None] + 1 + beyond]).ravel()
        number = np.empty(self.size, np.int64)  # of the pixel at a place
        number[self.places] = np.arange(len(self.places))
        by_pixel = np.argsort(number[sources], kind="stable")
        self._echo_pixel, self._echoes = number[sources][by_pixel], targets[by_pixel]
        self._echo_ends = np.searchsorted(self._echo_pixel, self._ends)

    def __len__(self) -> int:
        """How many pixels."""
        return len(self.places)

    @property
    def size(self) -> int:
        """Places of the whole canvas."""
        return self.tiles * self.height * self.width

    def __iter__(self) -> Iterator[Wave]:
        for number in range(len(self._ends) - 1):
            first, end = self._ends[number], self._ends[number + 1]
            if first == end:  # in tiles of one column
                continue
            echoes = slice(self._echo_ends[number], self._echo_ends[number + 1])
            yield Wave(slice(first, end), self._echoes[echoes], self._echo_pixel[echoes] - first)

    def _tile(self, number: int, height: int, width: int) -> tuple[Integers, Integers, Integers, Integers]:
        """Of all pixels in raster order, waves and places [n]; places of the first pixels of all rows but the last, and
        of the last pixels of all rows."""
        row, column = np.arange(height)[:, None], np.arange(width)
        place = (number * self.height + RADIUS + row) * self.width + RADIUS + column
        return (column + SLOPE * row).ravel(), place.ravel(), place[:-1, 0], place[:, -1]


def laid_out(waves: Waves, tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles uint8 [h, w, C] as the pixels of a group, uint8 [pixels, C], wave after wave."""
    canvas = np.zeros((waves.tiles, waves.height, waves.width, tiles[0].shape[2]), np.uint8)
    for number, tile in enumerate(tiles):
        canvas[number, RADIUS : RADIUS + len(tile), RADIUS : RADIUS + tile.shape[1]] = tile
    return canvas.reshape(waves.size, -1)[waves.places]


def taken_back(waves: Waves, pixels: NDArray[np.uint8], sizes: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    """Inverse of `laid_out`."""
    canvas = np.zeros((waves.size, pixels.shape[1]), np.uint8)
    canvas[waves.places] = pixels
    tiles = canvas.reshape(waves.tiles, waves.height, waves.width, -1)
    return [
        tiles[number, RADIUS : RADIUS + height, RADIUS : RADIUS + width] for number, (height, width) in enumerate(sizes)
    ]
