"""From trained float layers to exact ones: batch norm folded, weights and biases rounded to integers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from .layers import (
    EXACT_BOUND,
    INPUT_BOUND,
    ExactConv2d,
    ExactEmbedding,
    ExactLeaky,
    ExactLinear,
    ExactOffset,
    Leaky,
    Offset,
    Residual,
)
from .requantise import ACTIVATION_LIMIT

_WEIGHT_LIMIT = 127 * 256 + 127  # the largest number of two signed digits (`backend`)
_MAX_SHIFT = 24
_UNCHANGED = (nn.ReLU, nn.PixelShuffle, nn.PixelUnshuffle, nn.Identity)


def to_exact(module: nn.Module, frac_bits: int) -> nn.Module:
    """Exact copy of a float module, leaf by leaf; containers keep their code and get exact leaves.

    frac_bits: fractional bits of all activations. Inputs of the result are integers round(v * 2**frac_bits) in float64
    (or int64 indices for embeddings).
    Raises TypeError for a layer that has no exact form and OverflowError if sums could reach 2**53.
    """
    if isinstance(module, nn.Sequential):
        layers = _fold_batch_norm([layer for layer in module if not isinstance(layer, nn.Dropout)])
        if len(module) > 1 and len(layers) == 1:  # a layer and its batch norm are one layer, named as without it
            return to_exact(layers[0], frac_bits)
        return nn.Sequential(*_in_place([to_exact(layer, frac_bits) for layer in layers]))
    if isinstance(module, nn.Conv2d):
        return ExactConv2d(*_integers(module, frac_bits), *_stride_and_padding(module))
    if isinstance(module, nn.Linear):
        return ExactLinear(*_integers(module, frac_bits))
    if isinstance(module, nn.Embedding):
        return ExactEmbedding(_rounded(module.weight, frac_bits, ACTIVATION_LIMIT).to(torch.int16))
    if isinstance(module, Offset):
        return ExactOffset(_rounded(module.table, frac_bits, ACTIVATION_LIMIT).to(torch.int32))
    if isinstance(module, Leaky):
        return ExactLeaky(module.shift)
    if isinstance(module, _UNCHANGED) or (isinstance(module, nn.ModuleList) and not len(module)):
        return module
    if not list(module.children()) or list(module.parameters(recurse=False)):
        raise TypeError(f"{type(module).__name__} has no exact form")
    result = copy.copy(module)
    result._modules = {name: to_exact(child, frac_bits) for name, child in module.named_children()}
    return result


def _in_place(layers: list[nn.Module]) -> list[nn.Module]:
    """The same layers, of which those ReLUs overwrite their input that nothing else reads: what a layer has made."""
    before = zip([None, *layers], layers, strict=False)
    makers = (ExactConv2d, ExactLinear, Residual)
    return [
        nn.ReLU(inplace=True) if isinstance(layer, nn.ReLU) and isinstance(maker, makers) else layer
        for maker, layer in before
    ]


def _rounded(values: Tensor, bits: int, limit: int) -> Tensor:
    return values.detach().double().mul(2.0**bits).round().clamp(-limit, limit)


def _stride_and_padding(conv: nn.Conv2d) -> tuple[int, int]:
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    if not plain or isinstance(conv.padding, str) or len(set(conv.padding)) > 1 or len(set(conv.stride)) > 1:
        raise TypeError(f"{conv} has no exact form: only one stride, one zero padding, no groups, no dilation")
    return int(conv.stride[0]), int(conv.padding[0])


def _integers(layer: nn.Conv2d | nn.Linear, frac_bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight int16, bias int64 (with the rounding half) and shift int64 of a weighted layer."""
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if layer.bias is not None:
        bias = layer.bias.detach().double()
    largest = max(float(weight.abs().max()), 2.0**-9)
    shift = max(1, min(_MAX_SHIFT, math.floor(math.log2(_WEIGHT_LIMIT / largest))))
    weight = _rounded(weight, shift, _WEIGHT_LIMIT)
    bias = bias.mul(2.0 ** (frac_bits + shift)).round() + 2 ** (shift - 1)
    bound = weight.abs().flatten(1).sum(1) * INPUT_BOUND + bias.abs()
    if float(bound.max()) >= EXACT_BOUND:
        raise OverflowError(f"sums of {layer} can reach 2**53")
    return weight.to(torch.int16), bias.to(torch.int64), torch.tensor(shift)


def _fold_batch_norm(layers: list[nn.Module]) -> list[nn.Module]:
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            if not folded or not isinstance(folded[-1], nn.Conv2d | nn.Linear):
                raise TypeError("batch norm can be folded only into a convolution or linear layer before it")
            folded[-1] = fold_batch_norm(folded[-1], layer)
        else:
            folded.append(layer)
    return folded


def fold_batch_norm(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Conv2d | nn.Linear:
    """One layer that computes norm(layer(x)) with the norm's running statistics (Ioffe and Szegedy 2015)."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise TypeError("batch norm without running statistics cannot be folded")
    scale = (variance.detach().double() + norm.eps).rsqrt()
    shift = -mean.detach().double() * scale
    if norm.affine:
        gain = norm.weight.detach().double()
        scale, shift = scale * gain, shift * gain + norm.bias.detach().double()
    result = copy.deepcopy(layer).double()
    columns = (-1, *([1] * (layer.weight.ndim - 1)))
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    result.weight = nn.Parameter(layer.weight.detach().double() * scale.view(columns))
    result.bias = nn.Parameter(bias * scale + shift)
    return result
