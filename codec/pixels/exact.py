"""The likelihood of photographs in fixed point: tables of samples, the same on every machine."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...bitstream.ans import Integers
from ..exact.export import to_exact
from .config import LOG_SCALE_MAX, LOG_SCALE_MIN
from .model import UNIT, Perceptron, Shape

FRAC_BITS = 9
"""Fractional bits of all activations; a level of 0..255 is LEVEL of their units."""
LEVEL = round(2**FRAC_BITS / UNIT)
STEPS = 8
"""Scales per factor e: neighbours differ by 13 %, which costs at most 0.002 nats a sample."""
FRACTIONS = 8
"""Means are told apart by so many fractions of a level."""
SCALES = [
    math.exp(LOG_SCALE_MIN + index / STEPS) for index in range(round((LOG_SCALE_MAX - LOG_SCALE_MIN) * STEPS) + 1)
]
FARTHEST = 255
"""Symbols are -FARTHEST..FARTHEST: a sample less the whole part of its mean."""
PRECISION = 24
_COLUMNS = 2 * FARTHEST + 2  # of a table; a power of two, for the search


class ExactPerceptron(Perceptron):
    """The walk of `Perceptron` over float64 integers, in units of 2**-FRAC_BITS."""

    def __init__(self, perceptron: Perceptron) -> None:
        """Convert a float one."""
        nn.Module.__init__(self)
        self.config = perceptron.config
        for name in ("linear", "entry", "blocks", "project", "known", "direct", "heads"):
            setattr(self, name, to_exact(getattr(perceptron, name), FRAC_BITS))

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        """Half way between levels: LEVEL is even."""
        return (a + b).mul_(0.5)

    def full(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer."""
        y: Tensor = layer(x)
        return y

    def bounded(self, mean: Tensor) -> Tensor:
        """Means that are levels of 0..255."""
        return mean.clamp(-128 * LEVEL, 127 * LEVEL)


def from_levels(levels: Tensor) -> Tensor:
    """Levels 0..255 as the perceptron takes them, float64."""
    return levels.double().sub_(128).mul_(LEVEL)


def place(mean: Tensor, log_scale: Tensor) -> tuple[Integers, Integers]:
    """Of samples [N, 1]: the whole part of their means, 0..255, and the rows of their tables, int64 [N] each."""
    shifted = mean + 128 * LEVEL
    whole = shifted.mul(1 / LEVEL).floor_()
    fraction = (shifted - whole * LEVEL).mul_(FRACTIONS / LEVEL).floor_()
    scale = log_scale.mul(STEPS).add_(2.0 ** (FRAC_BITS - 1)).mul_(2.0**-FRAC_BITS).floor_()
    scale = scale.sub_(round(LOG_SCALE_MIN * STEPS)).clamp_(0, len(SCALES) - 1)
    row = scale.mul_(FRACTIONS).add_(fraction)
    return _integers(whole), _integers(row)


def _integers(x: Tensor) -> Integers:
    found: Integers = x[:, 0].long().cpu().numpy()
    return found


def tables(shape: Shape) -> NDArray[np.int32]:
    """Running sums int32 [scales * FRACTIONS, _COLUMNS] of all tables: from 0 to 2^PRECISION, every symbol at least 1.

    Made when a model is exported and stored with it, so that no decoder evaluates exp."""
    with torch.no_grad():
        symbols = torch.arange(-FARTHEST, FARTHEST + 1, dtype=torch.float64)
        fraction = (torch.arange(FRACTIONS, dtype=torch.float64) + 0.5) / FRACTIONS
        distance = symbols - fraction[:, None]
        log_scale = torch.tensor(SCALES, dtype=torch.float64).log()[:, None]
        exact = copy.deepcopy(shape).double()
        mass = torch.cat([exact.mass(distance, each.expand(FRACTIONS, 1)) for each in log_scale]).numpy()
    left = 2**PRECISION - mass.shape[1]
    freq = 1 + np.floor(mass / mass.sum(1, keepdims=True) * left).astype(np.int64)
    freq[np.arange(len(freq)), freq.argmax(1)] += 2**PRECISION - freq.sum(1)
    return np.pad(freq.cumsum(1), ((0, 0), (1, 0))).astype(np.int32)


def check_tables(found: NDArray[np.int32]) -> None:
    """Raises ValueError unless every row rises from 0 to 2^PRECISION."""
    rows = len(SCALES) * FRACTIONS
    if found.shape != (rows, _COLUMNS):
        raise ValueError(f"tables: expected {rows} x {_COLUMNS}, found {found.shape}")
    if found[:, 0].any() or (found[:, -1] != 2**PRECISION).any() or (np.diff(found, axis=1) < 1).any():
        raise ValueError(f"tables must rise from 0 to {2**PRECISION}")


class Samples:
    """Symbols 0 .. 2 FARTHEST, each with one of the tables: a Distribution of `bitstream.ans`."""

    precision = PRECISION

    def __init__(self, flat: NDArray[np.int32], rows: Integers) -> None:
        """flat: all tables, one after the other; rows: which one every symbol has, int64 [n]."""
        self._flat, self._first = flat, rows * _COLUMNS

    def __len__(self) -> int:
        return len(self._first)

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """See Distribution."""
        return self._interval(self._first + symbols)

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """See Distribution: a binary search in all tables at once."""
        first = self._first[part]
        at, step = first, _COLUMNS // 2
        while step:
            at = at + step * (self._flat[at + step] <= values)
            step //= 2
        return at - first, *self._interval(at)

    def _interval(self, at: Integers) -> tuple[Integers, Integers]:
        start = self._flat[at].astype(np.int64)
        return start, self._flat[at + 1] - start
