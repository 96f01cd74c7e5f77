"""Configuration of a VQ-VAE of photographs, as it stands in recipes and in the weights file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from ..config import check_range
from ..photo.config import SAMPLES

PHASES = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Row and column, modulo 2, of the indices of every stage of a level."""

MOST_OF_A_STRIDE = 3
"""Features of the exact prior grow by two clamped terms with each: 2n + 1 stay below its layers' INPUT_BOUND."""


@dataclass(frozen=True)
class Codebook:
    """A level of indices. stride: pixels between positions.  size: number of vectors, 2..32768.  length: of a vector.
    blocks: residual blocks of the decoder before it."""

    stride: int
    size: int
    length: int
    blocks: int = 1

    def __post_init__(self) -> None:
        """Check the ranges; raises ValueError."""
        check_range(1, 64, stride=self.stride)
        check_range(1, 1024, length=self.length)
        check_range(0, 64, blocks=self.blocks)
        if self.stride < 1 or self.blocks < 0:
            raise ValueError(f"a codebook needs stride >= 1 and blocks >= 0, found {self}")
        if not 2 <= self.size <= 32768:
            raise ValueError(f"size must be in 2..32768, found {self.size}")
        if not 1 <= self.length <= SAMPLES * self.stride**2:
            raise ValueError(
                f"length must be in 1..{SAMPLES * self.stride**2}, the samples of a block, found {self.length}"
            )


@dataclass(frozen=True)
class PhotoVQConfig:
    """Architecture of a VQ-VAE over colour images of any size.

    codebooks: from the coarsest to the finest; each stride is the one before or half of it. A vector holds coefficients
    of a block transform of its stride, at first those of a DCT, less what the levels above predict of them.
    width, analysis_blocks, synthesis_blocks: float networks; blocks at the last stride.
    fine_width, fine_blocks: those at half of it, near the pixels.
    prior_width, prior_embed, prior_hidden: features of the context, length of embeddings and hidden channels of a stage
    of the prior (exact).
    weight: bits per pixel that one unit of mean squared error (levels 0..255) is worth, when indices are chosen.
    """

    codebooks: tuple[Codebook, ...] = (
        Codebook(32, 512, 16),
        Codebook(16, 512, 32, 2),
        Codebook(16, 512, 32),
        Codebook(8, 256, 24),
        Codebook(8, 256, 24),
    )
    width: int = 128
    analysis_blocks: int = 1
    synthesis_blocks: int = 4
    fine_width: int = 48
    fine_blocks: int = 2
    prior_width: int = 48
    prior_embed: int = 16
    prior_hidden: int = 64
    weight: float = 0.0015

    def __post_init__(self) -> None:
        """Check the fields against each other; raises ValueError."""
        check_range(1, 16, codebooks=len(self.codebooks))
        check_range(1, 4096, width=self.width, fine_width=self.fine_width, prior_width=self.prior_width)
        check_range(1, 4096, prior_embed=self.prior_embed, prior_hidden=self.prior_hidden)
        check_range(0, 64, analysis_blocks=self.analysis_blocks, synthesis_blocks=self.synthesis_blocks)
        check_range(0, 64, fine_blocks=self.fine_blocks)
        check_range(0, 1e9, weight=self.weight)
        if not self.codebooks or any(a.stride not in (b.stride, 2 * b.stride) for a, b in pairwise(self.codebooks)):
            raise ValueError("codebooks: each stride must be that of the one before, or half of it")
        if max(Counter(book.stride for book in self.codebooks).values()) > MOST_OF_A_STRIDE:
            raise ValueError(f"codebooks: at most {MOST_OF_A_STRIDE} may share a stride")
        if self.stride < 4 or self.stride & (self.stride - 1):
            raise ValueError(f"the last stride must be a power of two from 4, found {self.stride}")
        if self.width < 2 or min(self.fine_width, self.prior_width, self.prior_embed, self.prior_hidden) < 1:
            raise ValueError("width must be at least 2, as blocks halve it, other widths at least 1")
        if min(self.analysis_blocks, self.synthesis_blocks, self.fine_blocks) < 0:
            raise ValueError("numbers of blocks must be at least 0")
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, found {self.weight}")

    @property
    def stride(self) -> int:
        """Of the finest level."""
        return self.codebooks[-1].stride

    @property
    def multiple(self) -> int:
        """Sides of images that the networks take are multiples of this: every level has an even number of positions."""
        return 2 * self.codebooks[0].stride

    def grid(self, level: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a level's indices, of an image whose sides are multiples of `multiple`."""
        stride = self.codebooks[level].stride
        return height // stride, width // stride
