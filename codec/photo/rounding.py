"""Rounding of latents by rate and distortion: an encoder's choice, of which decoders need not know.

The nearest integer keeps the squared error small; the next one towards 0 takes fewer bits. At the lower rates that is
worth more (rate-distortion optimised quantisation, as classical codecs have it)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...bitstream.latents import ESCAPE_LIMIT
from .config import SAMPLES, PhotoConfig
from .model import SIGNAL

_ERROR_SHARE = 3.0
"""What an error of a latent costs, in units of what it would if the synthesis were the inverse transform alone. As
measured on training photographs: from 2 to 4 the objective hardly changes."""


def price(config: PhotoConfig, quality: int) -> float:
    """Bits that a squared error of 1 in signal units is worth at a quality 1..100, for latents of the last stride."""
    return _ERROR_SHARE * config.weight(quality) * 255**2 / SAMPLES / SIGNAL**2


def rounded(offset: Tensor, scale: Tensor, gain: Tensor, worth: float) -> Tensor:
    """Integers for offsets [B, C, H, W] with standard deviations `scale`, both in steps of the grid.

    gain: steps per signal unit, [B, C, 1, 1]; worth: as `price`; 0 for the nearest integers."""
    near = offset.round().clamp_(-ESCAPE_LIMIT, ESCAPE_LIMIT)
    if not worth:
        return near
    away = near.nonzero(as_tuple=True)
    o, k, s = offset[away].abs(), near[away].abs(), scale[away]
    cost = worth / gain.expand_as(near)[away] ** 2 * (2 * (o - k) + 1)
    saved = _bits(k, s) - _bits(k - 1, s)
    near[away] = near[away].sign() * torch.where(saved > cost, k - 1, k)
    return near


def _bits(k: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the mass of N(0, scale^2) in k +- 1/2, k >= 0."""
    upper, lower = (torch.special.log_ndtr((edge - k) / scale) for edge in (0.5, -0.5))
    bits: Tensor = (upper + torch.log1p(-(lower - upper).exp())) / -math.log(2)
    return bits
