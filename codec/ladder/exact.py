"""The integer side of a Ladder VAE: latents, priors and likelihood as integers, the same on every machine."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..exact.export import to_exact
from ..exact.softmax import exp_table, frequencies
from .model import Generative, Inference, LadderModel, LatentStep
from .pixels import PixelStep
from .scales import LOG_SCALE_MAX, LOG_SCALE_MIN, SCALES, STEPS, scale_tables

FRAC_BITS = 9
"""Fractional bits of all activations: values within +-64 in steps of 1/512."""
REACHES = (1, 2, 4, 8, 16, 31, 63)
"""How far from the prior's mean latents can be coded; each level and quality uses the least that suits it."""
_WEIGHT_BITS = 16  # of the posterior's weight
PULL = 2.0 ** (_WEIGHT_BITS + FRAC_BITS)
"""A distance of 1 in the units of `ExactLadder.pull`."""


def sigmoid_table() -> Tensor:
    """round(2^16 / (1 + exp(-2 d / 2^F))) for d = -R..R, R the width of the range of log scales, int32."""
    reach = round((LOG_SCALE_MAX - LOG_SCALE_MIN) * 2**FRAC_BITS)
    d = torch.arange(-reach, reach + 1, dtype=torch.float64) / 2**FRAC_BITS
    return torch.sigmoid(2 * d).mul(2**_WEIGHT_BITS).round().to(torch.int32)


class ExactLadder(nn.Module):
    """The integer side of a Ladder VAE: priors as tables, posteriors as integers, pixels as tables."""

    exp: Tensor
    sigmoid: Tensor
    reach: Tensor

    def __init__(self, model: LadderModel, reach: Tensor | None = None) -> None:
        """Convert a float model. reach: int64 [qualities, levels] of indices into REACHES."""
        super().__init__()
        config = self.config = model.config
        self.inference = cast(Inference, to_exact(model.inference.eval(), FRAC_BITS))
        self.generative = cast(Generative, to_exact(model.generative.eval(), FRAC_BITS))
        self.register_buffer("exp", exp_table(FRAC_BITS))
        self.register_buffer("sigmoid", sigmoid_table())
        widest = torch.full((config.qualities, config.levels), len(REACHES) - 1)
        self.register_buffer("reach", widest if reach is None else reach)
        for index, size in enumerate(REACHES):
            self.register_buffer(f"tables{index}", scale_tables(size))

    def reach_of(self, step: LatentStep, quality: int) -> int:
        """Largest distance from the prior's mean that is coded."""
        return REACHES[int(self.reach[quality, step.level])]

    def latent_frequencies(self, step: LatentStep, quality: int) -> Tensor:
        """Frequencies int32 [B, C * side * side, 2 * reach + 1] of a level's latents."""
        index = step.log_scale.mul(STEPS).add_(2 ** (FRAC_BITS - 1)).mul_(2.0**-FRAC_BITS).floor_()
        index = index.sub_(round(LOG_SCALE_MIN * STEPS)).clamp_(0, SCALES - 1).long()
        tables: Tensor = getattr(self, f"tables{int(self.reach[quality, step.level])}")
        freq: Tensor = tables[index.flatten(1)]
        return freq

    def pixel_frequencies(self, step: PixelStep) -> Tensor:
        """Frequencies int32 [B, P, K]."""
        return frequencies(step.logits, self.exp.double())

    def features(self, x: Tensor) -> list[Tensor]:
        """Bottom-up features of every level of float64 integers [B, 1, S, S]."""
        found = []
        for number in range(self.config.levels):
            x = self.inference.up(number, x)
            found.append(x)
        return found

    def pull(self, step: LatentStep, features: Tensor, quality: int) -> Tensor:
        """How far the precision-weighted mean (`model.precision_weighted`) is from the prior's, in units of 1 / PULL.

        float64 integers [B, C, side, side]."""
        mean, log_scale = self.inference.head(step.level, features, quality)
        low, high = LOG_SCALE_MIN * 2**FRAC_BITS, LOG_SCALE_MAX * 2**FRAC_BITS
        index = step.log_scale.clamp(low, high).sub_(log_scale.clamp(low, high)).add_(high - low).long()
        pull: Tensor = (mean - step.mean).mul_(self.sigmoid.double()[index])
        return pull

    def offset(self, step: LatentStep, features: Tensor, quality: int) -> Tensor:
        """Distance k of the rounded latents from the prior's mean, float64 integers [B, C, side, side]."""
        k = self.pull(step, features, quality).add_(PULL / 2).div_(PULL).floor_()
        reach = self.reach_of(step, quality)
        return k.clamp_(-reach, reach)

    def place(self, step: LatentStep, k: Tensor) -> Tensor:
        """The latents z of distances k, float64 integers."""
        z: Tensor = k * 2.0**FRAC_BITS + step.mean
        return z

    def render(self, features: Tensor) -> Tensor:
        """Pixels uint8 [B, S, S] of the latents alone."""
        scale = 255 if self.config.likelihood == "categorical" else 1
        x_hat: Tensor = self.generative.render(features)[:, 0].mul_(scale).add_(2.0 ** (FRAC_BITS - 1))
        return x_hat.mul_(2.0**-FRAC_BITS).floor_().clamp_(0, scale).to(torch.uint8)

    def pixels_in(self, values: Tensor) -> Tensor:
        """Values int64 [B, S, S] as the encoder takes them, float64 integers [B, 1, S, S]: 1 is 2^F."""
        x = values[:, None].double().mul_(2.0**FRAC_BITS)
        return x if self.config.values == 2 else x.mul_(2).add_(255).div_(510).floor_()
