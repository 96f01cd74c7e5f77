"""Analysis and synthesis networks of the VQ-VAE, in layers that have exact counterparts (codec/exact)."""

from __future__ import annotations

from torch import nn

from ..exact.layers import Residual
from .config import VQConfig

_FULL_WIDTH = 32  # channels at half the image's resolution


def _block(channels: int) -> Residual:
    return Residual(
        nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )
    )


def build_encoder(config: VQConfig) -> nn.Sequential:
    """Network from x [B, 1, S, S] in [0, 1) to z [B, D, S/4, S/4], every dimension of unit variance.

    The closing batch norm (no affine part) fixes the scale of z, so that a rate weight in the choice of codes has a
    meaning that the encoder cannot undo by growing z; it is folded into the convolution before it at export."""
    width = config.width
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4, _FULL_WIDTH, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(_FULL_WIDTH, width, 4, stride=2, padding=1),
        _block(width),
        _block(width),
        nn.ReLU(),
        nn.Conv2d(width, config.latent_dim, 1),
        nn.BatchNorm2d(config.latent_dim, affine=False),
    )


def build_decoder(config: VQConfig) -> nn.Sequential:
    """Network from z_q [B, D, S/4, S/4] to x_hat [B, 1, S, S], 0..1 up to rounding."""
    width = config.width
    return nn.Sequential(
        nn.Conv2d(config.latent_dim, width, 3, padding=1),
        _block(width),
        _block(width),
        _block(width),
        nn.ReLU(),
        nn.Conv2d(width, 4 * _FULL_WIDTH, 3, padding=1),
        nn.PixelShuffle(2),
        _block(_FULL_WIDTH),
        nn.ReLU(),
        nn.Conv2d(_FULL_WIDTH, 4, 3, padding=1),
        nn.PixelShuffle(2),
    )
