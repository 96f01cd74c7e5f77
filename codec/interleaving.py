"""The order in which interleaved positions are coded."""

from __future__ import annotations

import torch
from torch import Tensor


def bayer(size: int) -> Tensor:
    """The ordered-dither matrix of a power of two: int64 [size, size], a permutation of 0..size**2 - 1.

    Low ranks lie far apart, so positions of neighbouring ranks tell little about each other."""
    tile = torch.zeros(1, 1, dtype=torch.int64)
    while len(tile) < size:
        tile = torch.cat([torch.cat([4 * tile, 4 * tile + 2], 1), torch.cat([4 * tile + 3, 4 * tile + 1], 1)], 0)
    return tile
