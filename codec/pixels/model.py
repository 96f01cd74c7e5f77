"""The likelihood of photographs: every sample given its pixel's causal neighbours and the samples before it.

A perceptron, the same at every pixel, reads the neighbours above and to the left (one masked layer of van den Oord et
al. 2016, "Pixel recurrent neural networks"), as `codec.ladder.causal` does for digits. A sample follows a mixture of
two logistic distributions of one mean (after Salimans et al. 2017, PixelCNN++, eq. 2), whose scale the network tells
and whose shape hangs on the scale alone; green comes first, red and blue know the errors of the samples before them.

Levels v of 0..255 are x = (v - 128) / UNIT to the networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..exact.layers import Residual
from .config import CHANNELS, LOG_SCALE_MAX, LOG_SCALE_MIN, PhotoLosslessConfig

UNIT = 16.0
RADIUS = 3
"""Neighbours are up to so many rows and columns away."""
SLOPE = 2
"""A pixel's wave is its column plus so many times its row: all its neighbours are in earlier ones."""
SHAPE_KNOTS = 15
"""Scales at which the shape of the distributions is told."""
_CENTRE_MIN, _CENTRE_MAX = -128 / UNIT, 127 / UNIT


def neighbours() -> list[tuple[int, int]]:
    """Offsets (rows, columns) of a pixel's neighbours in raster order: those within RADIUS that are in earlier waves,
    rows above first."""
    square = ((a, b) for a in range(-RADIUS, 1) for b in range(-RADIUS, RADIUS + 1))
    return [(a, b) for a, b in square if b + SLOPE * a < 0 and (a, b) < (0, 0)]


NEIGHBOURS = neighbours()
WEST, NORTH, NORTH_WEST = (NEIGHBOURS.index(offset) for offset in ((0, -1), (-1, 0), (-1, -1)))


@dataclass(frozen=True)
class Pixels:
    """What is known of pixels before any of their samples: a first mean, float [N, 3], and features [N, 3 * hidden]."""

    mean: Tensor
    features: Tensor


class Perceptron(nn.Module):
    """Means and scales of samples; the same code runs in float and, with its leaves replaced, in integers (`exact`)."""

    def __init__(self, config: PhotoLosslessConfig) -> None:
        """Starts with the mean of the planar predictor (west + north - north-west)."""
        super().__init__()
        self.config = config
        near, hidden = CHANNELS * len(NEIGHBOURS), config.hidden
        self.linear = nn.Linear(near, CHANNELS)
        self.entry = nn.Linear(near + CHANNELS, config.width)
        self.blocks = nn.Sequential(*(_block(config.width) for _ in range(config.blocks)))
        self.project = nn.Sequential(nn.ReLU(), nn.Linear(config.width, CHANNELS * hidden))
        self.known = nn.ModuleList(nn.Linear(count, hidden, bias=False) for count in range(1, CHANNELS))
        self.direct = nn.ModuleList(nn.Linear(count, 1, bias=False) for count in range(1, CHANNELS))
        self.heads = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(CHANNELS))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        for channel in range(CHANNELS):
            self.linear.weight[channel, CHANNELS * NORTH_WEST + channel] = -1.0
        self.entry.weight[:, :-CHANNELS] *= 4.0  # differences of neighbours are small
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            head.weight *= 0.1
            nn.init.zeros_(head.bias)
        for count, layer in enumerate(self.direct, 1):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.tensor([[0.8], [0.2, 0.6]][count - 1]))

    def pixels(self, near: Tensor) -> Pixels:
        """What the neighbours [N, len(NEIGHBOURS), 3] say."""
        reference = self.middle(near[:, WEST], near[:, NORTH])
        differences = (near - reference[:, None]).flatten(1)
        hidden = self.entry(torch.cat([differences, reference], 1))
        return Pixels(reference + self.full(self.linear, differences), self.project(self.blocks(hidden)))

    def expect(self, pixels: Pixels, errors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and log scale [N, 1] of the next sample, given the distances [N, 1] of those before from their means."""
        channel, hidden = len(errors), self.config.hidden
        features = pixels.features[:, channel * hidden : (channel + 1) * hidden]
        mean = pixels.mean[:, channel : channel + 1]
        if errors:
            before = torch.cat(errors, 1)
            features = features + self.known[channel - 1](before)
            mean = mean + self.full(self.direct[channel - 1], before)
        more, log_scale = self.heads[channel](torch.relu(features)).chunk(2, 1)
        return self.bounded(mean + more), log_scale

    def middle(self, a: Tensor, b: Tensor) -> Tensor:
        """Half way between."""
        return (a + b) / 2

    def full(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer without autocast: its outputs need all bits of a float32."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = layer(x.float())
        return y

    def bounded(self, mean: Tensor) -> Tensor:
        """Means that are levels of 0..255."""
        return mean.float().clamp(_CENTRE_MIN, _CENTRE_MAX)


def _block(width: int) -> Residual:
    return Residual(nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), _zeroed(nn.Linear(width, width))))


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Shape(nn.Module):
    """The shape of all distributions: a logistic one, and a wider one that has the tails."""

    def __init__(self) -> None:
        """About a fifth has 2.7 times the scale, at first."""
        super().__init__()
        self.knots = nn.Parameter(torch.tensor([-1.5, 1.0, 0.0]).repeat(SHAPE_KNOTS, 1))

    def mass(self, distance: Tensor, log_scale: Tensor) -> Tensor:
        """Probability [N, 1] of a whole level at a distance (in levels) from the mean.

        log_scale [N, 1], from LOG_SCALE_MIN to LOG_SCALE_MAX, between SHAPE_KNOTS of which all is linear: the logit of
        the wider one's share, the log of how much wider it is, and what both are wider than told."""
        place = (log_scale - LOG_SCALE_MIN) * ((SHAPE_KNOTS - 1) / (LOG_SCALE_MAX - LOG_SCALE_MIN))
        below = place.detach().floor().clamp(0, SHAPE_KNOTS - 2)
        first = below[:, 0].long()
        here = torch.lerp(self.knots[first], self.knots[first + 1], place - below)
        share, ratio, wider = here.split(1, 1)
        share, scale = torch.sigmoid(share), (log_scale + wider).exp()
        return (1 - share) * _logistic(distance, scale) + share * _logistic(distance, scale * ratio.exp())


def _logistic(distance: Tensor, scale: Tensor) -> Tensor:
    near = -distance.abs()  # where differences of the sigmoid are exact
    return torch.sigmoid((near + 0.5) / scale) - torch.sigmoid((near - 0.5) / scale)


class PhotoLosslessModel(nn.Module):
    """Perceptron and shape, as they are trained."""

    def __init__(self, config: PhotoLosslessConfig) -> None:
        """Build both."""
        super().__init__()
        self.config = config
        self.perceptron = Perceptron(config)
        self.shape = Shape()

    def nats(self, near: Tensor, own: Tensor) -> Tensor:
        """Code length [N, 3] of pixels x [N, 3] (samples in ORDER) given their neighbours [N, len(NEIGHBOURS), 3]."""
        pixels, errors, lengths = self.perceptron.pixels(near), list[Tensor](), []
        for channel in range(CHANNELS):
            mean, log_scale = self.perceptron.expect(pixels, errors)
            errors.append(own[:, channel : channel + 1] - mean)
            log_scale = log_scale.float().clamp(LOG_SCALE_MIN, LOG_SCALE_MAX)
            mass = self.shape.mass(errors[-1] * UNIT, log_scale)
            lengths.append(-mass.clamp_min(2.0**-20).log())
        return torch.cat(lengths, 1)


def canvas(x: Tensor) -> Tensor:
    """Images [B, H, W, C] with what their edges see beyond them: [B, H + RADIUS, W + 2 RADIUS, C].

    Above there is 0 (level 128). To the right of a row its last pixel goes on, to its left the first pixel of the row
    above: so all of it is known when it is needed."""
    left = torch.cat([torch.zeros_like(x[:, :1, :1]), x[:, :-1, :1]], 1)
    wide = torch.cat([left.expand(-1, -1, RADIUS, -1), x, x[:, :, -1:].expand(-1, -1, RADIUS, -1)], 2)
    return nn.functional.pad(wide, (0, 0, 0, 0, RADIUS, 0))
