"""What the prior of a VQ codec makes of indices: exact code lengths, and those of the same network in plain float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..codec.exact import ExactEmbedding, ExactLinear, ExactOffset, Offset
from ..codec.exact.softmax import TOTAL
from ..codec.vq.codec import PRIOR_FRAC_BITS, VQCodec
from ..codec.vq.prior import StagedPrior


@torch.inference_mode()
def exact_bits(codec: VQCodec, indices: Sequence[Tensor]) -> Tensor:
    """Code length of indices [B, P_level] under the integer tables that the coder uses, in bits.

    Returns float64 [L], the sum over the batch of -log2(f / 65536) for every level."""
    bits = torch.zeros(len(indices), dtype=torch.float64)
    for step in codec.prior.steps:
        symbols = indices[step.level][:, step.positions, None]
        chosen = codec.prior(step, indices).gather(-1, symbols)
        bits[step.level] += float((math.log2(TOTAL) - chosen.log2()).sum())
    return bits


@torch.inference_mode()
def float_bits(net: StagedPrior, indices: Sequence[Tensor]) -> Tensor:
    """Code length of indices [B, P_level] under the softmax of a `dequantised` prior, in bits; float64 [L] as above."""
    bits = torch.zeros(len(indices), dtype=torch.float64)
    for step in net.steps:
        symbols = indices[step.level][:, step.positions, None]
        log_p = torch.log_softmax(net.logits(step, indices) * 2.0**-PRIOR_FRAC_BITS, -1)
        bits[step.level] -= float(log_p.gather(-1, symbols).sum()) / math.log(2)
    return bits


def dequantised(module: nn.Module) -> nn.Module:
    """Copy of an exact prior that computes in float64, neither rounding nor clamping; its weights are the stored ones.

    Values keep their unit of 2**-PRIOR_FRAC_BITS, so the difference to the exact module is what fixed point costs."""
    if isinstance(module, ExactLinear):
        return _linear(module)
    if isinstance(module, ExactEmbedding):
        return nn.Embedding.from_pretrained(module.table.double())  # type: ignore[no-any-return]
    if isinstance(module, ExactOffset):
        offset = Offset(*module.table.shape)
        offset.table = nn.Parameter(module.table.double(), requires_grad=False)
        return offset
    result = copy.copy(module)
    result._modules = {name: dequantised(child) for name, child in module.named_children()}
    return result


def _linear(exact: ExactLinear) -> nn.Linear:
    scale = 2.0 ** -int(exact.shift)
    linear = nn.Linear(1, 1, device="meta")
    linear.weight = nn.Parameter(exact.weight.double() * scale, requires_grad=False)
    linear.bias = nn.Parameter(exact.bias.double() * scale - 0.5, requires_grad=False)  # less the rounding half
    return linear
