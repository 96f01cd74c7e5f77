"""Networks of a level, in layers that have exact counterparts (codec/exact). All work on [B, C, side, side]."""

from __future__ import annotations

from torch import nn

from ..exact.layers import Leaky, Residual
from .config import LadderConfig


def rectifier(config: LadderConfig) -> nn.Module:
    """ReLU, or a leaky one where the configuration says so."""
    return Leaky(config.leak) if config.leak else nn.ReLU()


def conv(inputs: int, outputs: int, side: int = 1) -> nn.Conv2d:
    """Convolution that keeps the grid: 3x3 on grids of more than one position, else 1x1, which is a dense layer."""
    kernel = 1 if side == 1 else 3
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


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


def _norm(config: LadderConfig, width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width)] if config.batch_norm else []
