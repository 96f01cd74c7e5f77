"""From integer logits to integer frequencies: a softmax without transcendental functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOTAL = 1 << 16
EXP_BITS = 24
_RANGE = 16  # nats below the largest logit at which a weight becomes 0: exp(-16) * 2**24 < 2


def exp_table(frac_bits: int) -> Tensor:
    """Integers round(2**24 * exp(-d / 2**frac_bits)) for d in [0, 16 * 2**frac_bits], int32; the last entry is 0.

    Built when a model is exported and stored with its weights, so that no decoder evaluates exp."""
    last = _RANGE << frac_bits
    values = [round(2**EXP_BITS * math.exp(-d / 2**frac_bits)) for d in range(last)]
    return torch.tensor([*values, 0], dtype=torch.int32)


def frequencies(logits: Tensor, table: Tensor) -> Tensor:
    """Frequencies of the softmax of integer logits: every one >= 1, sum exactly 65536.

    logits: float64 integers [..., K] in units of 2**-frac_bits nats, 1 <= K <= 32768; table: float64 copy of `exp_table`.
    Returns float64 integers [..., K]. freq = 1 + floor(w (65536 - K) / sum w); what the floor leaves goes to the largest
    weight, lowest index on ties: the same numbers as `bitstream.cdf.quantise_weights`. A quotient n / d that is no integer
    is at least 1 / d below the next one, and IEEE division errs by at most n / d * 2**-53; n < 2**41, so the floor of the
    float64 quotient is the integer quotient.
    """
    codes = logits.shape[-1]
    distance = (logits.amax(-1, keepdim=True) - logits).clamp_(max=len(table) - 1)
    weights = table[distance.to(torch.int64)]
    freq = (weights * (TOTAL - codes)).div_(weights.sum(-1, keepdim=True)).floor_().add_(1)
    tie_break = torch.arange(codes - 1, -1, -1, dtype=torch.float64, device=logits.device)
    largest = (weights * codes + tie_break).argmax(-1, keepdim=True)
    return freq.scatter_add_(-1, largest, TOTAL - freq.sum(-1, keepdim=True))


def cdf_from_frequencies(freq: Tensor) -> Tensor:
    """Cumulative table int32 [..., K + 1] from 0 to 65536 of float64 frequencies [..., K]."""
    cdf = torch.zeros((*freq.shape[:-1], freq.shape[-1] + 1), dtype=torch.int32, device=freq.device)
    cdf[..., 1:] = freq.cumsum(-1)
    return cdf
