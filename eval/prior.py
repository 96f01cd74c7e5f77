"""What the prior of a VQ codec makes of indices: exact code lengths, and those of the same network in plain float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..codec.exact.softmax import TOTAL
from ..codec.vq.codec import PRIOR_FRAC_BITS, VQCodec
from ..codec.vq.prior import StagedPrior


@torch.inference_mode()
def exact_bits(codec: VQCodec, indices: Sequence[Tensor]) -> Tensor:
    """Code length of indices [B, P_level] under the integer tables that the coder uses, in bits.

    Returns float64 [L], the sum over the batch of -log2(f / 65536) for every level."""
    bits = torch.zeros(len(indices), dtype=torch.float64)
    for step in codec.prior.steps:
        symbols = indices[step.level][:, step.positions]
        bits[step.level] += float(table_bits(symbols, codec.prior(step, indices)).sum())
    return bits


def table_bits(symbols: Tensor, freq: Tensor) -> Tensor:
    """-log2(f / 65536) of symbols int64 [B, n] under frequencies int32 [B, n, K], float64 [B, n]."""
    chosen = freq.gather(-1, symbols[..., None])[..., 0]
    return math.log2(TOTAL) - chosen.double().log2()


@torch.inference_mode()
def float_bits(net: StagedPrior, indices: Sequence[Tensor]) -> Tensor:
    """Code length of indices [B, P_level] under the softmax of a `dequantised` prior, in bits; float64 [L] as above."""
    bits = torch.zeros(len(indices), dtype=torch.float64)
    for step in net.steps:
        symbols = indices[step.level][:, step.positions]
        bits[step.level] += float(softmax_bits(symbols, net.logits(step, indices) * 2.0**-PRIOR_FRAC_BITS).sum())
    return bits


def softmax_bits(symbols: Tensor, logits: Tensor) -> Tensor:
    """-log2 softmax of symbols int64 [B, n] under logits float64 [B, n, K] in nats, float64 [B, n]."""
    log_p = torch.log_softmax(logits, -1).gather(-1, symbols[..., None])[..., 0]
    return log_p * (-1 / math.log(2))
