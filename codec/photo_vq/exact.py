"""The prior in fixed point: integer frequencies, the same on every machine."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn

from ..exact.export import to_exact
from ..exact.softmax import TOTAL, exp_table, frequencies
from .prior import PhotoVQPrior

FRAC_BITS = 8
"""Fractional bits of all activations: values within +-128 in steps of 1/256."""


class ExactPrior(nn.Module):
    """The prior with exact leaves, whose tables are frequencies."""

    exp: Tensor

    def __init__(self, prior: PhotoVQPrior) -> None:
        """Convert a float prior."""
        super().__init__()
        self.net = cast(PhotoVQPrior, to_exact(prior, FRAC_BITS))
        self.register_buffer("exp", exp_table(FRAC_BITS))

    def table(self, logits: Tensor) -> Tensor:
        """Logits, float64 integers [B, K, h, w] -> frequencies int32 [B, h w, K], every row summing to 65536."""
        return frequencies(logits.flatten(2).transpose(1, 2), self.exp.double())


def code_lengths(table: Tensor) -> Tensor:
    """Bits float32 of frequencies int32, of any shape."""
    return math.log2(TOTAL) - table.float().log2()
