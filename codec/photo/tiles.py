"""Large images as tiles that overlap, so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TILE = 2048
"""Pixels between the starts of neighbouring tiles."""
OVERLAP = 64
"""Pixels that neighbours share, over which one fades into the other."""

Box = tuple[slice, slice]


def spans(length: int) -> list[slice]:
    """Tiles of one direction of `length` >= 1 pixels: at most TILE + OVERLAP each."""
    count = max(1, -(-(length - OVERLAP) // TILE))
    return [slice(n * TILE, min(length, (n + 1) * TILE + OVERLAP)) for n in range(count)]


def boxes(height: int, width: int) -> list[Box]:
    """Rows and columns of all tiles, row by row."""
    return [(rows, columns) for rows in spans(height) for columns in spans(width)]


def joined(height: int, width: int, tiles: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The image uint8 [H, W, 3] of its tiles in the order of `boxes`."""
    image = np.empty((height, width, 3), np.uint8)
    for rows in spans(height):
        strip = np.empty((rows.stop - rows.start, width, 3), np.uint8)
        for columns in spans(width):
            _lay(strip[:, columns].swapaxes(0, 1), next(tiles).swapaxes(0, 1), columns.start > 0)
        _lay(image[rows], strip, rows.start > 0)
    return image


def _lay(target: NDArray[np.uint8], tile: NDArray[np.uint8], fade: bool) -> None:
    """Put a tile [n, ...] on its place; with `fade` its first OVERLAP lines fade in over what is there."""
    if not fade:
        target[:] = tile
        return
    shared = min(OVERLAP, len(tile))
    share = (2 * np.arange(shared) + 1).reshape(-1, 1, 1)  # of 2 * OVERLAP
    mixed = (target[:shared] * (2 * OVERLAP - share) + tile[:shared] * share + OVERLAP) // (2 * OVERLAP)
    target[:shared] = mixed.astype(np.uint8)
    target[shared:] = tile[shared:]
