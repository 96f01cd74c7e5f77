"""The Ladder VAE: bottom-up pass, top-down pass and likelihood, in float as they are trained.

Log scales are natural logarithms of standard deviations. In "uniform" models z has unit-width noise and, in the codec,
is rounded to a unit grid around the prior's mean."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from .causal import CausalPixels
from .config import LadderConfig
from .network import block, conv, head, level, rectifier, squeeze, upwards
from .pixels import PixelStep, StagedPixels


@dataclass(frozen=True)
class LatentStep:
    """The prior of a level's latents given all that was coded before: mean and log scale [B, C, side, side]."""

    level: int
    mean: Tensor
    log_scale: Tensor


Step = LatentStep | PixelStep
Walk = Generator[Step, Tensor, tuple[Tensor, Tensor | None]]


class Inference(nn.Module):
    """Bottom-up networks (Sonderby et al. 2016, eqs. 11-13): from pixels to what each level has seen of them."""

    def __init__(self, config: LadderConfig) -> None:
        """Networks of all levels, and heads for mean and log scale of every level and quality."""
        super().__init__()
        self.config = config
        below = (1, *(config.widths if config.inference == "ladder" else config.latents))
        levels = range(config.levels)
        self.squeeze = nn.ModuleList(squeeze(config, n) for n in levels)
        self.nets = nn.ModuleList(level(config, n, below[n] * upwards(config, n) ** 2) for n in levels)
        self.heads = nn.ModuleList(
            nn.ModuleList(head(config, width, latents) for _ in range(config.qualities))
            for width, latents in zip(config.widths, config.latents, strict=True)
        )
        separate = config.levels - 1 if config.top_down == "separate" else 0
        self.down_nets = nn.ModuleList(level(config, n + 1, config.latents[n + 1]) for n in range(separate))
        self.down_heads = nn.ModuleList(head(config, config.widths[n + 1], config.latents[n]) for n in range(separate))

    def up(self, number: int, below: Tensor) -> Tensor:
        """Hidden features of a level from those of the level below (the image [B, 1, S, S] for level 0), or its z."""
        features: Tensor = self.nets[number](self.squeeze[number](below))
        return features

    def head(self, number: int, features: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        """Mean and log scale of a level from its features."""
        heads = self.heads[number]
        assert isinstance(heads, nn.ModuleList)
        mean, log_scale = heads[quality](features).chunk(2, 1)
        return mean, log_scale

    def down(self, number: int, above: Tensor) -> tuple[Tensor, Tensor]:
        """With a separate top-down pass: mean and log scale that a level's are merged with, from the z above."""
        mean, log_scale = self.down_heads[number](self.down_nets[number](above)).chunk(2, 1)
        return mean, log_scale


class Generative(nn.Module):
    """p(z_L) ... p(z_1 | z_>1) p(x | z): the one walk over levels and pixels that training, encoder and decoder share.

    The same code runs in float and, with its leaves replaced by `codec.exact.export.to_exact`, in integers.
    """

    def __init__(self, config: LadderConfig) -> None:
        """Top prior N(0, s^2): s is 1 for Gaussian latents, and learned for rounded ones, whose unit is the grid's.

        Models of rounded latents also render previews."""
        super().__init__()
        self.config = config
        levels, side = range(config.levels), config.grids[0]
        self.top = nn.Embedding(config.qualities, config.latents[-1])
        nn.init.zeros_(self.top.weight)
        self.top.weight.requires_grad_(config.posterior == "uniform")
        self.entries = nn.ModuleList(
            nn.ModuleList(conv(config.latents[n], config.widths[n]) for _ in range(config.qualities))
            if config.skip
            else nn.ModuleList([nn.Identity()])
            for n in levels
        )
        self.nets = nn.ModuleList(
            level(config, n, config.widths[n] if config.skip else config.latents[n]) for n in levels
        )
        self.expand = nn.ModuleList(self._expand(n) for n in levels[1:])
        self.heads = nn.ModuleList(
            nn.ModuleList(head(config, self._context(n), config.latents[n]) for _ in range(config.qualities))
            for n in levels[:-1]
        )
        if config.posterior == "uniform":
            width = config.widths[0]
            self.render = nn.Sequential(
                conv(width, width, side), block(config, width, side), rectifier(config), conv(width, config.patch**2),
                nn.PixelShuffle(config.patch),
            )  # fmt: skip
        self.pixels: StagedPixels | CausalPixels = CausalPixels(config) if config.context else StagedPixels(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.top.parameters(), self.top.buffers())).device

    def _direct(self, number: int) -> bool:
        """Whether a level's prior reads the features of the level above as they are."""
        return not self.config.skip and upwards(self.config, number + 1) == 1

    def _context(self, number: int) -> int:
        return self.config.widths[number + 1 if self._direct(number) else number]

    def _expand(self, number: int) -> nn.Module:
        """From a level's features to the grid and width of the level below."""
        if self._direct(number - 1):
            return nn.Identity()
        factor = upwards(self.config, number)
        return nn.Sequential(
            rectifier(self.config),
            conv(self.config.widths[number], self.config.widths[number - 1] * factor**2),
            nn.PixelShuffle(factor),
        )

    def walk(self, batch: int, quality: int = 0, pixels: bool = True, known: Tensor | None = None) -> Walk:
        """Yields LatentSteps from the top down, receiving z [B, C, side, side]; then, with `pixels`, PixelSteps.

        known: the pixels (`pixels.to_patches`), which spares those in raster order their many steps.

        Returns the features that everything about the image is read from, and the pixels if they were visited."""
        features: Tensor | None = None
        for number in reversed(range(self.config.levels)):
            mean, log_scale = self._prior(number, features, batch, quality)
            z = yield LatentStep(number, mean, log_scale)
            features = self._down(number, features, z, quality)
        assert features is not None
        values = (yield from self.pixels.walk(features, known)) if pixels else None
        return features, values

    def _prior(self, number: int, features: Tensor | None, batch: int, quality: int) -> tuple[Tensor, Tensor]:
        if features is None:
            side = self.config.grids[number]
            index = torch.full((batch, side, side), quality, device=self.device)
            log_scale = self.top(index).permute(0, 3, 1, 2)
            return torch.zeros_like(log_scale), log_scale
        heads = self.heads[number]
        assert isinstance(heads, nn.ModuleList)
        mean, log_scale = heads[quality](features).chunk(2, 1)
        return mean, log_scale

    def _down(self, number: int, features: Tensor | None, z: Tensor, quality: int) -> Tensor:
        entries = self.entries[number]
        assert isinstance(entries, nn.ModuleList)
        entry: Tensor = entries[quality](z)
        entry = entry + features if features is not None and self.config.skip else entry
        entry = self.nets[number](entry)
        return self.expand[number - 1](entry) if number else entry


class LadderModel(nn.Module):
    """Inference and generative networks together."""

    def __init__(self, config: LadderConfig) -> None:
        """Build all parts with PyTorch's default initialisation."""
        super().__init__()
        self.config = config
        self.inference = Inference(config)
        self.generative = Generative(config)


def precision_weighted(
    mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and log scale of the normalised product of two Gaussians (Sonderby et al. 2016, eqs. 16-17).

    With w = s_p^2 / (s_p^2 + s^2): mean = m_p + w (m - m_p), variance = w s^2."""
    log_w = nn.functional.logsigmoid(2 * (prior_log_scale - log_scale))
    return prior_mean + log_w.exp() * (mean - prior_mean), log_scale + 0.5 * log_w
