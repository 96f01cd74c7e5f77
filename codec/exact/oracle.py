"""The exact layers once more, in NumPy int64: slow, plain, and sharing no arithmetic with PyTorch.

What `layers`, `softmax` and the codecs compute must equal this integer for integer, on any device and back end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ...bitstream.cdf import Int64Array, quantise_weights
from .layers import ExactConv2d, ExactEmbedding, ExactLeaky, ExactLinear, ExactOffset, Residual
from .requantise import ACTIVATION_LIMIT

if TYPE_CHECKING:
    from ..vq.codec import ExactPrior, ExactQuantiser
    from ..vq.schedule import Step


def run(module: nn.Module, x: Int64Array) -> Int64Array:
    """What an exact module makes of integers int64, of the shapes the module takes.

    Raises TypeError for a module of which no class is in the list at the end of this file."""
    interpret = next((_INTERPRETERS[kind] for kind in type(module).__mro__ if kind in _INTERPRETERS), None)
    if interpret is None:
        raise TypeError(f"the oracle does not know {type(module).__name__}")
    return interpret(module, x)


def prior_frequencies(prior: ExactPrior, step: Step, indices: Sequence[Tensor]) -> Int64Array:
    """Frequencies int64 [B, n, K] of a step's positions; arguments as for the prior itself."""
    net, number = prior.net, step.number
    parts = [
        run(embedding, stored(index)[:, known.numpy()]).reshape(len(index), -1)
        for embedding, index, known in zip(net.embeddings, indices, step.known, strict=True)
    ]
    context = np.concatenate(parts, 1)
    logits = np.zeros((len(context), len(step.positions), 1), np.int64)
    if context.shape[1]:
        features = run(net.nets[number], context)
        logits = run(net.heads[step.level], features.reshape(*logits.shape[:2], -1))
    return softmax_frequencies(run(net.offsets[number], logits), prior.exp)


def softmax_frequencies(logits: Int64Array, table: Tensor) -> Int64Array:
    """Frequencies int64 [..., K] of integer logits and the stored table of exponentials."""
    exponentials = stored(table)
    distance = logits.max(-1, keepdims=True) - logits
    return quantise_weights(exponentials[np.minimum(distance, len(exponentials) - 1)])


def embed(quantiser: ExactQuantiser, level: int, index: Int64Array) -> Int64Array:
    """Code vectors on the latent grid, int64 [B, D, H, W], of indices int64 [B, P_level]."""
    config, side = quantiser.config, quantiser.config.level_grid(level)
    q = run(quantiser.codebooks[level], index)
    q = q.transpose(0, 2, 1).reshape(len(index), -1, side, side)
    nearest = np.arange(config.grid) // config.levels[level].stride
    return q[:, :, nearest[:, None], nearest]


def stored(tensor: Tensor) -> Int64Array:
    """A tensor of integers, on any device, as int64."""
    return tensor.cpu().numpy().astype(np.int64)


def _sequential(module: nn.Sequential, x: Int64Array) -> Int64Array:
    for layer in module:
        x = run(layer, x)
    return x


def _requantise(layer: ExactLinear | ExactConv2d, sums: Int64Array) -> Int64Array:
    """[..., out]; the arithmetic shift divides by 2**shift and rounds down."""
    shifted = (sums + stored(layer.bias)) >> stored(layer.shift)
    return shifted.clip(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def _linear(layer: ExactLinear, x: Int64Array) -> Int64Array:
    return _requantise(layer, x @ stored(layer.weight).T)


def _conv2d(layer: ExactConv2d, x: Int64Array) -> Int64Array:
    weight, stride = stored(layer.weight), layer.stride
    edge = (layer.padding, layer.padding)
    padded = np.pad(x, ((0, 0), (0, 0), edge, edge))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    sums = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3)))
    return _requantise(layer, sums).transpose(0, 3, 1, 2)


def _embedding(layer: ExactEmbedding, index: Int64Array) -> Int64Array:
    return stored(layer.table)[index]


def _offset(layer: ExactOffset, x: Int64Array) -> Int64Array:
    return x + stored(layer.table)


def _residual(layer: Residual, x: Int64Array) -> Int64Array:
    return x + run(layer.body, x)


def _pixel_shuffle(layer: nn.PixelShuffle, x: Int64Array) -> Int64Array:
    batch, channels, height, width = x.shape
    r = layer.upscale_factor
    split = x.reshape(batch, channels // r**2, r, r, height, width)
    return split.transpose(0, 1, 4, 2, 5, 3).reshape(batch, channels // r**2, height * r, width * r)


def _pixel_unshuffle(layer: nn.PixelUnshuffle, x: Int64Array) -> Int64Array:
    batch, channels, height, width = x.shape
    r = layer.downscale_factor
    split = x.reshape(batch, channels, height // r, r, width // r, r)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(batch, channels * r**2, height // r, width // r)


_INTERPRETERS: dict[type[nn.Module], Callable[..., Int64Array]] = {
    nn.Sequential: _sequential,
    nn.ReLU: lambda _, x: np.maximum(x, 0),
    nn.Identity: lambda _, x: x,
    nn.PixelShuffle: _pixel_shuffle,
    nn.PixelUnshuffle: _pixel_unshuffle,
    ExactLinear: _linear,
    ExactConv2d: _conv2d,
    ExactEmbedding: _embedding,
    ExactOffset: _offset,
    ExactLeaky: lambda layer, x: np.maximum(x, x >> layer.shift),
    Residual: _residual,
}
