"""Configuration of a lossless photograph model, as it stands in recipes and in the weights file."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import check_range

CHANNELS = 3
ORDER = (1, 0, 2)
"""Green, red, blue: the order in which a pixel's samples are coded."""
LOG_SCALE_MIN, LOG_SCALE_MAX = -3.0, 4.0
"""Range of the log scale of a sample's distribution, in levels of 0..255."""


@dataclass(frozen=True)
class PhotoLosslessConfig:
    """Architecture of a likelihood of photographs in raster order.

    width, blocks: hidden channels and residual blocks of the perceptron that reads a pixel's neighbours.
    hidden: channels of the part that is a sample's own.
    """

    width: int = 96
    blocks: int = 2
    hidden: int = 32

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        check_range(1, 4096, width=self.width, hidden=self.hidden)
        if min(self.width, self.hidden) < 1 or not 0 <= self.blocks <= 6:
            raise ValueError(f"width and hidden must be at least 1, blocks in 0..6, found {self}")
