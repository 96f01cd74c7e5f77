"""The posterior q(z | x) in float, level by level along the generative walk: for training, measuring and bits-back.

An object of this module accompanies one walk (`model.Generative.walk`): it sees the image first, then is asked at every
LatentStep for the latents. With `samples` > 1 every image is drawn that often: row s * B + b is sample s of image b."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import LadderConfig
from .model import LadderModel, LatentStep, precision_weighted
from .scales import LOG_SCALE_MAX, LOG_SCALE_MIN

LOG_SCALE_LIMIT = 4.0
"""Log scales of Gaussian priors, and of what posteriors are merged from, are within +-4."""


@dataclass(frozen=True)
class Latents:
    """z of a level [S * B, C, side, side], with mean and log scale of its posterior and of its prior, all float."""

    z: Tensor
    mean: Tensor
    log_scale: Tensor
    prior_mean: Tensor
    prior_log_scale: Tensor

    def kl(self) -> Tensor:
        """KL(q || p) of every latent, nats."""
        return gaussian_kl(self.mean, self.log_scale, self.prior_mean, self.prior_log_scale)

    def log_ratio(self) -> Tensor:
        """What a sample says of the KL term: log q(z) - log p(z) of every latent, nats."""
        log_q = gaussian_log_density(self.z, self.mean, self.log_scale)
        return log_q - gaussian_log_density(self.z, self.prior_mean, self.prior_log_scale)


class LadderPosterior:
    """Deterministic features from the image up, merged with the prior from the top down (Sonderby et al. 2016)."""

    def __init__(self, model: LadderModel, x: Tensor, quality: int = 0, samples: int = 1) -> None:
        """x: images [B, 1, S, S], 0..1."""
        self.model, self.quality, self.samples = model, quality, samples
        self.features: list[Tensor] = []
        self.above: Tensor | None = None
        for number in range(model.config.levels):
            x = model.inference.up(number, x)
            self.features.append(x)

    def merged(self, step: LatentStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log scale of the posterior, then of the prior."""
        inference, config = self.model.inference, self.model.config
        mean, log_scale = inference.head(step.level, self.features[step.level], self.quality)
        mean, log_scale = _repeated(mean, self.samples), limited(config, _repeated(log_scale, self.samples))
        prior_mean, prior_scale = _wide(step.mean), limited(config, _wide(step.log_scale))
        with_mean, with_scale = prior_mean, prior_scale
        if config.top_down == "separate" and self.above is not None:
            with_mean, with_scale = map(_wide, inference.down(step.level, self.above))
            with_scale = limited(config, with_scale)
        mean, log_scale = precision_weighted(mean, log_scale, with_mean, with_scale)
        return mean, log_scale, prior_mean, prior_scale

    def draw(self, step: LatentStep) -> Latents:
        """A sample of the Gaussian posterior."""
        mean, log_scale, prior_mean, prior_scale = self.merged(step)
        self.above = mean + log_scale.exp() * torch.randn_like(mean)
        return Latents(self.above, mean, log_scale, prior_mean, prior_scale)


class PlainPosterior:
    """The plain hierarchical VAE's, q(z_1 | x), q(z_2 | z_1), ..., all drawn from the image up beforehand."""

    def __init__(self, model: LadderModel, x: Tensor, quality: int = 0, samples: int = 1) -> None:
        """x: images [B, 1, S, S], 0..1."""
        self.config = model.config
        self.drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        for number in range(model.config.levels):
            mean, log_scale = model.inference.head(number, model.inference.up(number, x), quality)
            times = samples if number == 0 else 1
            mean, log_scale = _repeated(mean, times), limited(model.config, _repeated(log_scale, times))
            x = mean + log_scale.exp() * torch.randn_like(mean)
            self.drawn.append((x, mean, log_scale))

    def draw(self, step: LatentStep) -> Latents:
        """What was drawn for a level."""
        return Latents(*self.drawn[step.level], _wide(step.mean), limited(self.config, _wide(step.log_scale)))


def posterior_of(model: LadderModel, x: Tensor, quality: int = 0, samples: int = 1) -> LadderPosterior | PlainPosterior:
    """The posterior of a model's kind of inference, for images x [B, 1, S, S] in 0..1."""
    kind = LadderPosterior if model.config.inference == "ladder" else PlainPosterior
    return kind(model, x, quality, samples)


def gaussian_kl(mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(prior mean, prior scale^2)), nats, element by element."""
    ratio = (2 * (log_scale - prior_log_scale)).exp()
    distance = ((mean - prior_mean) * (-prior_log_scale).exp()).square()
    return 0.5 * (ratio + distance - 1) + prior_log_scale - log_scale


def gaussian_log_density(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of N(mean, scale^2) at z, nats, element by element."""
    return -0.5 * ((z - mean) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)


class _Limited(torch.autograd.Function):
    """clamp(x, low, high), whose gradient outside passes only if it leads back inside (as CompressAI's LowerBound)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.range = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.range
        outwards = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def limited(config: LadderConfig, log_scale: Tensor) -> Tensor:
    """Log scale within the range that the codec has tables for (or +-4 for Gaussian posteriors)."""
    coded = config.posterior == "uniform"
    low, high = (LOG_SCALE_MIN, LOG_SCALE_MAX) if coded else (-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
    inside: Tensor = _Limited.apply(log_scale, low, high)  # type: ignore[no-untyped-call]
    return inside


def _wide(x: Tensor) -> Tensor:
    """At least float32, whatever autocast made of it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _repeated(x: Tensor, samples: int) -> Tensor:
    return _wide(x) if samples == 1 else _wide(x).repeat(samples, *[1] * (x.ndim - 1))
