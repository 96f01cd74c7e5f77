"""Residual and hierarchical vector quantisation with EMA or gradient codebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .config import VQConfig
from .prior import Walk
from .schedule import Step

_EMA_DECAY = 0.99
_EPSILON = 1e-5


@dataclass(frozen=True)
class Usage:
    """How one level's codebook is used: share of codes seen at least once, and 2**entropy of their frequencies."""

    used: float
    perplexity: float


def usage(indices: Tensor, codes: int) -> Usage:
    """Usage of a codebook of `codes` rows by indices int64 of any shape."""
    counts = torch.bincount(indices.flatten(), minlength=codes).double()
    probability = counts / counts.sum()
    entropy = -(probability * probability.clamp_min(1e-300).log2()).sum()
    return Usage(float((counts > 0).double().mean()), float(2.0**entropy))


def pool(z: Tensor, stride: int) -> Tensor:
    """Mean over stride x stride blocks, blocks at the border cut off: [B, D, H, W] -> [B, D, ceil(H/s), ceil(W/s)].

    Sum and division are two separate steps, so that integers give the same result everywhere."""
    if stride == 1:
        return z
    ones = torch.ones_like(z[:1, :1])
    sums, counts = (nn.functional.avg_pool2d(t, stride, ceil_mode=True, divisor_override=1) for t in (z, ones))
    return sums / counts


def unpool(q: Tensor, stride: int, side: int) -> Tensor:
    """Nearest-neighbour inverse of `pool`: [B, D, h, w] -> [B, D, side, side]."""
    if stride == 1:
        return q
    return q.repeat_interleave(stride, 2).repeat_interleave(stride, 3)[..., :side, :side]


class ResidualQuantiser(nn.Module):
    """Codebooks of all levels: level l quantises what the levels before it left of z, on its own grid.

    With one level this is the quantiser of van den Oord et al. 2017; with strides falling to 1 it is hierarchical.
    Codes are chosen by the entropy-constrained rule of Chou, Lookabaugh and Gray 1989 (eq. 4): squared distance plus
    `rd_weight` times the code length in bits under the prior.
    """

    def __init__(self, config: VQConfig) -> None:
        """Codebooks start as Gaussian noise that shrinks with the level."""
        super().__init__()
        self.config = config
        self.codebooks = nn.ParameterList()
        for number, level in enumerate(config.levels):
            table = torch.randn(level.codes, config.latent_dim) * 0.5**number
            self.codebooks.append(nn.Parameter(table, requires_grad=config.codebook == "gradient"))
            self.register_buffer(f"count{number}", torch.ones(level.codes))
            self.register_buffer(f"total{number}", table.clone())

    def vectors(self, level: int, residual: Tensor) -> Tensor:
        """Residual [B, D, H, W] -> vectors to be quantised [B, P_level, D]."""
        return pool(residual, self.config.levels[level].stride).flatten(2).transpose(1, 2)

    def embed(self, level: int, index: Tensor) -> Tensor:
        """Index [B, P_level] -> code vectors on the latent grid [B, D, H, W]."""
        side = self.config.level_grid(level)
        q = self.codebooks[level][index].transpose(1, 2).unflatten(2, (side, side))
        return unpool(q, self.config.levels[level].stride, self.config.grid)

    def cost(self, level: int, vectors: Tensor, table: Tensor, rd_weight: float) -> Tensor:
        """Squared distance + rd_weight * bits, up to a constant per vector: [B, n, D], bits [B, n, K] -> [B, n, K]."""
        codebook = self.codebooks[level]
        return torch.addmm(codebook.square().sum(1), vectors.flatten(0, 1), codebook.T, alpha=-2).view(table.shape) + (
            rd_weight * table
        )

    @torch.no_grad()
    def update(self, level: int, vectors: Tensor, index: Tensor) -> None:
        """EMA codebook update (van den Oord et al. 2017, appendix A.1) from vectors [B, P, D] and index [B, P]."""
        count, total = self._statistics(level)
        flat, rows = vectors.flatten(0, 1), index.flatten()
        batch_count = torch.bincount(rows, minlength=len(count)).to(count.dtype)
        batch_total = torch.zeros_like(total).index_add_(0, rows, flat)
        count.lerp_(batch_count, 1 - _EMA_DECAY)
        total.lerp_(batch_total, 1 - _EMA_DECAY)
        if self.config.codebook == "ema":
            self.codebooks[level].copy_(total / (count + _EPSILON)[:, None])

    @torch.no_grad()
    def restart(self, level: int, vectors: Tensor, threshold: float) -> int:
        """Move codes used less than `threshold` times a batch onto random vectors of the batch; returns how many."""
        count, total = self._statistics(level)
        dead = (count < threshold).nonzero()[:, 0]
        flat = vectors.flatten(0, 1)
        chosen = flat[torch.randint(0, len(flat), (len(dead),), device=flat.device)]
        self.codebooks[level][dead] = chosen
        total[dead] = chosen
        count[dead] = 1.0
        return len(dead)

    def _statistics(self, level: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"count{level}"), getattr(self, f"total{level}")


class Quantiser(Protocol):
    """What the encoder's choice needs of a quantiser, float or exact."""

    def vectors(self, level: int, residual: Tensor) -> Tensor:
        """Vectors to be quantised."""

    def embed(self, level: int, index: Tensor) -> Tensor:
        """Code vectors on the latent grid."""

    def cost(self, level: int, vectors: Tensor, table: Tensor, rd_weight: float) -> Tensor:
        """Cost of every code; `table` is what the prior says of them."""


def choose(
    walk: Walk,
    quantiser: Quantiser,
    z: Tensor,
    rd_weights: Sequence[float],
    emit: Callable[[Step, Tensor, Tensor], None],
) -> list[Tensor]:
    """The encoder's side of the walk: picks the cheapest code of every position, step by step.

    z [B, D, H, W]. Calls emit(step, the prior's table [B, n, K], symbols int64 [B, n]) for whoever codes or counts
    them; returns the indices of all levels. The choice itself has no gradient.
    """
    residual, level, vectors = z.detach(), -1, z
    chosen = torch.zeros(0)
    try:
        step, table = next(walk)
        while True:
            if step.level != level:
                if level >= 0:
                    residual = residual - quantiser.embed(level, chosen).detach()
                level = step.level
                vectors = quantiser.vectors(level, residual)
                chosen = torch.zeros(vectors.shape[:2], dtype=torch.int64, device=z.device)
            cost = quantiser.cost(level, vectors[:, step.positions], table.detach(), rd_weights[level])
            symbols = cost.detach().argmin(-1)
            chosen[:, step.positions] = symbols
            emit(step, table, symbols)
            step, table = walk.send(symbols)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
