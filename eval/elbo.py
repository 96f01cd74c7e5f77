"""What a ladder codec's tables and the same model in float64 make of the same symbols: code length and -ELBO.

The codec's posterior is deterministic: latents are rounded to a unit grid around their prior's mean, so the posterior
has its whole mass on one point of the grid, on which the prior is a discretised Gaussian. The KL term is then -log of
that point's mass, and -ELBO = KL - log p(x | z) is the code length of the image, reached without any bits back."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codec.family import LOSSLESS
from ..codec.ladder.codec import LadderCodec
from ..codec.ladder.exact import FRAC_BITS, REACHES
from ..codec.ladder.model import Generative, LatentStep, Step
from ..codec.ladder.scales import LOG_SCALE_MAX, LOG_SCALE_MIN
from .metrics import Images
from .prior import softmax_bits, table_bits


@dataclass(frozen=True)
class Lengths:
    """Sums over images; tensors float64, on the CPU. Lists are per level from the image up.

    latent_bits [L], pixel_bits: code length under the coder's integer tables.  nats: the KL term of every latent [n],
    and nll_bits: -log2 p(x | z), both of the float64 model.
    farthest: largest |k|.  clipped: latents that the codec moved to the end of its reach (none are seen beyond the
    widest reach there is).
    """

    latent_bits: Tensor
    pixel_bits: float
    nats: list[Tensor]
    nll_bits: float
    farthest: list[int]
    clipped: list[int]


@torch.inference_mode()
def code_lengths(codec: LadderCodec, net: Generative, images: Images, setting: int) -> Lengths:
    """Of images uint8 [B, S, S], upright and dark. net: `dequantised(codec.generative)`.

    The flag that an image is inverted is not counted: 0.003 bits for images that are not."""
    values = codec.values(images)
    seen = _Seen(codec, codec.features(codec.pixels_in(values)), setting)
    codec.drive(values, setting, seen.emit)
    nats, nll_bits = float_lengths(net, seen.symbols, seen.reaches, setting)
    return Lengths(seen.latent_bits, seen.pixel_bits, nats, nll_bits, seen.farthest, seen.clipped)


def joined(parts: Sequence[Lengths]) -> Lengths:
    """Of the images of all parts."""
    return Lengths(
        torch.stack([part.latent_bits for part in parts]).sum(0),
        sum(part.pixel_bits for part in parts),
        [torch.stack(level).sum(0) for level in zip(*(part.nats for part in parts), strict=True)],
        sum(part.nll_bits for part in parts),
        [max(level) for level in zip(*(part.farthest for part in parts), strict=True)],
        [sum(level) for level in zip(*(part.clipped for part in parts), strict=True)],
    )


class _Seen:
    """What the encoder's walk emits: symbols of every step, reach of every level, and sums over them."""

    def __init__(self, codec: LadderCodec, features: Sequence[Tensor], setting: int) -> None:
        levels = codec.config.levels
        self.codec, self.features, self.setting = codec, features, setting
        self.unlimited = _with_widest_reach(codec)
        self.symbols: list[Tensor] = []
        self.latent_bits = torch.zeros(levels, dtype=torch.float64)
        self.pixel_bits = 0.0
        self.reaches, self.farthest, self.clipped = [0] * levels, [0] * levels, [0] * levels

    def emit(self, step: Step, symbols: Tensor, freq: Tensor) -> None:
        self.symbols.append(symbols)
        bits = float(table_bits(symbols, freq).sum())
        if not isinstance(step, LatentStep):
            self.pixel_bits += bits
            return
        level, reach = step.level, self.codec.reach_of(step, self.setting)
        k = symbols - reach
        free = self.unlimited.offset(step, self.features[level], self.setting).flatten(1)
        self.latent_bits[level] = bits
        self.reaches[level], self.farthest[level] = reach, int(k.abs().max())
        self.clipped[level] = int((free != k).sum())


def _with_widest_reach(codec: LadderCodec) -> LadderCodec:
    """The codec (the same tensors) with the widest reach for all levels and qualities."""
    wide = copy.copy(codec)
    wide._buffers = codec._buffers | {"reach": torch.full_like(codec.reach, len(REACHES) - 1)}
    return wide


@torch.inference_mode()
def float_lengths(
    net: Generative, symbols: Sequence[Tensor], reaches: Sequence[int], setting: int
) -> tuple[list[Tensor], float]:
    """KL term in nats of every latent [n] per level, and -log2 p(x | z), both summed over the images.

    symbols: int64 [B, n] of every step of the walk; latents are their distance from the prior's mean, plus the reach.
    """
    nats, nll_bits = [torch.zeros(0)] * len(reaches), 0.0
    walk, unit = net.walk(len(symbols[0]), setting, setting == LOSSLESS), 2.0**FRAC_BITS
    step = next(walk)
    for number, given in enumerate(symbols):
        if isinstance(step, LatentStep):
            k = given.view(step.mean.shape) - reaches[step.level]
            nats[step.level] = gaussian_nats(k, step.log_scale / unit).flatten(1).sum(0).cpu()
            given = step.mean + k * unit
        else:
            nll_bits += float(softmax_bits(given, step.logits / unit).sum())
        if number + 1 < len(symbols):  # nothing is asked after the last step
            step = walk.send(given)
    return nats, nll_bits


def gaussian_nats(k: Tensor, log_scale: Tensor) -> Tensor:
    """-log of the mass of N(0, scale^2) in k +- 1/2, in nats; the log scale is kept in the model's range.

    k int64, log_scale float64 of the same shape."""
    scale = log_scale.clamp(LOG_SCALE_MIN, LOG_SCALE_MAX).exp()
    near, far = (torch.special.log_ndtr((edge - k.abs()) / scale) for edge in (0.5, -0.5))
    nats: Tensor = -(near + torch.log1p(-(far - near).exp()))
    return nats


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)
