"""Gaussian latents on a grid, as integers: posterior and prior for bits-back coding, the same on every machine.

Every channel of a level has a grid of its own, whose step is a power of two; posterior and prior are both the mass of
a normal distribution in the cells of that grid. Tables hold what would need transcendental functions: they are made
when a model is exported, and stored with its weights."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...bitstream.ans import Bits, Integers, Tables
from ..exact.softmax import cdf_from_frequencies, frequencies
from .config import LadderConfig
from .exact import FRAC_BITS
from .model import LatentStep
from .pixels import PixelStep
from .posterior import LOG_SCALE_LIMIT

PRECISION = 24
"""Bits of the frequencies of latents and of pixels of two values; other pixels have 16."""
Z_LIMIT = 32
"""Latents lie within +-32."""
MAX_STEP_LOG2 = 12
"""Of the grids, in units of 2^-FRAC_BITS: 8 standard deviations of the top prior."""
_UNIT = 2**FRAC_BITS
_LOWEST = -5.0  # log scale of a posterior, which is narrower than the two it is merged from
_STEPS = 64  # scales per factor e
_KNOTS, _REACH = 128, 8  # of the cumulative normal: per standard deviation, and how many of these on either side
_CDF_BITS, _FRACTION_BITS, _INVERSE_BITS = 30, 8, 12
_WEIGHT_BITS = 16
_ODDS_LIMIT = 16
_TAIL = [2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0, 6.0, _REACH + 0.1]
_SIGNPOSTS = np.array(  # standard deviations from the mean; where to look first, no more
    [*(-s for s in reversed(_TAIL)), *(NormalDist().inv_cdf((i + 0.5) / 25) for i in range(25)), *_TAIL]
)


class GaussianTables(nn.Module):
    """Tables and grids of a Ladder VAE with Gaussian posteriors."""

    weight: Tensor
    narrowing: Tensor
    inverse: Tensor
    normal: Tensor
    odds: Tensor

    def __init__(self, config: LadderConfig) -> None:
        """Grids have the finest step until others are set. Raises ValueError for models with other latents."""
        super().__init__()
        if (config.posterior, config.inference, config.top_down) != ("gaussian", "ladder", "shared"):
            raise ValueError("archives need Gaussian latents with the ladder's inference and its shared top-down pass")
        reach = round(2 * LOG_SCALE_LIMIT * _UNIT)
        log_w = nn.functional.logsigmoid(torch.arange(-reach, reach + 1, dtype=torch.float64).mul(2 / _UNIT))
        self.register_buffer("weight", log_w.exp().mul(2**_WEIGHT_BITS).round().to(torch.int32))
        self.register_buffer("narrowing", log_w.mul(_UNIT / 2).round().to(torch.int32))
        self.register_buffer("inverse", _inverse_scales())
        self.register_buffer("normal", _cumulative_normal())
        logits = torch.arange(-_ODDS_LIMIT * _UNIT, _ODDS_LIMIT * _UNIT + 1, dtype=torch.float64) / _UNIT
        odds = torch.sigmoid(logits).mul(2**PRECISION).round().clamp(1, 2**PRECISION - 1)
        self.register_buffer("odds", odds.to(torch.int32))
        self.levels = config.levels
        for level, channels in enumerate(config.latents):
            self.register_buffer(f"steps{level}", torch.zeros(channels, dtype=torch.int64))

    def steps(self, level: int) -> Tensor:
        """Log2 of the steps of a level's channels, in units of 2^-FRAC_BITS: int64 [C] in [0, MAX_STEP_LOG2]."""
        found: Tensor = getattr(self, f"steps{level}")
        return found

    def check(self) -> None:
        """Raises ValueError for grids that no export makes."""
        for level in range(self.levels):
            low, high = (int(value) for value in self.steps(level).aminmax())
            if low < 0 or high > MAX_STEP_LOG2:
                raise ValueError(f"archive.steps{level}: expected 0..{MAX_STEP_LOG2}, found {low}..{high}")

    def prior(self, step: LatentStep) -> Normal:
        """The prior of a level's latents [B * C * side * side]."""
        return self._on_grid(step.level, step.mean, self._limited(step.log_scale), least=1)

    def posterior(self, step: LatentStep, mean: Tensor, log_scale: Tensor) -> Normal:
        """The posterior, from what the level's features say (Sonderby et al. 2016, eqs. 16-17)."""
        return self._on_grid(step.level, *self.merged(step, mean, log_scale), least=0)

    def merged(self, step: LatentStep, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log scale of the posterior, float64 integers [B, C, side, side]."""
        log_scale = self._limited(log_scale)
        index = self._limited(step.log_scale).sub_(log_scale).add_(len(self.weight) // 2).long()
        pull = (mean - step.mean).mul_(self.weight.double()[index]).add_(2.0 ** (_WEIGHT_BITS - 1))
        narrower = log_scale + self.narrowing.double()[index]
        merged: Tensor = pull.mul_(2.0**-_WEIGHT_BITS).floor_().add_(step.mean)
        return merged, narrower

    def _limited(self, log_scale: Tensor) -> Tensor:
        return log_scale.clamp(-LOG_SCALE_LIMIT * _UNIT, LOG_SCALE_LIMIT * _UNIT)

    def _on_grid(self, level: int, mean: Tensor, log_scale: Tensor, least: int) -> Normal:
        index = log_scale.mul(_STEPS).add_(_UNIT / 2).div_(_UNIT).floor_().sub_(round(_LOWEST * _STEPS))
        inverse = self.inverse[index.clamp_(0, len(self.inverse) - 1).long()]
        steps = (1 << self.steps(level))[:, None, None].expand_as(mean)
        return Normal(_flat(mean), _flat(inverse), _flat(steps), _flat(self.normal), least)

    def place(self, step: LatentStep, symbols: Integers) -> Tensor:
        """The latents z, float64 integers [B, C, side, side], of their symbols int64 [B * C * side * side]."""
        cell = (1 << self.steps(step.level))[:, None, None]
        k = torch.from_numpy(symbols).to(cell.device).view(step.mean.shape)
        z: Tensor = (k * cell - Z_LIMIT * _UNIT).double()
        return z

    def pixels(self, step: PixelStep, exp: Tensor) -> Bits | Tables:
        """Distribution of the pixels of a step, row by row. exp: `exact.softmax.exp_table`."""
        if step.scores.shape[-1] == 1:
            index = step.scores.clamp(-_ODDS_LIMIT * _UNIT, _ODDS_LIMIT * _UNIT).add_(_ODDS_LIMIT * _UNIT).long()
            return Bits(_flat(self.odds[index]), PRECISION)
        freq = frequencies(step.scores.flatten(0, 1), exp)
        return Tables(cdf_from_frequencies(freq).cpu().numpy(), 16)


class Normal:
    """Normal distributions on grids, a `bitstream.ans.Distribution`. Symbol j stands for z = j step - Z_LIMIT.

    least: frequency of cells without mass. 1 for priors, which must be able to code whatever was drawn; 0 for
    posteriors: if one draw in 10,000 came from the far tails, it would cost more than all else that is lost here."""

    precision = PRECISION

    def __init__(self, mean: Integers, inverse: Integers, step: Integers, normal: Integers, least: int) -> None:
        """All int64 [n], in units of 2^-FRAC_BITS: mean, step; inverse scale (`_inverse_scales`); normal: its table."""
        self.mean, self.inverse, self.step, self.normal = mean, inverse, step, normal
        self.cells, self.least = 2 * Z_LIMIT * _UNIT // step + 1, least

    def __len__(self) -> int:
        return len(self.mean)

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """See Distribution."""
        everything = slice(None)
        start = self._below(symbols, everything)
        return start, self._below(symbols + 1, everything) - start

    @cached_property
    def _signposts(self) -> tuple[Integers, Integers]:
        """Symbols near the signposts, with the first and one past the last, [n, S + 2], and what lies below them."""
        cells = self.cells[:, None]
        scale = 2.0 ** (_INVERSE_BITS + _FRACTION_BITS - 1) * _KNOTS / self.inverse[:, None]
        near = (self.mean[:, None] + _SIGNPOSTS * scale + Z_LIMIT * _UNIT) // self.step[:, None]
        symbols = np.concatenate([np.zeros_like(cells), near.astype(np.int64).clip(0, cells), cells], 1)
        return symbols, self._below(symbols, (slice(None), None))

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """See Distribution: between two signposts, halves the range until a cell is left."""
        symbols, belows = (post[part] for post in self._signposts)
        rows, first = np.arange(len(values)), np.count_nonzero(belows[:, :-1] <= values[:, None], axis=1) - 1
        low, start, high, end = (post[rows, n] for n in (first, first + 1) for post in (symbols, belows))
        for _ in range(int((high - low).max() - 1).bit_length()):
            middle = (low + high) >> 1
            below = self._below(middle, part)
            up = below <= values
            low, start = np.where(up, middle, low), np.where(up, below, start)
            high, end = np.where(up, high, middle), np.where(up, end, below)
        return low, start, end - start

    def nearest(self) -> Integers:
        """The symbol of the cell that the mean lies in, int64 [n]."""
        cell = (2 * (self.mean + Z_LIMIT * _UNIT) + self.step) // (2 * self.step)
        inside: Integers = np.minimum(np.maximum(cell, 0), self.cells - 1)
        return inside

    def _below(self, symbols: Integers, part: slice | tuple[slice, None]) -> Integers:
        """Cumulative frequency of all below these symbols, of `part`: the normal's, and `least` for each of them."""
        step, cells = self.step[part], self.cells[part]
        edge = (2 * symbols - 1) * step - 2 * (Z_LIMIT * _UNIT + self.mean[part])  # in half units, from the mean
        t = (edge * self.inverse[part]) >> _INVERSE_BITS
        limit = (_REACH * _KNOTS) << _FRACTION_BITS
        t = np.minimum(np.maximum(t, -limit), limit - 1) + limit
        knot, fraction = t >> _FRACTION_BITS, t & ((1 << _FRACTION_BITS) - 1)
        left = self.normal[knot]
        mass = left + (((self.normal[knot + 1] - left) * fraction) >> _FRACTION_BITS)
        below = ((mass * ((1 << PRECISION) - self.least * cells)) >> _CDF_BITS) + self.least * symbols
        below = np.where(symbols <= 0, 0, below)
        found: Integers = np.where(symbols >= cells, 1 << PRECISION, below)
        return found


def _inverse_scales() -> Tensor:
    """round(2^INVERSE_BITS * knots * 2^FRACTION_BITS / s) of every scale s in half units, int64."""
    count = round((LOG_SCALE_LIMIT - _LOWEST) * _STEPS) + 1
    scale = torch.arange(count, dtype=torch.float64).div(_STEPS).add(_LOWEST).exp() * 2 * _UNIT
    inverse: Tensor = (2.0 ** (_INVERSE_BITS + _FRACTION_BITS) * _KNOTS / scale).round().long()
    return inverse


def _cumulative_normal() -> Tensor:
    """round(2^CDF_BITS Phi(i / KNOTS)), i from -REACH KNOTS to REACH KNOTS, int32."""
    knots = range(-_REACH * _KNOTS, _REACH * _KNOTS + 1)
    return torch.tensor([round(2**_CDF_BITS * 0.5 * math.erfc(-i / _KNOTS / math.sqrt(2))) for i in knots]).int()


def _flat(x: Tensor) -> NDArray[np.int64]:
    flat: NDArray[np.int64] = x.long().flatten().cpu().numpy()
    return flat
