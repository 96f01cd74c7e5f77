"""The float model of photographs as it is trained: analysis, prior and synthesis.

Features and latents are in signal units: coefficients of an orthonormal transform of pixels in -0.5..0.5, times SIGNAL.
Latents are rounded on a grid around the prior's mean, as in `codec.ladder`; the grid's step depends on quality and
channel. What the prior reads of them is the rounded distance alone, so it can run in fixed point (`exact`) while the
analysis and the synthesis are float: nothing they compute decides a probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..exact.layers import Residual
from ..family import QUALITIES
from ..ladder.network import unshuffled
from .config import SAMPLES, PhotoConfig

SIGNAL = 4.0
KNOTS = 9
_COLOUR = (
    (1 / math.sqrt(3),) * 3,
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)  # orthonormal: brightness and two differences
_SHARES = (1.0, 0.02, 0.01)  # of the variance


@dataclass(frozen=True)
class LatentStep:
    """The prior of a level's latents given all above: mean (signal units) and log scale of the rounded distance, both
    [B, C, H, W]; gain: steps of the grid per signal unit, [B, C, 1, 1]; features [B, width, H, W]."""

    level: int
    mean: Tensor
    log_scale: Tensor
    gain: Tensor
    features: Tensor


class Knots(nn.Module):
    """A vector that depends on the quality: linear between KNOTS of them."""

    def __init__(self, channels: int) -> None:
        """Starts at zero."""
        super().__init__()
        self.table = nn.Parameter(torch.zeros(KNOTS, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """Quality 1..100, float [B] -> [B, channels, 1, 1]."""
        place = (quality - 1) * ((KNOTS - 1) / (QUALITIES - 1))
        distance = (place[:, None] - torch.arange(KNOTS, device=place.device)).abs()
        mixed: Tensor = ((1 - distance).clamp_min(0)[:, :, None] * self.table).sum(1)
        return mixed[:, :, None, None]


def full_precision(x: Tensor) -> torch.autocast:
    """Context without autocast, for the linear transforms: a bfloat16 pixel is off by half a level."""
    return torch.autocast(x.device.type, enabled=False)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer whose output starts at zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    found = getattr(module, name)
    assert isinstance(found, nn.Parameter)
    return found


def _bias(module: nn.Module) -> nn.Parameter:
    return _parameter(module, "bias")


def _pass_on(weight: Tensor, channels: int) -> None:
    """Let the first channels of a kernel [out, in, k, k] be passed on as they are, and nothing else into them."""
    weight[:channels] = 0.0
    here, centre = torch.arange(channels), weight.shape[2] // 2
    weight[here, here, centre, centre] = 1.0


def expand(factor: int, inputs: int, outputs: int) -> nn.Module:
    """From the channels of a level to those of the next, whose grid is as fine (factor 1) or twice as fine (2)."""
    if factor == 1:
        return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))


def exact_block(width: int) -> Residual:
    """X + 1x1(relu(3x3(relu(x)))), at first x: a block that has a fixed-point form."""
    return Residual(
        nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), zeroed(nn.Conv2d(width, width, 1)))
    )


def bottleneck(width: int) -> Residual:
    """X + 1x1(relu(3x3(relu(1x1(relu(x)))))) through half the channels, at first x."""
    half = width // 2
    return Residual(
        nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, half, 1), nn.ReLU(), nn.Conv2d(half, half, 3, padding=1), nn.ReLU(),
            zeroed(nn.Conv2d(half, width, 1)),
        )
    )  # fmt: skip


def _blocks(kind: object, width: int, count: int) -> nn.Sequential:
    assert callable(kind)
    return nn.Sequential(*(kind(width) for _ in range(count)))


def transform(stride: int) -> Tensor:
    """Orthonormal transform of blocks [3, stride, stride] (flattened): colour, then DCT-II in both directions; rows by
    falling variance of natural images (a first-order model, correlation 0.9 between neighbours)."""
    n = torch.arange(stride, dtype=torch.float64)
    basis = torch.cos(math.pi / stride * (n + 0.5) * n[:, None]) * math.sqrt(2 / stride)
    basis[0] /= math.sqrt(2)
    distance = (n - n[:, None]).abs()
    variance = torch.einsum("ui,ij,uj->u", basis, 0.9**distance, basis)
    both = torch.einsum("kc,ux,vy->kuvcxy", torch.tensor(_COLOUR, dtype=torch.float64), basis, basis)
    order = torch.einsum("k,u,v->kuv", torch.tensor(_SHARES, dtype=torch.float64), variance, variance)
    order[:, 0, 0] += stride**4  # the means first
    rows = both.flatten(3).flatten(0, 2)[order.flatten().argsort(descending=True, stable=True)]
    return rows.float()


class Analysis(nn.Module):
    """Bottom-up pass (float): from pixels to what each level has seen of them."""

    def __init__(self, config: PhotoConfig) -> None:
        """Networks at half the last stride, at it, and at every coarser one; heads of all levels."""
        super().__init__()
        self.config = config
        half, fine = config.stride // 2, config.fine_width
        coefficients = sum(level.latents for level in config.finest)
        self.linear = nn.Conv2d(SAMPLES * config.stride**2, coefficients, 1, bias=False)
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(half),
            nn.Conv2d(SAMPLES * half**2, fine, 3, padding=1),
            *_blocks(bottleneck if fine >= 128 else exact_block, fine, config.fine_blocks),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, config.width, 1),
        )
        self.base = _blocks(bottleneck, config.width, config.analysis_blocks)
        self.fine_quality, self.base_quality = Knots(fine), Knots(config.width)
        self.down = nn.ModuleList()
        widths = {config.stride: config.width}
        for level in reversed(config.levels):
            if level.stride not in widths:
                below = widths[level.stride // 2]
                widths[level.stride] = level.width
                self.down.append(
                    nn.Sequential(
                        nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(4 * below, level.width, 1),
                        *_blocks(exact_block, level.width, max(1, level.blocks)),
                    )
                )  # fmt: skip
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[level.stride] + level.width, level.width, 1), nn.ReLU(),
                zeroed(nn.Conv2d(level.width, 2 * level.latents, 1)),
            )
            for level in config.levels
        )  # fmt: skip
        with torch.no_grad():
            self.linear.weight[:, :, 0, 0] = SIGNAL * transform(config.stride)[:coefficients]
            for head, level in zip(self.heads, config.levels, strict=True):
                last = list(head.modules())[-1]
                _bias(last)[level.latents :] = -3.0  # so that the posterior hardly leans on the prior at first

    def up(self, x: Tensor, quality: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Pixels -0.5..0.5, [B, 3, H, W], quality [B] -> coefficients [B, n, h, w] and features by stride."""
        with full_precision(x):
            coefficients = self.linear(unshuffled(x, self.config.stride))
        unshuffle, first, *rest = self.fine
        features = first(unshuffle(x)) + self.fine_quality(quality)
        for layer in rest:
            features = layer(features)
        features = self.base(features + self.base_quality(quality))
        stride = self.config.stride
        found = {stride: features}
        for net in self.down:
            stride *= 2
            found[stride] = features = net(features)
        return coefficients, found

    def posterior(self, step: LatentStep, coefficients: Tensor, features: dict[int, Tensor]) -> Tensor:
        """Distance of the posterior's mean from the prior's, in steps of the grid, not rounded: [B, C, H, W].

        The mean of the product of the prior and what was seen (Sonderby et al. 2016, eq. 16)."""
        level = self.config.levels[step.level]
        head = self.heads[step.level](torch.cat([features[level.stride], step.features], 1))
        seen, log_scale = head.float().chunk(2, 1)
        seen = seen + self._linear_part(step.level, coefficients)
        weight = torch.sigmoid(2 * (step.log_scale - log_scale))
        distance: Tensor = (seen - step.mean) * weight * step.gain
        return distance

    def _linear_part(self, number: int, coefficients: Tensor) -> Tensor:
        """Coefficients of a finest level; for the others the means of their blocks, and nothing for the rest."""
        level = self.config.levels[number]
        if level.stride == self.config.stride:
            start = sum(other.latents for other in self.config.finest) - sum(
                other.latents for other in self.config.levels[number:]
            )
            return coefficients[:, start : start + level.latents]
        means = nn.functional.avg_pool2d(coefficients[:, :SAMPLES], level.stride // self.config.stride)
        return nn.functional.pad(means, (0, 0, 0, 0, 0, level.latents - SAMPLES))


class Prior(nn.Module):
    """Top-down pass: p(z_L) ... p(z_1 | z_>1), which training, encoder and decoder share: from `first` on, `expect` and
    `take` for every level.

    The same code runs in float and, with its leaves replaced, in integers (`exact`)."""

    def __init__(self, config: PhotoConfig) -> None:
        """Levels start by passing on the means of blocks in the first channels of their features."""
        super().__init__()
        self.config = config
        self.quality = nn.ModuleList(Knots(level.width) for level in config.levels)
        self.log_gain = nn.ModuleList(Knots(level.latents) for level in config.levels)
        self.blocks = nn.ModuleList(_blocks(exact_block, level.width, level.blocks) for level in config.levels)
        self.heads = nn.ModuleList(nn.Conv2d(level.width, 2 * level.latents, 1) for level in config.levels)
        self.entries = nn.ModuleList(nn.Conv2d(level.latents, level.width, 3, padding=1) for level in config.levels)
        self.expand = nn.ModuleList(
            expand(above.stride // below.stride, above.width, below.width) for above, below in config.pairs
        )
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        config = self.config
        for number, level in enumerate(config.levels):
            for knot, row in enumerate(_parameter(self.log_gain[number], "table")):
                quality = 1 + knot * (QUALITIES - 1) / (KNOTS - 1)
                # About the step of uniform quantisation at this weight, if errors were uniform in it.
                step = math.sqrt(12 * SAMPLES / (2 * math.log(2) * config.weight(quality))) / 255
                row.fill_(-math.log(0.7 * step * SIGNAL))
            head, entry = self.heads[number], self.entries[number]
            nn.init.zeros_(_bias(head))
            _bias(head)[level.latents :] = -0.5
            weight = _parameter(head, "weight").mul_(0.1)
            weight[:, :SAMPLES] = 0.0
            means = level.stride > config.stride or number == len(config.levels) - len(config.finest)
            _pass_on(weight, SAMPLES if means else 0)
            _parameter(entry, "weight")[:SAMPLES] = 0.0
            _bias(entry)[:SAMPLES] = 0.0
            _pass_on(_parameter(entry, "weight"), SAMPLES if means else 0)
        for part in self.expand:
            factor = 4 if isinstance(part, nn.Sequential) else 1
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    _bias(layer)[: SAMPLES * factor] = 0.0
                    layer.weight[: SAMPLES * factor] = 0.0
                    for channel in range(SAMPLES):
                        layer.weight[factor * channel : factor * (channel + 1), channel] = 1.0

    def expect(self, number: int, features: Tensor, quality: Tensor) -> LatentStep:
        """Of a level, given the features of those above (`first`, or what `take` returned); quality [B]."""
        features = self.blocks[number](self.bounded(features) + self.quality[number](quality))
        mean, log_scale = self.heads[number](features).chunk(2, 1)
        return self.step(number, mean, log_scale, self.log_gain[number](quality), features)

    def take(self, step: LatentStep, k: Tensor, quality: Tensor) -> Tensor:
        """Features for the level below, or for the synthesis, once the rounded distances k [B, C, H, W] are known."""
        features: Tensor = step.features + self.entries[step.level](self.scaled(k, step.level, quality))
        last = step.level + 1 == len(self.config.levels)
        return features if last else self.expand[step.level](features)

    def first(self, batch: int, height: int, width: int) -> Tensor:
        """Features to begin with. height, width: of the images, multiples of `config.multiple`."""
        top, device = self.config.levels[0], next(self.parameters()).device
        return torch.zeros(batch, top.width, height // top.stride, width // top.stride, device=device)

    def bounded(self, features: Tensor) -> Tensor:
        """Features within what fixed point holds."""
        return features

    def step(self, number: int, mean: Tensor, log_scale: Tensor, log_gain: Tensor, features: Tensor) -> LatentStep:
        """What a level yields."""
        log_gain = log_gain.float()
        return LatentStep(number, mean.float(), log_scale.float() + log_gain, log_gain.exp(), features)

    def scaled(self, k: Tensor, number: int, quality: Tensor) -> Tensor:
        """Distances in signal units."""
        scaled: Tensor = k * (-self.log_gain[number](quality)).exp()
        return scaled


class Synthesis(nn.Module):
    """From latents to pixels (float): the inverse transform, and what networks add to it."""

    def __init__(self, config: PhotoConfig) -> None:
        """Networks at the last stride and at half of it."""
        super().__init__()
        self.config = config
        half, fine = config.stride // 2, config.fine_width
        coefficients = sum(level.latents for level in config.finest)
        self.linear = nn.Conv2d(coefficients, SAMPLES * config.stride**2, 1, bias=False)
        self.entry = nn.Conv2d(coefficients + config.levels[-1].width, config.width, 1)
        self.quality, self.fine_quality = Knots(config.width), Knots(fine)
        self.base = _blocks(bottleneck, config.width, config.synthesis_blocks)
        self.up = nn.Sequential(nn.ReLU(), nn.Conv2d(config.width, 4 * fine, 1), nn.PixelShuffle(2))
        self.fine = nn.Sequential(
            *_blocks(bottleneck if fine >= 128 else exact_block, fine, config.fine_blocks),
            nn.ReLU(),
            zeroed(nn.Conv2d(fine, SAMPLES * half**2, 3, padding=1)),
            nn.PixelShuffle(half),
        )
        with torch.no_grad():
            self.linear.weight[:, :, 0, 0] = transform(config.stride)[:coefficients].T / SIGNAL

    def forward(self, z: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Latents of the finest levels [B, n, h, w] (signal units), the prior's last features -> pixels [B, 3, H, W].

        Pixels are -0.5..0.5, not clamped."""
        with full_precision(z):
            plain = nn.functional.pixel_shuffle(self.linear(z), self.config.stride)
        hidden = self.base(self.entry(torch.cat([z, features], 1)) + self.quality(quality))
        hidden = self.up(hidden) + self.fine_quality(quality)
        x: Tensor = plain + self.fine(hidden)
        return x


class PhotoModel(nn.Module):
    """Analysis, prior and synthesis together."""

    def __init__(self, config: PhotoConfig) -> None:
        """Build all parts: at first a transform codec, with residual branches at zero."""
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.prior = Prior(config)
        self.synthesis = Synthesis(config)
