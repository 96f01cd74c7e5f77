"""The prior of a photograph model in fixed point: scales of latents, the same on every machine."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from ...bitstream.latents import ScaleClass
from ..exact.export import to_exact
from ..exact.requantise import ACTIVATION_LIMIT
from ..family import QUALITIES
from .config import LOG_SCALE_MAX, LOG_SCALE_MIN
from .model import Knots, LatentStep, Prior

FRAC_BITS = 9
"""Fractional bits of all activations: values within +-64 in steps of 1/512."""
STEPS = 16
"""Scales per factor e: neighbours differ by 6 %, which costs at most 0.0005 nats a latent."""
SCALES = [
    math.exp(LOG_SCALE_MIN + index / STEPS) for index in range(round((LOG_SCALE_MAX - LOG_SCALE_MIN) * STEPS) + 1)
]
CLASSES = (
    ScaleClass(26, 3),
    ScaleClass(48, 10),
    ScaleClass(70, 36),
    ScaleClass(90, 36, low=2),
    ScaleClass(len(SCALES), 36, low=4),
)
"""Standard deviations below 0.42, 1.6, 6.5, 23, and the rest: tables reach at least 5.5 of them."""
_INVERSE_LIMIT = 2**24  # products with distances stay far below 2**53
_INVERSE_BITS = 16  # fractional bits of what turns steps of the grid into signal units


class ExactKnots(nn.Module):
    """A vector of integers for every quality."""

    table: Tensor

    def __init__(self, knots: Knots, scale: float, inverse: bool = False) -> None:
        """round(scale * v) for the knots' v, or scale / exp(v)."""
        super().__init__()
        with torch.no_grad():
            values = knots(torch.arange(1, QUALITIES + 1, dtype=torch.float32))[:, :, 0, 0].double()
            values = (values.neg().exp() if inverse else values).mul(scale).round()
        limit = _INVERSE_LIMIT if inverse else ACTIVATION_LIMIT
        self.register_buffer("table", values.clamp(-limit, limit).to(torch.int32))

    def forward(self, quality: Tensor) -> Tensor:
        """Quality 1..100, int64 [B] -> float64 integers [B, channels, 1, 1]."""
        found: Tensor = self.table[quality - 1].double()[:, :, None, None]
        return found


class ExactPrior(Prior):
    """The walk of `Prior` over float64 integers: means and log scales in units of 2**-FRAC_BITS."""

    def __init__(self, prior: Prior) -> None:
        """Convert a float prior."""
        nn.Module.__init__(self)
        self.config = prior.config
        unit = 2.0**FRAC_BITS
        self.quality = _tables(prior.quality, unit)
        self.log_gain = _tables(prior.log_gain, unit)
        self.inverse_gain = _tables(prior.log_gain, 2.0**_INVERSE_BITS, inverse=True)
        for name in ("blocks", "heads", "entries", "expand"):
            setattr(self, name, cast(nn.ModuleList, to_exact(getattr(prior, name), FRAC_BITS)))

    def first(self, batch: int, height: int, width: int) -> Tensor:
        """Features to begin with."""
        top = self.config.levels[0]
        return torch.zeros(
            batch, top.width, height // top.stride, width // top.stride, dtype=torch.float64, device=self._device
        )

    def step(self, number: int, mean: Tensor, log_scale: Tensor, log_gain: Tensor, features: Tensor) -> LatentStep:
        """What a level yields; its gain is that of the tables."""
        return LatentStep(number, mean, log_scale + log_gain, log_gain, features)

    def scaled(self, k: Tensor, number: int, quality: Tensor) -> Tensor:
        """Distances in signal units, clamped to what features hold."""
        inverse: Tensor = self.inverse_gain[number](quality)
        shift = _INVERSE_BITS - FRAC_BITS
        found = (k * inverse).add_(2.0 ** (shift - 1)).mul_(2.0**-shift).floor_()
        return found.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)

    @property
    def _device(self) -> torch.device:
        return next(self.buffers()).device


def scale_index(step: LatentStep) -> Tensor:
    """Indices int64 [B, C, H, W] into SCALES of the latents of a step of an ExactPrior."""
    index = step.log_scale.mul(STEPS).add_(2.0 ** (FRAC_BITS - 1)).mul_(2.0**-FRAC_BITS).floor_()
    return index.sub_(round(LOG_SCALE_MIN * STEPS)).clamp_(0, len(SCALES) - 1).long()


def _tables(knots: nn.ModuleList, scale: float, inverse: bool = False) -> nn.ModuleList:
    return nn.ModuleList(ExactKnots(cast(Knots, each), scale, inverse) for each in knots)
