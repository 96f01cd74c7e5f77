"""The float model of photographs as it is trained: an autoencoder with codebooks, and the prior.

Vectors are in signal units, as in `codec.photo.model`: coefficients of an orthonormal transform of pixels in -0.5..0.5,
times SIGNAL. Every level quantises what the levels above did not predict of its coefficients. Analysis, prediction and
synthesis are float: nothing they compute decides a probability, which hangs on indices alone (`prior`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..ladder.network import unshuffled
from ..photo.config import SAMPLES
from ..photo.model import SIGNAL, bottleneck, exact_block, expand, full_precision, transform, zeroed
from .config import Codebook, PhotoVQConfig
from .prior import PhotoVQPrior


@dataclass(frozen=True)
class LevelStep:
    """What the levels above say of a level: predicted coefficients [B, D, h, w] and features [B, width, h, w]."""

    level: int
    mean: Tensor
    features: Tensor


@dataclass(frozen=True)
class Drawn:
    """What a walk over the levels ends with: coefficients and features of the finest level, for `Synthesis.render`."""

    z: Tensor
    features: Tensor


Walk = Generator[LevelStep, Tensor | None, Drawn]


@cache
def leading(stride: int, length: int) -> Tensor:
    """First rows of `transform`, float32 [length, 3 stride^2]; not to be changed."""
    return transform(stride)[:length].clone()


def _bottlenecks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(bottleneck(width) for _ in range(count)))


def _fine_blocks(config: PhotoVQConfig) -> list[nn.Module]:
    return [exact_block(config.fine_width) for _ in range(config.fine_blocks)]


class Analysis(nn.Module):
    """Bottom-up pass (float): from pixels to the coefficients that each level is to tell."""

    def __init__(self, config: PhotoVQConfig) -> None:
        """Linear transforms of every stride; networks at half the last stride, at it, and at every coarser one."""
        super().__init__()
        self.config = config
        half, fine, width = config.stride // 2, config.fine_width, config.width
        strides = sorted({book.stride for book in config.codebooks})
        self.linear = nn.ModuleDict({str(stride): self._linear(stride) for stride in strides})
        self.fine = nn.Sequential(
            nn.PixelUnshuffle(half),
            nn.Conv2d(SAMPLES * half**2, fine, 3, padding=1),
            *_fine_blocks(config),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, width, 1),
            _bottlenecks(width, config.analysis_blocks),
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(4 * width, width, 1), bottleneck(width))
            for _ in strides[1:]
        )
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * width, width // 2, 1), nn.ReLU(), zeroed(nn.Conv2d(width // 2, book.length, 1))
            )
            for book in config.codebooks
        )  # fmt: skip

    def _linear(self, stride: int) -> nn.Conv2d:
        length = max(book.length for book in self.config.codebooks if book.stride == stride)
        layer = nn.Conv2d(SAMPLES * stride**2, length, 1, bias=False)
        with torch.no_grad():
            layer.weight[:, :, 0, 0] = SIGNAL * leading(stride, length)
        return layer

    def up(self, x: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Pixels -0.5..0.5, [B, 3, H, W] -> coefficients and features, both by stride."""
        with full_precision(x):
            coefficients = {int(stride): layer(unshuffled(x, int(stride))) for stride, layer in self.linear.items()}
        stride, features = self.config.stride, self.fine(x)
        found = {stride: features}
        for net in self.down:
            stride *= 2
            found[stride] = features = net(features)
        return coefficients, found

    def target(self, step: LevelStep, coefficients: dict[int, Tensor], features: dict[int, Tensor]) -> Tensor:
        """The coefficients [B, D, h, w] that a level is to tell, given what those above have told."""
        book = self.config.codebooks[step.level]
        more = self.heads[step.level](torch.cat([features[book.stride], step.features], 1))
        z: Tensor = coefficients[book.stride][:, : book.length] + more.float()
        return z


class Synthesis(nn.Module):
    """Top-down pass (float): from code vectors to pixels, after any number of levels."""

    def __init__(self, config: PhotoVQConfig) -> None:
        """At first the inverse transform of what was told, and predictions by it."""
        super().__init__()
        self.config = config
        books, width, fine, half = config.codebooks, config.width, config.fine_width, config.stride // 2
        self.carry = nn.ModuleList(_carry(above, below) for above, below in pairwise(books))
        self.expand = nn.ModuleList(
            expand(above.stride // below.stride, width, width) for above, below in pairwise(books)
        )
        self.blocks = nn.ModuleList(_bottlenecks(width, book.blocks) for book in books[1:])
        self.heads = nn.ModuleList(zeroed(nn.Conv2d(width, book.length, 1)) for book in books[1:])
        self.entries = nn.ModuleList(nn.Conv2d(2 * book.length, width, 1) for book in books)
        self.absent = nn.ParameterList(torch.zeros(width, 1, 1) for _ in books)
        self.base = _bottlenecks(width, config.synthesis_blocks)
        self.linear = nn.Conv2d(books[-1].length, SAMPLES * config.stride**2, 1, bias=False)
        self.fine = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, 4 * fine, 1), nn.PixelShuffle(2), *_fine_blocks(config), nn.ReLU(),
            zeroed(nn.Conv2d(fine, SAMPLES * half**2, 3, padding=1)), nn.PixelShuffle(half),
        )  # fmt: skip
        with torch.no_grad():
            self.linear.weight[:, :, 0, 0] = leading(config.stride, books[-1].length).T / SIGNAL

    def walk(self, batch: int, height: int, width: int, present: Tensor) -> Walk:
        """Yields what is predicted of each level, and receives the code vectors [B, D, h, w] (None: a level that no
        image has).

        height, width: of the image, multiples of `config.multiple`; present: bool [levels, B], whether an image has a
        level; the vectors of one that it has not count as zero."""
        mean, features = self._first(batch, height, width)
        last = len(self.config.codebooks) - 1
        for level in range(last + 1):
            q = yield LevelStep(level, mean, features)
            z, features = self._told(level, mean, features, q, present[level])
            if level < last:
                mean, features = self._predicted(level, z, features)
        return Drawn(z, features)

    def _first(self, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Mean and features of the first level: nothing."""
        grid, like = self.config.grid(0, height, width), self.linear.weight
        mean, features = (
            like.new_zeros(batch, channels, *grid).contiguous(memory_format=torch.channels_last)
            for channels in (self.config.codebooks[0].length, self.config.width)
        )
        return mean, features

    def _told(
        self, level: int, mean: Tensor, features: Tensor, q: Tensor | None, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Coefficients and features of a level after its code vectors; present: bool [B]."""
        here = present[:, None, None, None]
        q = torch.zeros_like(mean) if q is None else q * here
        z = mean + q
        told = self.entries[level](torch.cat([z, q], 1) / self.config.codebooks[level].stride)
        return z, features + told + self.absent[level] * ~here

    def _predicted(self, level: int, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and features of the level below."""
        with full_precision(z):
            mean = self.carry[level](z)
        features = self.blocks[level](self.expand[level](features))
        return mean + self.heads[level](features).float(), features

    def render(self, drawn: Drawn) -> Tensor:
        """Pixels -0.5..0.5 [B, 3, H, W], not clamped."""
        with full_precision(drawn.z):
            plain = nn.functional.pixel_shuffle(self.linear(drawn.z), self.config.stride)
        x: Tensor = plain + self.fine(self.base(drawn.features)).float()
        return x


def _carry(above: Codebook, below: Codebook) -> nn.Module:
    """What a block's coefficients say of those of the blocks within it, at first exactly."""
    if above.stride == below.stride:
        layer = nn.Conv2d(above.length, below.length, 1, bias=False)
        nn.init.zeros_(layer.weight)
        nn.init.eye_(layer.weight.data[:, :, 0, 0])
        return layer
    images = leading(above.stride, above.length).view(-1, SAMPLES, 2, below.stride, 2, below.stride)
    rows = leading(below.stride, below.length).view(-1, SAMPLES, below.stride, below.stride)
    weight = torch.einsum("dcxy,acixjy->dija", rows, images)
    layer = nn.Conv2d(above.length, 4 * below.length, 1, bias=False)
    with torch.no_grad():
        layer.weight[:, :, 0, 0] = weight.flatten(0, 2)
    return nn.Sequential(layer, nn.PixelShuffle(2))


class Autoencoder(nn.Module):
    """The float side: analysis, codebooks and synthesis."""

    def __init__(self, config: PhotoVQConfig) -> None:
        """Build all parts: at first a transform codec. Codebooks are random directions, which training moves."""
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.synthesis = Synthesis(config)
        self.codebooks = nn.ParameterList(
            nn.Parameter(0.01 * torch.randn(book.size, book.length), requires_grad=False) for book in config.codebooks
        )


class PhotoVQModel(nn.Module):
    """Autoencoder and prior together."""

    def __init__(self, config: PhotoVQConfig) -> None:
        """Build both."""
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(config)
        self.prior = PhotoVQPrior(config)
