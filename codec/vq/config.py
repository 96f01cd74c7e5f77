"""Configuration of a VQ-VAE codec, as it stands in recipes and in the weights file."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import check_range

MAX_SIDE = 512
"""Pixels of a side of images."""


@dataclass(frozen=True)
class Level:
    """One residual level of the quantiser.

    codes: codebook size K, 2..32768.
    stride: the level's grid is the latent grid divided by this (rounded up); 1 for plain residual VQ.
    stages: upper bounds of the interleaving rank (0..64) of each coding stage, increasing, last 64.
    """

    codes: int = 256
    stride: int = 1
    stages: tuple[int, ...] = (2, 4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        if not 2 <= self.codes <= 32768:
            raise ValueError(f"codes must be in 2..32768, found {self.codes}")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, found {self.stride}")
        check_range(1, 64, stages=self.stages)
        check_range(1, 512, stride=self.stride)
        if list(self.stages) != sorted(set(self.stages)) or not self.stages or self.stages[-1] != 64:
            raise ValueError(f"stages must increase and end with 64, found {self.stages}")


@dataclass(frozen=True)
class VQConfig:
    """Architecture of a VQ-VAE over square grey images.

    image_size: side in pixels, a multiple of 4; the latent grid has image_size / 4 per side.
    width: channels of the convolutions at the latent resolution.
    latent_dim: D, length of a code vector.
    prior_width, prior_embed, prior_head: hidden units, embedding length and per-position features of the prior.
    prior_dropout: share of inputs and hidden units dropped while the prior trains.
    codebook: "ema" (exponential moving averages) or "gradient" (codebook loss), van den Oord et al. 2017.
    levels: residual levels, coarse to fine.
    """

    image_size: int = 28
    width: int = 64
    latent_dim: int = 16
    prior_width: int = 256
    prior_embed: int = 16
    prior_head: int = 48
    prior_dropout: float = 0.1
    codebook: str = "ema"
    levels: tuple[Level, ...] = field(default_factory=lambda: (Level(), Level(), Level()))

    def __post_init__(self) -> None:
        """Check the fields against each other; raises ValueError."""
        check_range(1, MAX_SIDE, image_size=self.image_size)
        check_range(1, 4096, width=self.width, latent_dim=self.latent_dim, prior_width=self.prior_width)
        check_range(1, 4096, prior_embed=self.prior_embed, prior_head=self.prior_head)
        if not 0 <= self.prior_dropout < 1:
            raise ValueError(f"prior_dropout must be in [0, 1), found {self.prior_dropout}")
        if self.image_size < 4 or self.image_size % 4:
            raise ValueError(f"image_size must be a positive multiple of 4, found {self.image_size}")
        if self.codebook not in ("ema", "gradient"):
            raise ValueError(f"codebook must be 'ema' or 'gradient', found {self.codebook!r}")
        if not 1 <= len(self.levels) <= 4:
            raise ValueError(f"1 to 4 levels are supported, found {len(self.levels)}")

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        return self.image_size // 4

    def level_grid(self, level: int) -> int:
        """Side of the grid of indices of one level."""
        return -(-self.grid // self.levels[level].stride)
