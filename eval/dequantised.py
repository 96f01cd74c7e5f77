"""Exact networks once more in float64, with their stored weights: what fixed point costs is the difference."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import Tensor, nn

from ..codec.exact.layers import ExactConv2d, ExactEmbedding, ExactLeaky, ExactLinear, ExactOffset, Leaky, Offset
from ..codec.ladder.network import Dense

M = TypeVar("M", bound=nn.Module)


def dequantised(module: M) -> M:
    """Copy of an exact module that computes in float64, neither rounding nor clamping; its weights are the stored ones.

    Values keep their unit of 2**-F, so results compare with the exact module's as they stand."""
    return cast(M, _dequantised(module, 1.0))


def natural(module: M, frac_bits: int) -> M:
    """The same, but values are in their natural unit: what the exact module stores as v * 2**frac_bits is v."""
    return cast(M, _dequantised(module, 2.0**-frac_bits))


def _dequantised(module: nn.Module, unit: float) -> nn.Module:
    if isinstance(module, ExactLinear):
        return _weighted(module, nn.Linear(1, 1, device="meta"), unit)
    if isinstance(module, ExactConv2d):
        pointwise = module.weight.shape[2:] == (1, 1) and (module.stride, module.padding) == (1, 0)
        kind = Dense if pointwise else nn.Conv2d
        return _weighted(module, kind(1, 1, 1, stride=module.stride, padding=module.padding, device="meta"), unit)
    if isinstance(module, ExactEmbedding):
        return nn.Embedding.from_pretrained(module.table.double() * unit)  # type: ignore[no-any-return]
    if isinstance(module, ExactOffset):
        offset = Offset(*module.table.shape)
        offset.table = _fixed(module.table.double() * unit)
        return offset
    if isinstance(module, ExactLeaky):
        return Leaky(module.shift)
    result = copy.copy(module)
    result._modules = {name: _dequantised(child, unit) for name, child in module.named_children()}
    return result


def _weighted(exact: ExactLinear | ExactConv2d, layer: nn.Linear | nn.Conv2d, unit: float) -> nn.Module:
    scale = 2.0 ** -int(exact.shift)
    layer.weight = _fixed(exact.weight.double() * scale)
    layer.bias = _fixed((exact.bias.double() * scale - 0.5) * unit)  # less the rounding half
    return layer


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
