"""Networks of a level, in layers that have exact counterparts (codec/exact). All work on [B, C, side, side]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..exact.layers import Leaky, Residual
from .config import LadderConfig

_LOG_SCALE_GAIN = 0.1


def rectifier(config: LadderConfig) -> nn.Module:
    """ReLU, or a leaky one where the configuration says so."""
    return Leaky(config.leak) if config.leak else nn.ReLU()


class Dense(nn.Conv2d):
    """A 1x1 convolution; on a grid of one position it is computed as the matrix product that it is (on a CPU, training
    the paper's networks so takes a fifth of the time)."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, side, side] -> [B, outputs, side, side]."""
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]


def conv(inputs: int, outputs: int, side: int = 1) -> nn.Conv2d:
    """Convolution that keeps the grid: 3x3 on grids of more than one position, else 1x1, which is a dense layer."""
    return Dense(inputs, outputs, 1) if side == 1 else nn.Conv2d(inputs, outputs, 3, padding=1)


def head(config: LadderConfig, inputs: int, latents: int) -> nn.Module:
    """Mean and log scale of latents; batch-normalised like hidden layers (Sonderby et al. 2016, section 3).

    Normalised log scales start with a small gain: at 1, prior and posterior would differ by factors of e^2 here and
    there, and the KL terms of a plain VAE of five levels never recover from it."""
    weighted = conv(inputs, 2 * latents)
    if not config.batch_norm:
        return weighted
    norm = nn.BatchNorm2d(2 * latents)
    with torch.no_grad():
        norm.weight[latents:] = _LOG_SCALE_GAIN
    return nn.Sequential(weighted, norm)


def dense_level(config: LadderConfig, inputs: int, width: int) -> nn.Sequential:
    """Two dense layers (Sonderby et al. 2016, section 3)."""
    return nn.Sequential(
        conv(inputs, width), *_norm(config, width), rectifier(config),
        conv(width, width), *_norm(config, width), rectifier(config),
    )  # fmt: skip


def conv_level(config: LadderConfig, inputs: int, width: int, side: int, blocks: int) -> nn.Sequential:
    """A convolution and residual blocks."""
    return nn.Sequential(
        conv(inputs, width, side), *_norm(config, width), *(block(config, width, side) for _ in range(blocks))
    )


def block(config: LadderConfig, width: int, side: int) -> Residual:
    """A residual block, x + 1x1(relu(3x3(relu(x)))); at first x, which is stable without normalisation ("Fixup",
    Zhang et al. 2019)."""
    last = conv(width, width)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return Residual(
        nn.Sequential(rectifier(config), conv(width, width, side), *_norm(config, width), rectifier(config), last)
    )


def level(config: LadderConfig, number: int, inputs: int) -> nn.Sequential:
    """Network of a level in either direction, from `inputs` channels to the level's width."""
    width, side = config.widths[number], config.grids[number]
    if config.form == "mlp":
        return dense_level(config, inputs, width)
    return conv_level(config, inputs, width, side, config.blocks)


def upwards(config: LadderConfig, number: int) -> int:
    """Factor by which the grid shrinks from below a level (the image, for level 0) to the level."""
    return (config.image_size, *config.grids)[number] // config.grids[number]


def squeeze(config: LadderConfig, number: int) -> nn.Module:
    """From the grid below a level to the level's, positions becoming channels."""
    factor = upwards(config, number)
    return Unshuffle(factor) if factor > 1 else nn.Identity()


class Unshuffle(nn.PixelUnshuffle):
    """Positions of each factor x factor square become channels."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, factor * side, factor * side] -> [B, C * factor**2, side, side]."""
        return unshuffled(x, self.downscale_factor)


def unshuffled(x: Tensor, factor: int) -> Tensor:
    """As `nn.functional.pixel_unshuffle`, which is slow where nothing has to move: one channel, one square."""
    if x.shape[1:] == (1, factor, factor):
        return x.reshape(len(x), -1, 1, 1)
    return nn.functional.pixel_unshuffle(x, factor)


def _norm(config: LadderConfig, width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width)] if config.batch_norm else []
