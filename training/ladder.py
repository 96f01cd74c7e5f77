"""Training of Ladder VAEs: the likelihood of pixels, the KL term of latents, and distortion at the lossy qualities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.ladder.config import LadderConfig
from ..codec.ladder.model import LadderModel, LatentStep, precision_weighted
from ..codec.ladder.scales import LOG_SCALE_MAX, LOG_SCALE_MIN
from .config import LadderTrain, ParameterGroup
from .start import loudness, start_as_transform

_LOG_SCALE_LIMIT = 4.0  # of priors and posteriors in training
_STRAIGHT_FROM = 3.0  # scales
_SLOPE = 3.2831  # of log Phi at -3
_LEAST_WEIGHT = 0.00001
_TOP_RATE = 4.0  # of the learning rate: a few log scales that nothing else shares, and 24 idle latents cost 23 nats


@dataclass(frozen=True)
class Terms:
    """Parts of the objective, nats per image [B]. kl: of every level from the image up; log_likelihood: None if lossy.

    x_hat [B, 1, S, S]: what is rendered from the latents alone, 0..1 up to overshoot."""

    kl: list[Tensor]
    log_likelihood: Tensor | None
    x_hat: Tensor

    @property
    def total_kl(self) -> Tensor:
        """Of all levels, [B]."""
        return torch.stack(self.kl).sum(0)


def terms(model: LadderModel, values: Tensor, quality: int, lossless: bool, rounded: bool) -> Terms:
    """The walk with z drawn from the posterior, one sample per image.

    values int64 [B, S, S], pixels in 0..255 (or 0 and 1). rounded: z as the codec makes it, with straight-through
    gradients, and its code length as the KL term."""
    generative, pixels = model.generative, model.generative.pixels
    x = values[:, None].float() / (model.config.values - 1)
    latents = _Ladder(model, x, quality, rounded) if model.config.inference == "ladder" else _Plain(model, x, quality)
    patches = pixels.to_patches(values)
    kl = [torch.zeros(()) for _ in range(model.config.levels)]
    nll = torch.zeros(len(x), device=x.device)
    walk = generative.walk(len(x), quality, lossless)
    try:
        step = next(walk)
        while True:
            if isinstance(step, LatentStep):
                z, kl[step.level] = latents.draw(step)
                step = walk.send(z)
            else:
                symbols = pixels.symbols(patches, step)
                losses = nn.functional.cross_entropy(step.logits.float().mT, symbols, reduction="none")
                nll = nll + losses.sum(1)
                step = walk.send(symbols)
    except StopIteration as stop:
        context, _ = stop.value
    return Terms(kl, -nll if lossless else None, generative.render(context).float())


class _Ladder:
    """The ladder's posterior: deterministic features from the image up, merged with the prior from the top down."""

    def __init__(self, model: LadderModel, x: Tensor, quality: int, rounded: bool) -> None:
        self.model, self.quality, self.rounded = model, quality, rounded
        self.features: list[Tensor] = []
        for number in range(model.config.levels):
            x = model.inference.up(number, x)
            self.features.append(x)

    def draw(self, step: LatentStep) -> tuple[Tensor, Tensor]:
        """z, and its KL term [B] against the step's prior."""
        config = self.model.config
        mean, log_scale = self.model.inference.head(step.level, self.features[step.level], self.quality)
        prior_mean, prior_scale = step.mean.float(), limited(config, step.log_scale.float())
        mean, log_scale = precision_weighted(mean.float(), limited(config, log_scale.float()), prior_mean, prior_scale)
        if config.posterior == "gaussian":
            noisy = mean + log_scale.exp() * torch.randn_like(mean)
            return noisy, gaussian_kl(mean, log_scale, prior_mean, prior_scale)
        offset = mean - prior_mean
        k = offset + ((offset.round() - offset).detach() if self.rounded else torch.rand_like(offset) - 0.5)
        z: Tensor = prior_mean + k
        return z, rate(k, prior_scale.exp())


class _Plain:
    """The plain hierarchical VAE's posterior, q(z_1 | x), q(z_2 | z_1), ..., drawn from the image up."""

    def __init__(self, model: LadderModel, x: Tensor, quality: int) -> None:
        self.drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        for number in range(model.config.levels):
            mean, log_scale = model.inference.head(number, model.inference.up(number, x), quality)
            mean, log_scale = mean.float(), limited(model.config, log_scale.float())
            x = mean + log_scale.exp() * torch.randn_like(mean)
            self.drawn.append((x, mean, log_scale))
        self.config = model.config

    def draw(self, step: LatentStep) -> tuple[Tensor, Tensor]:
        """z, and its KL term [B] against the step's prior."""
        z, mean, log_scale = self.drawn[step.level]
        return z, gaussian_kl(mean, log_scale, step.mean.float(), limited(self.config, step.log_scale.float()))


def rate(k: Tensor, scale: Tensor) -> Tensor:
    """-log P of latents at distance k from the prior's mean, nats [B]; P(k) = the mass of N(0, scale^2) in k +- 1/2.

    For z with uniform noise this is the KL term of the unit-width posterior (Balle et al. 2017, eq. 12). Beyond three
    scales it goes on as a straight line: about what the coder's least frequency makes of it, with bounded gradients."""
    distance = k.abs()
    inside = distance.minimum(0.5 + _STRAIGHT_FROM * scale)
    near, far = (torch.special.log_ndtr((edge - inside) / scale) for edge in (0.5, -0.5))
    log_mass = near + torch.log1p(-(far - near).exp())
    nats: Tensor = _SLOPE * (distance - inside) / scale - log_mass
    return nats.flatten(1).sum(1)


def gaussian_kl(mean: Tensor, log_scale: Tensor, prior_mean: Tensor, prior_log_scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(prior mean, prior scale^2)), nats [B]."""
    ratio = (2 * (log_scale - prior_log_scale)).exp()
    distance = ((mean - prior_mean) * (-prior_log_scale).exp()).square()
    return (0.5 * (ratio + distance - 1) + prior_log_scale - log_scale).flatten(1).sum(1)


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
    low, high = (LOG_SCALE_MIN, LOG_SCALE_MAX) if coded else (-_LOG_SCALE_LIMIT, _LOG_SCALE_LIMIT)
    inside: Tensor = _Limited.apply(log_scale, low, high)  # type: ignore[no-untyped-call]
    return inside


class LadderTask(nn.Module):
    """A LadderModel and its training objective."""

    def __init__(self, model: LadderConfig, train: LadderTrain) -> None:
        """Build the model."""
        super().__init__()
        self.model = LadderModel(model)
        self.train_config = train
        if model.posterior == "uniform":
            start_as_transform(self.model, self.rd_weights)

    @property
    def rd_weights(self) -> list[float]:
        """Of every quality, bits per squared error, pixels in 0..255; never 0, so that latents have a step."""
        return [
            max(weight, _LEAST_WEIGHT) for weight in (self.train_config.preview_weight, *self.train_config.rd_weights)
        ]

    def parameter_groups(self) -> list[ParameterGroup]:
        """The pixels' networks and the ladder, whose gradients are clipped apart.

        What reads rounded latents moves more slowly, the louder they are (`start.loudness`)."""
        clip, rate = self.train_config.grad_clip, self.train_config.ladder_rate
        generative = self.model.generative
        entries: list[list[nn.Parameter]] = [[] for _ in range(self.model.config.qualities)]
        for level in generative.entries:
            assert isinstance(level, nn.ModuleList)
            for parameters, entry in zip(entries, level, strict=False):
                parameters += entry.parameters()
        pixels = list(generative.pixels.parameters())
        top = [parameter for parameter in generative.top.parameters() if parameter.requires_grad]
        apart = {id(parameter) for parameter in chain(pixels, top, *entries)}
        ladder = [p for p in self.model.parameters() if id(p) not in apart and p.requires_grad]
        groups = [ParameterGroup(ladder, clip, rate), ParameterGroup(pixels, clip)]
        groups += [ParameterGroup(top, clip, _TOP_RATE)] if top else []
        for parameters, weight in zip(entries, self.rd_weights, strict=True):
            quiet = 1 / loudness(weight) if self.model.config.posterior == "uniform" else 1.0
            groups += [ParameterGroup(parameters, clip, rate * quiet)] if parameters else []
        return groups

    def loss(self, images: Tensor, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch uint8 [B, S, S], nats per image, and metrics (0-d tensors). progress: 0..1."""
        config, train = self.model.config, self.train_config
        values = self.values(turned(images) if train.turns else images)
        rounded = config.posterior == "uniform" and progress >= train.round_from
        weight = min(1.0, progress / train.kl_warmup) if train.kl_warmup else 1.0
        found = terms(self.model, values, 0, True, rounded)
        assert found.log_likelihood is not None
        kl, nll = found.total_kl.mean(), -found.log_likelihood.mean()
        sse = self._sse(found.x_hat, values)
        loss = weight * kl + nll + math.log(2) * train.preview_weight * sse
        metrics = {"nats": (kl + nll).detach(), "kl": kl.detach(), "preview_sse": sse.detach()}
        if train.rd_weights and train.lossy_share:
            quality = 1 + step % len(train.rd_weights)
            some = values[: max(1, round(len(values) * train.lossy_share))]
            found = terms(self.model, some, quality, False, rounded)
            lossy_kl, lossy_sse = found.total_kl.mean(), self._sse(found.x_hat, some)
            loss = loss + weight * lossy_kl + math.log(2) * train.rd_weights[quality - 1] * lossy_sse
            metrics |= {f"bits_q{quality}": lossy_kl.detach() / math.log(2), f"sse_q{quality}": lossy_sse.detach()}
        return loss, metrics

    def values(self, images: Tensor) -> Tensor:
        """Pixels as the likelihood takes them, int64 [B, S, S]: binary models see a new sample of each image."""
        if self.model.config.likelihood == "categorical":
            return images.long()
        return (torch.rand(images.shape, device=images.device) * 255 < images).long()

    def _sse(self, x_hat: Tensor, values: Tensor) -> Tensor:
        """Squared error per image, pixels in 0..255."""
        x = values[:, None].float() / (self.model.config.values - 1)
        return 255**2 * (x_hat - x).square().sum((1, 2, 3)).mean()

    @torch.no_grad()
    def evaluate(self, images: Tensor, batch_size: int = 500) -> dict[str, float]:
        """Bits and nats per image as the codec would need them (rounded), and PSNR in dB of the mean error.

        images uint8 [N, S, S]; binary models see a sample drawn with a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            batches = [self.values(batch) for batch in torch.split(images, batch_size)]
        rounded = self.model.config.posterior == "uniform"
        sums: dict[str, float] = {}

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())

        for batch in batches:
            for quality in range(self.model.config.qualities):
                found = terms(self.model, batch, quality, quality == 0, rounded)
                for number, kl in enumerate(found.kl):
                    add(f"kl_q{quality}_z{number + 1}", kl)
                if found.log_likelihood is not None:
                    add("nats", found.total_kl - found.log_likelihood)
                add(f"sse_q{quality}", self._sse(found.x_hat.clamp(0, 1), batch) * len(batch))
        result = {name: value / len(images) for name, value in sums.items()}
        pixels = images[0].numel()
        for quality in range(self.model.config.qualities):
            mse = result.pop(f"sse_q{quality}") / pixels
            result[f"psnr_db_q{quality}"] = 10 * math.log10(255**2 / max(mse, 1e-9))
        return result


def turned(images: Tensor) -> Tensor:
    """Each image flipped and transposed at random, one of the eight symmetries of the square: [B, S, S]."""
    for dims in ((1,), (2,)):
        chosen = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(chosen[:, None, None], images.flip(dims), images)
    chosen = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(chosen[:, None, None], images.transpose(1, 2), images)
