"""The likelihood p(x | z): pixels in interleaved stages, each given the latents and the stages before."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..interleaving import bayer
from .config import LadderConfig, Stage
from .network import conv, conv_level, rectifier, unshuffled

HALF = 16
"""Values of each half of an 8-bit pixel: value = 16 * high + low."""


@dataclass(frozen=True)
class PixelStep:
    """One table per pixel of a stage. part: 0 for the high half (or whole value), 1 for the low (`causal` has others).

    scores: logits [B, P, K], or [B, P, 1] for two values, those of 1 against 0.
    places: of pixels in raster order (`causal`), which they are.
    chosen: bool [B, P], where scores [M, 1, K] are of these alone."""

    stage: int
    part: int
    scores: Tensor
    places: Tensor | None = None
    chosen: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Of every value, [B, P, K]."""
        return self.scores if self.scores.shape[-1] > 1 else torch.cat([torch.zeros_like(self.scores), self.scores], -1)


def patch_order(patch: int) -> Tensor:
    """Places (raster, int64 [patch**2]) of a patch's pixels by interleaving rank: the 8x8 Bayer matrix, tiled."""
    place = torch.arange(patch) % 8
    return bayer(8)[place][:, place].flatten().argsort(stable=True)


class StagedPixels(nn.Module):
    """Tables of the pixels of every stage; the same code runs in float and, with exact leaves, in integers.

    With a single linear stage this is the factorised likelihood of the paper."""

    def __init__(self, config: LadderConfig) -> None:
        """One network per stage, and a head for each half of a value."""
        super().__init__()
        self.config = config
        order, starts = patch_order(config.patch), (0, *(stage.until for stage in config.stages))
        for number, (first, end) in enumerate(pairwise(starts)):
            self.register_buffer(f"places{number}", order[first:end].sort().values, persistent=False)
        features, embed = config.pixel_features, config.pixel_embed
        self.nets = nn.ModuleList(self._net(stage, number) for number, stage in enumerate(config.stages))
        self.embedding = nn.Embedding(config.values, embed)
        self.binary = config.likelihood == "bernoulli"
        plain = self.binary and features == 1 and not any(stage.width for stage in config.stages)
        self.high = nn.Identity() if plain else nn.Linear(features, 1 if self.binary else HALF)
        if not self.binary:
            self.high_embedding = nn.Embedding(HALF, features)
            self.low = nn.Linear(features, HALF)
            with torch.no_grad():
                value = torch.arange(256.0)
                known = torch.stack([value / 128 - 1, (value > 0) * 2.0 - 1, (value > 250) * 2.0 - 1])
                self.embedding.weight[:, : min(3, embed)] = known[:embed].T

    @property
    def places(self) -> list[Tensor]:
        """Of every stage, the places of its pixels in a patch, raster, int64 [P]."""
        return [getattr(self, f"places{number}") for number in range(len(self.config.stages))]

    def _net(self, stage: Stage, number: int) -> nn.Module:
        config, side = self.config, self.config.grids[0]
        inputs = config.widths[0] + sum(map(len, self.places[:number])) * config.pixel_embed
        outputs = len(self.places[number]) * config.pixel_features
        if not stage.width:
            return conv(inputs, outputs)
        body = conv_level(config, inputs, stage.width, side, stage.blocks)
        return nn.Sequential(*body, rectifier(config), conv(stage.width, outputs))

    def walk(self, context: Tensor, known: Tensor | None = None) -> Generator[PixelStep, Tensor, Tensor]:
        """Yields the steps and receives the symbols int64 [B, P] of each; context [B, widths[0], side, side].

        known: of no use here. Returns the values int64 [B, patch**2, side, side]."""
        pixels = self.config.patch**2 if len(self.places) > 1 else 0  # a single stage has them in their order
        values = torch.zeros(len(context), pixels, *context.shape[2:], dtype=torch.int64, device=context.device)
        there = [context]
        for number, places in enumerate(self.places):
            features = self.nets[number](torch.cat(there, 1) if number else context).unflatten(1, (len(places), -1))
            value = yield from self._value(number, features.permute(0, 1, 3, 4, 2).flatten(1, 3))
            value = value.unflatten(1, (len(places), *context.shape[2:]))
            if not pixels:
                raster: Tensor = value
                return raster
            values[:, places] = value
            if number + 1 < len(self.places):
                there.append(self.embedding(value).permute(0, 1, 4, 2, 3).flatten(1, 2))
        return values

    def _value(self, number: int, features: Tensor) -> Generator[PixelStep, Tensor, Tensor]:
        """Features [B, P, F] -> values int64 [B, P]."""
        if self.binary:
            logit = self.high(torch.relu(features) if self.config.stages[number].width else features)
            return (yield PixelStep(number, 0, logit))
        high = yield PixelStep(number, 0, self.high(torch.relu(features)))
        low = yield PixelStep(number, 1, self.low((features + self.high_embedding(high)).relu_()))
        return high * HALF + low

    def symbols(self, values: Tensor, step: PixelStep) -> Tensor:
        """What is coded in a step: values int64 [B, patch**2, side, side] (`to_patches`) -> int64 [B, P]."""
        own = (values if len(self.places) == 1 else values[:, self.places[step.stage]]).flatten(1)
        if self.binary:
            return own
        return own % HALF if step.part else own // HALF

    def to_patches(self, pixels: Tensor) -> Tensor:
        """Values [B, S, S] -> [B, patch**2, side, side]."""
        return unshuffled(pixels[:, None], self.config.patch)

    def from_patches(self, values: Tensor) -> Tensor:
        """Inverse of `to_patches`."""
        return nn.functional.pixel_shuffle(values, self.config.patch)[:, 0]
