"""Configuration of a photograph model, as it stands in recipes and in the weights file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from ..config import check_range
from ..family import QUALITIES

SAMPLES = 3
"""Colour channels."""
MAX_BLOCKS = 5
"""So many values of residual branches, and three more, add up to less than fixed-point layers may be fed."""
LOG_SCALE_MIN, LOG_SCALE_MAX = -2.5, 4.5
"""Range of the log scale of rounded distances; at the lower end a latent is not coded at all and taken as 0."""


@dataclass(frozen=True)
class Level:
    """A level of latents. stride: pixels between positions.  latents: channels of z.  width, blocks: hidden channels
    and residual blocks of its part of the prior (exact)."""

    stride: int
    latents: int
    width: int
    blocks: int

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        check_range(1, 128, stride=self.stride)
        check_range(1, 4096, latents=self.latents, width=self.width)
        if self.stride < 1 or min(self.latents, self.width) < SAMPLES or not 0 <= self.blocks <= MAX_BLOCKS:
            raise ValueError(
                f"a level needs stride >= 1, latents and width >= {SAMPLES}, 0 to {MAX_BLOCKS} blocks, found {self}"
            )


@dataclass(frozen=True)
class PhotoConfig:
    """Architecture of a ladder over colour images of any size.

    levels: from the coarsest to the finest; each stride is the one before or half of it. The levels of the last stride
    together hold the coefficients of a block transform of that size, at first those of a DCT.
    width, analysis_blocks, synthesis_blocks: float networks at the last stride.
    fine_width, fine_blocks: those at half of it, near the pixels.
    weight_low, weight_high: bits per pixel that one unit of mean squared error (levels 0..255) is worth at quality 1
    and 100 (the lambda of the rate-distortion objective, in CompressAI's unit); between them they grow geometrically.
    """

    levels: tuple[Level, ...] = (
        Level(64, 24, 64, 1),
        Level(32, 24, 96, 1),
        Level(16, 48, 128, 2),
        Level(8, 32, 96, 1),
        Level(8, 64, 96, 2),
    )
    width: int = 160
    analysis_blocks: int = 3
    synthesis_blocks: int = 4
    fine_width: int = 64
    fine_blocks: int = 2
    weight_low: float = 0.0005
    weight_high: float = 0.13

    def __post_init__(self) -> None:
        """Check the fields against each other; raises ValueError."""
        check_range(1, 16, levels=len(self.levels))
        check_range(1, 4096, width=self.width, fine_width=self.fine_width)
        check_range(0, 64, analysis_blocks=self.analysis_blocks, synthesis_blocks=self.synthesis_blocks)
        check_range(0, 64, fine_blocks=self.fine_blocks)
        check_range(1e-9, 1e9, weight_low=self.weight_low, weight_high=self.weight_high)
        if self.stride > 32:
            raise ValueError(f"the last stride must be at most 32, found {self.stride}")
        if not self.levels or any(above.stride not in (below.stride, 2 * below.stride) for above, below in self.pairs):
            raise ValueError("levels: each stride must be that of the level before, or half of it")
        if self.stride < 4 or self.stride & (self.stride - 1):
            raise ValueError(f"the last stride must be a power of two from 4, found {self.stride}")
        if sum(level.latents for level in self.finest) > SAMPLES * self.stride**2:
            raise ValueError("the levels of the last stride have more latents than a block has samples")
        if self.width < 2 or self.fine_width < 1:
            raise ValueError("width must be at least 2, as blocks halve it, fine_width at least 1")
        if min(self.analysis_blocks, self.synthesis_blocks, self.fine_blocks) < 0:
            raise ValueError("numbers of blocks must be at least 0")
        if not 0 < self.weight_low < self.weight_high:
            raise ValueError("weights must be positive, and rise")

    @property
    def pairs(self) -> list[tuple[Level, Level]]:
        """Neighbouring levels."""
        return list(pairwise(self.levels))

    @property
    def stride(self) -> int:
        """Of the finest levels: side of a block."""
        return self.levels[-1].stride

    @property
    def multiple(self) -> int:
        """Sides of images that the networks take are multiples of this."""
        return self.levels[0].stride

    @property
    def finest(self) -> tuple[Level, ...]:
        """The levels of the last stride."""
        return tuple(level for level in self.levels if level.stride == self.stride)

    def weight(self, quality: float) -> float:
        """Bits per pixel that one unit of mean squared error is worth at a quality 1..100."""
        return self.weight_low * math.exp(
            (quality - 1) / (QUALITIES - 1) * math.log(self.weight_high / self.weight_low)
        )
