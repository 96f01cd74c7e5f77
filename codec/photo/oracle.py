"""The prior's walk once more, in NumPy int64: slow, plain, and sharing no arithmetic with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...bitstream.cdf import Int64Array
from ..exact.oracle import run, stored
from ..exact.requantise import ACTIVATION_LIMIT
from .config import LOG_SCALE_MIN
from .exact import FRAC_BITS, SCALES, STEPS, ExactPrior

_SHIFT = 16 - FRAC_BITS


def scales(prior: ExactPrior, latents: Sequence[Int64Array], quality: int) -> list[Int64Array]:
    """Indices int64 [C, H, W] of the scales of every level, given the latents int64 [C, H, W] of all levels."""
    found, top = [], prior.config.levels[0]
    features = np.zeros((1, top.width, *latents[0].shape[1:]), np.int64)
    for number, k in enumerate(latents):
        features = _clamped(features) + _at(prior, "quality", number, quality)
        features = run(prior.blocks[number], features)
        log_scale = run(prior.heads[number], features)[:, len(k) :] + _at(prior, "log_gain", number, quality)
        index = (log_scale * STEPS + (1 << (FRAC_BITS - 1))) >> FRAC_BITS
        found.append((index[0] - round(LOG_SCALE_MIN * STEPS)).clip(0, len(SCALES) - 1))
        scaled = (k[None] * _at(prior, "inverse_gain", number, quality) + (1 << (_SHIFT - 1))) >> _SHIFT
        features = features + run(prior.entries[number], _clamped(scaled))
        if number + 1 < len(latents):
            features = run(prior.expand[number], features)
    return found


def _clamped(x: Int64Array) -> Int64Array:
    return x.clip(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def _at(prior: ExactPrior, tables: str, number: int, quality: int) -> Int64Array:
    """A vector of a level at a quality, int64 [1, C, 1, 1]."""
    table: Int64Array = stored(getattr(prior, tables)[number].table)
    row: Int64Array = table[quality - 1].reshape(1, -1, 1, 1)
    return row
