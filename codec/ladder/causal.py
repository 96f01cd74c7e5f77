"""The likelihood p(x | z) in raster order: every pixel given the latents and its causal neighbours.

A perceptron, the same at every pixel, reads what the latents say of the pixel and the neighbours above and to the left
(one masked layer of van den Oord et al. 2016, "Pixel recurrent neural networks", over latents as in Gulrajani et al.
2017, "PixelVAE"). Pixels are visited in waves: those of a wave are no neighbours of each other, and coded together."""

from __future__ import annotations

from collections.abc import Generator
from itertools import product

import torch
from torch import Tensor, nn

from ..exact.layers import Residual
from .config import LadderConfig
from .network import conv, rectifier
from .pixels import HALF, PixelStep

WHOLE, HIGH, LOW = 0, 1, 2
"""Parts of a pixel: its bit (of 8-bit pixels, whether it is not 0); then the halves of 4 bits of one that is not 0."""


def neighbours(context: int) -> Tensor:
    """Offsets (rows, columns) of the causal neighbours, int64 [2 * context * (context + 1), 2], in raster order."""
    square = product(range(-context, 1), range(-context, context + 1))
    return torch.tensor([offset for offset in square if offset < (0, 0)])


def waves(size: int, context: int) -> list[Tensor]:
    """Pixels (raster, int64) of every wave: (i, j) is in wave j + i (context + 1), after all its neighbours."""
    wave = wave_of_pixels(size, context)
    return [(wave == number).nonzero()[:, 0] for number in range(int(wave.max()) + 1)]


def wave_of_pixels(size: int, context: int) -> Tensor:
    """The wave of every pixel (raster), int64 [size * size]."""
    place = torch.arange(size)
    wave: Tensor = (place + (context + 1) * place[:, None]).flatten()
    return wave


class CausalPixels(nn.Module):
    """Tables of the pixels of every wave; the same code runs in float and, with exact leaves, in integers."""

    place: Tensor
    near: Tensor
    raster: Tensor

    def __init__(self, config: LadderConfig) -> None:
        """The perceptron, and a head for each part of a value."""
        super().__init__()
        self.config = config
        self.binary = config.likelihood == "bernoulli"
        size, radius, (stage,) = config.image_size, config.context, config.stages
        self.waves, offsets = waves(size, radius), neighbours(radius)
        self.width = size + 2 * radius  # of the canvas: pixels of value 0 above the image and on both of its sides
        place = torch.arange(size)
        on_canvas = ((place[:, None] + radius) * self.width + place + radius).flatten()
        self.register_buffer("place", on_canvas, persistent=False)
        near = on_canvas[:, None] + offsets[:, 0] * self.width + offsets[:, 1]
        self.register_buffer("near", near, persistent=False)
        self.register_buffer("raster", torch.arange(size**2), persistent=False)
        self.seen = nn.Embedding.from_pretrained(_seen(config.values))
        self.features = nn.Sequential(
            conv(config.widths[0], config.patch**2 * config.pixel_features), nn.PixelShuffle(config.patch)
        )
        inputs = len(offsets) * self.seen.embedding_dim + config.pixel_features
        layers = [self._layer(stage.width, stage.width) for _ in range(stage.blocks)]
        self.net = nn.Sequential(*self._layer(inputs, stage.width), *map(Residual, layers))
        self.whole = nn.Linear(stage.width, 1)
        if not self.binary:
            self.high, self.low = nn.Linear(stage.width, HALF), nn.Linear(stage.width, HALF)
            self.high_embedding = nn.Embedding(HALF, stage.width)
            self.between = rectifier(config)

    def _layer(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, outputs), rectifier(self.config))

    def walk(self, context: Tensor, known: Tensor | None = None) -> Generator[PixelStep, Tensor, Tensor]:
        """Yields the steps and receives the symbols int64 [B, P] (or [M, 1]) of each.

        context: [B, widths[0], side, side].  known: values int64 [B, S * S], if all are known beforehand; then they are
        one wave. Returns the values."""
        values = torch.zeros(len(context), len(self.place), dtype=torch.int64, device=context.device)
        features = self.features(context).flatten(2).mT
        canvas = self._canvas(values if known is None else known)
        for number, places in enumerate(self.waves if known is None else [self.raster]):
            near = canvas.index_select(1, self.near[places].flatten())
            near = near.view(len(context), len(places), -1)
            hidden = self.net(torch.cat([near, features[:, places]], 2))
            values[:, places] = yield from self._value(number, places, hidden)
            if known is None:
                canvas[:, self.place[places]] = self.seen(values[:, places])
        return values

    def _canvas(self, values: Tensor) -> Tensor:
        """How the network sees values int64 [B, S * S], with what surrounds them: [B, positions, channels]."""
        radius = self.config.context
        image = values.unflatten(1, (self.config.image_size, -1))
        seen: Tensor = self.seen(nn.functional.pad(image, (radius, radius, radius, 0)))
        return seen.flatten(1, 2)

    def _value(self, wave: int, places: Tensor, hidden: Tensor) -> Generator[PixelStep, Tensor, Tensor]:
        """Hidden channels [B, P, H] of a wave's pixels -> values int64 [B, P]."""
        value = yield PixelStep(wave, WHOLE, self.whole(hidden), places)
        if self.binary:
            return value
        chosen = value.bool()
        hidden = hidden[chosen][:, None]
        high = yield PixelStep(wave, HIGH, self.high(hidden), places, chosen)
        low = yield PixelStep(wave, LOW, self.low(self.between(hidden + self.high_embedding(high))), places, chosen)
        value = value.clone()
        value[chosen] = (high * HALF + low)[:, 0]
        return value

    def symbols(self, values: Tensor, step: PixelStep) -> Tensor:
        """What is coded in a step: values int64 [B, S * S] (`to_patches`) -> int64 [B, P], or [M, 1] of the chosen."""
        assert step.places is not None
        own = values[:, step.places]
        if step.part == WHOLE:
            return own if self.binary else (own > 0).long()
        assert step.chosen is not None
        own = own[step.chosen][:, None]
        half: Tensor = own // HALF if step.part == HIGH else own % HALF
        return half

    def to_patches(self, pixels: Tensor) -> Tensor:
        """Values [B, S, S] -> [B, S * S]."""
        return pixels.flatten(1)

    def from_patches(self, values: Tensor) -> Tensor:
        """Inverse of `to_patches`."""
        image: Tensor = values.unflatten(1, (self.config.image_size, -1))
        return image


def _seen(values: int) -> Tensor:
    """How the network sees a pixel of every value: [values, channels], multiples of 1/256."""
    value = torch.arange(float(values))[:, None]
    return value if values == 2 else torch.cat([value / 256, value.clamp(max=1)], 1)
