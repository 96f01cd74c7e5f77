"""Rounded latents in archives: bits-back coding between the two integers next to the posterior's mean.

Rounding throws a choice away: where the mean lies between two integers, either tells the pixels about as well. So the
encoder draws one of them, with bits that the decoder gets back. With the mean a fraction f above the lower integer,
p its and p' its neighbour's probability in the prior, the upper one is drawn with odds

    sqrt(p' / p) exp(SHARPNESS (f - 1/2))

The exact posterior would have p' / p itself, but the mean was pulled towards the prior already."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.ans import Bits, Distribution, Integers, Tables
from ..exact.softmax import TOTAL, cdf_from_frequencies
from ..family import LOSSLESS
from .bitsback import BitsBack
from .exact import FRAC_BITS, PULL
from .gaussian import PRECISION
from .model import LatentStep
from .pixels import PixelStep

SHARPNESS = 8
"""Of the least code length among 6, 8 and 11, on all four data sets but one, which loses 0.1 %."""
_ROOT_BITS = 8  # under the square root: frequencies of 16 bits have roots of 12
_TABLE_BITS = TOTAL.bit_length() - 1


class RoundedCodec(BitsBack):
    """Of a ladder that also codes single images, with the tables of its lossless setting."""

    most = 256

    def prior(self, step: LatentStep) -> Tables:
        """See BitsBack."""
        freq = self.latent_frequencies(step, LOSSLESS).flatten(0, 1)
        return Tables(cdf_from_frequencies(freq).cpu().numpy(), _TABLE_BITS)

    def posterior(self, step: LatentStep, features: Tensor) -> Neighbours:
        """See BitsBack."""
        pull, reach = self.pull(step, features, LOSSLESS), self.reach_of(step, LOSSLESS)
        low = pull.mul(1 / PULL).floor_().clamp_(-reach, reach - 1)
        unit = 2.0**FRAC_BITS
        above = (pull - low * PULL).mul_(unit / PULL).floor_().clamp_(0, unit)
        tilt = above.sub_(unit / 2).mul_(SHARPNESS).long().flatten(1)
        lower = low.long().flatten(1) + reach
        freq = self.latent_frequencies(step, LOSSLESS)
        weights = (
            self._weight(freq.gather(2, symbol[..., None])[..., 0], against)
            for symbol, against in ((lower, tilt.clamp(min=0)), (lower + 1, (-tilt).clamp_(min=0)))
        )
        return Neighbours(_integers(lower.flatten()), *weights)

    def _weight(self, freq: Tensor, distance: Tensor) -> Integers:
        """floor(sqrt(2^8 freq)) 2^24 exp(-distance / 2^F) as integers int64 [n], below 2^37."""
        root = np.sqrt(_integers(freq.flatten()) << _ROOT_BITS).astype(np.int64)
        weight: Integers = root * _integers(self.exp[distance.flatten()])
        return weight

    def placed(self, step: LatentStep, symbols: Integers) -> Tensor:
        """See BitsBack."""
        k = torch.from_numpy(symbols).to(self.device).double().sub_(self.reach_of(step, LOSSLESS))
        return self.place(step, k.view(step.mean.shape))

    def pixels(self, step: PixelStep) -> Distribution:
        """See BitsBack."""
        freq = self.pixel_frequencies(step).flatten(0, 1)
        if freq.shape[1] == 2:
            return Bits(_integers(freq[:, 1]), _TABLE_BITS)
        return Tables(cdf_from_frequencies(freq).cpu().numpy(), _TABLE_BITS)


class Neighbours:
    """Each symbol is one of two that follow each other."""

    precision = PRECISION

    def __init__(self, low: Integers, weight: Integers, next_weight: Integers) -> None:
        """low, and how much speaks for it and for low + 1: int64 [n]; the sum of both weights below 2^38, each > 0."""
        self.low = low
        self._bits = Bits((next_weight << PRECISION) // (weight + next_weight), PRECISION)

    def __len__(self) -> int:
        return len(self.low)

    def intervals(self, symbols: Integers) -> tuple[Integers, Integers]:
        """See Distribution."""
        bit = symbols - self.low
        start, freq = self._bits.intervals(bit & 1)
        return start, np.where(bit >> 1, 0, freq)

    def find(self, values: Integers, part: slice) -> tuple[Integers, Integers, Integers]:
        """See Distribution."""
        bit, start, freq = self._bits.find(values, part)
        return self.low[part] + bit, start, freq

    def nearest(self) -> Integers:
        """The likelier ones, int64 [n]."""
        return self.low + (self._bits.ones > self._bits.zeros)


def _integers(x: Tensor) -> Integers:
    found: NDArray[np.int64] = x.cpu().numpy().astype(np.int64)
    return found
