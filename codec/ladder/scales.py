"""Tables of the latents' priors: Gaussians of a few scales, integrated over unit intervals, as integers."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bitstream.cdf import quantise_weights

STEPS = 32
"""Scales per factor e: neighbours differ by 3 %, which costs at most 0.0001 nats a latent."""
LOG_SCALE_MIN, LOG_SCALE_MAX = -2.25, 2.75
SCALES = round((LOG_SCALE_MAX - LOG_SCALE_MIN) * STEPS) + 1
_WEIGHT_BITS = 40


def scale_tables(reach: int) -> Tensor:
    """Frequencies int32 [SCALES, 2 * reach + 1] of -reach..reach at every scale: the mass of N(0, s^2) in k +- 1/2.

    The outermost symbols also get the mass beyond them. Made when a model is exported and stored with its weights, so
    that no decoder evaluates erf."""
    return torch.tensor(_scale_tables(reach))


@cache
def _scale_tables(reach: int) -> NDArray[np.int32]:
    """They take a while, and every ladder that is loaded begins with the same."""
    tables = []
    for index in range(SCALES):
        scale = math.exp(LOG_SCALE_MIN + index / STEPS) * math.sqrt(2)
        above = [0.5 * math.erfc((k - 0.5) / scale) for k in range(1, reach + 1)]  # mass of >= k
        side = [a - b for a, b in zip(above, [*above[1:], 0.0], strict=True)]
        mass = [*reversed(side), math.erf(0.5 / scale), *side]
        tables.append(quantise_weights([round(m * 2**_WEIGHT_BITS) for m in mass]).astype(np.int32))
    return np.stack(tables)
