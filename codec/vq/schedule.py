"""The order in which indices are coded: levels coarse to fine, and interleaved stages within a level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..interleaving import bayer
from .config import VQConfig

_SHIFT = 5  # moves the lowest ranks of the 8x8 tile away from the corner of a small grid


@dataclass(frozen=True)
class Step:
    """One parallel coding step.

    number: position in the schedule.
    level: residual level whose indices are coded.
    positions: int64 [n], raster positions within the level's grid, ascending.
    known: for every level, the raster positions coded in the steps before (in coding order).
    """

    number: int
    level: int
    positions: Tensor
    known: tuple[Tensor, ...]


def interleaving_rank(height: int, width: int) -> Tensor:
    """Rank 0..63 of every grid position: the 8x8 ordered-dither (Bayer) matrix, shifted and tiled.

    Returns int64 [height, width]. Low ranks lie far apart, so positions of one stage tell little about each other.
    """
    tile = bayer(8)
    rows = (torch.arange(height) + _SHIFT) % 8
    columns = (torch.arange(width) + _SHIFT) % 8
    return tile[rows][:, columns]


def schedule(config: VQConfig) -> list[Step]:
    """All coding steps of a model; stages that hold no position of the grid are left out."""
    none = torch.zeros(0, dtype=torch.int64)
    known = [none for _ in config.levels]
    steps: list[Step] = []
    for level, spec in enumerate(config.levels):
        side = config.level_grid(level)
        rank = interleaving_rank(side, side).flatten()
        for low, high in zip((0, *spec.stages), spec.stages, strict=False):
            positions = ((rank >= low) & (rank < high)).nonzero()[:, 0]
            if len(positions):
                steps.append(Step(len(steps), level, positions, tuple(known)))
                known[level] = torch.cat([known[level], positions])
    return steps
