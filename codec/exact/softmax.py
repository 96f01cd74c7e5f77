"""From integer logits to integer frequencies: a softmax without transcendental functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOTAL = 1 << 16
EXP_BITS = 24
_CHUNK = 1 << 16  # values worked on at one time: they stay in the caches, and threads meet seldom
_RANGE = 16  # nats below the largest logit at which a weight becomes 0: exp(-16) * 2**24 < 2


def exp_table(frac_bits: int) -> Tensor:
    """Integers round(2**24 * exp(-d / 2**frac_bits)) for d in [0, 16 * 2**frac_bits], int32; the last entry is 0.

    Built when a model is exported and stored with its weights, so that no decoder evaluates exp."""
    last = _RANGE << frac_bits
    values = [round(2**EXP_BITS * math.exp(-d / 2**frac_bits)) for d in range(last)]
    return torch.tensor([*values, 0], dtype=torch.int32)


def frequencies(logits: Tensor, table: Tensor) -> Tensor:
    """Frequencies of the softmax of integer logits: every one >= 1, sum exactly 65536.

    logits: float64 integers [..., K] in units of 2**-frac_bits nats, |logits| < 2**30, 1 <= K <= 32768; table: float64
    copy of `exp_table`. Returns int32 [..., K]. freq = 1 + floor(w (65536 - K) / sum w); what the floor leaves goes to
    the largest weight, lowest index on ties: the same numbers as `bitstream.cdf.quantise_weights`.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    freq = torch.empty(rows.shape, dtype=torch.int32, device=logits.device)
    size = max(1, _CHUNK // logits.shape[-1])
    for part, target in zip(rows.split(size), freq.split(size), strict=True):
        _fill_frequencies(part, table, target)
    return freq.view(logits.shape)


def _fill_frequencies(logits: Tensor, table: Tensor, out: Tensor) -> None:
    """`frequencies` of rows [N, K] into int32 [N, K].

    A quotient n / d that is no integer is at least 1 / d below the next one, and IEEE division errs by at most
    n / d * 2**-53; n < 2**46 in both places, so the floor of a float64 quotient is the integer quotient."""
    codes = logits.shape[-1]
    backwards = torch.arange(codes - 1, -1, -1, dtype=torch.float64, device=logits.device)
    key = torch.add(backwards, logits, alpha=codes).amax(-1, keepdim=True)  # largest logit, then lowest index
    top = (key / codes).floor_()
    largest = (top * codes).sub_(key).add_(codes - 1).to(torch.int64)
    distance = (top - logits).clamp_(max=len(table) - 1).to(torch.int32)
    weights = table.index_select(0, distance.view(-1)).view(distance.shape)
    out.copy_(weights.mul(TOTAL - codes).div_(weights.sum(-1, keepdim=True))).add_(1)  # the copy to int32 is the floor
    out.scatter_add_(-1, largest, TOTAL - out.sum(-1, keepdim=True, dtype=torch.int32))


def cdf_from_frequencies(freq: Tensor) -> Tensor:
    """Cumulative table int32 [..., K + 1] from 0 to 65536 of frequencies int32 [..., K]."""
    cdf = torch.zeros((*freq.shape[:-1], freq.shape[-1] + 1), dtype=torch.int32, device=freq.device)
    torch.cumsum(freq, -1, dtype=torch.int32, out=cdf[..., 1:])
    return cdf
