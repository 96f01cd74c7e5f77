"""Training of Ladder VAEs: the likelihood of pixels, the KL term of latents, and distortion at the lossy qualities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.ladder.config import LadderConfig
from ..codec.ladder.model import LadderModel, LatentStep
from ..codec.ladder.pixels import PixelStep
from ..codec.ladder.posterior import LadderPosterior, Latents, posterior_of
from .config import LadderTrain, ParameterGroup
from .start import loudness, start_as_transform

_STRAIGHT_FROM = 3.0  # scales
_SLOPE = 3.2831  # of log Phi at -3
_LEAST_WEIGHT = 0.00001
ACTIVE_NATS = 0.01
"""Mean KL term of a latent from which it counts as active."""
_TOP_RATE = 4.0  # of the learning rate: a few log scales that nothing else shares, and 24 idle latents cost 23 nats


@dataclass(frozen=True)
class Terms:
    """Parts of the objective, nats. log_likelihood [B]: None if lossy.

    latents: as drawn, of Gaussian posteriors, or rates: code length of every latent, of rounded ones; per level from
    the top down.  x_hat [B, 1, S, S]: what is rendered from rounded latents alone, 0..1 up to overshoot."""

    log_likelihood: Tensor | None
    latents: list[Latents]
    rates: list[Tensor]
    x_hat: Tensor | None

    @property
    def kl(self) -> list[Tensor]:
        """KL term of every latent, [B, n] per level from the image up."""
        nats = self.rates or [latents.kl() for latents in self.latents]
        return [level.flatten(1) for level in reversed(nats)]

    @property
    def total_kl(self) -> Tensor:
        """Of all levels, [B]."""
        return torch.stack([level.sum(1) for level in self.kl]).sum(0)

    def log_weights(self, kl_weight: float = 1.0) -> Tensor:
        """Log p(x, z) - log q(z | x) of the drawn latents, [B] (Burda et al. 2016, eq. 8)."""
        assert self.log_likelihood is not None
        ratio = torch.stack([level.log_ratio().flatten(1).sum(1) for level in self.latents]).sum(0)
        return self.log_likelihood - kl_weight * ratio


def importance_bound(log_weights: Tensor) -> Tensor:
    """Log of the mean weight over samples (Burda et al. 2016, eq. 8): [S, B] -> [B]."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def terms(
    model: LadderModel, values: Tensor, quality: int = 0, lossless: bool = True, rounded: bool = False, samples: int = 1
) -> Terms:
    """The walk with z drawn from the posterior; row s * B + b is sample s of image b.

    values int64 [B, S, S], pixels in 0..255 (or 0 and 1). rounded: z as the codec makes it, with straight-through
    gradients, and its code length as the KL term."""
    generative, pixels = model.generative, model.generative.pixels
    x = values[:, None].float() / (model.config.values - 1)
    posterior = posterior_of(model, x, quality, samples)
    patches = pixels.to_patches(values)
    drawn: list[Latents] = []
    rates: list[Tensor] = []
    nll = torch.zeros(samples * len(x), device=x.device)
    if model.config.context:
        patches = patches.repeat(samples, 1)
    walk = generative.walk(samples * len(x), quality, lossless, patches)
    try:
        step = next(walk)
        while True:
            if isinstance(step, LatentStep):
                if model.config.posterior == "gaussian":
                    drawn.append(posterior.draw(step))
                    z = drawn[-1].z
                else:
                    assert isinstance(posterior, LadderPosterior)
                    z, nats = _quantised(posterior, step, rounded)
                    rates.append(nats)
                step = walk.send(z)
            else:
                symbols = pixels.symbols(patches, step)
                nll = nll + pixel_nats(step, symbols)
                step = walk.send(symbols if len(symbols) == len(step.scores) else symbols.repeat(samples, 1))
    except StopIteration as stop:
        context, _ = stop.value
    x_hat = generative.render(context).float() if model.config.posterior == "uniform" else None
    return Terms(-nll if lossless else None, drawn, rates, x_hat)


def _quantised(posterior: LadderPosterior, step: LatentStep, rounded: bool) -> tuple[Tensor, Tensor]:
    """Latents on the grid around the prior's mean, or with the noise that stands for it, and its code length."""
    mean, _, prior_mean, prior_scale = posterior.merged(step)
    offset = mean - prior_mean
    k = offset + ((offset.round() - offset).detach() if rounded else torch.rand_like(offset) - 0.5)
    return prior_mean + k, rate(k, prior_scale.exp())


def pixel_nats(step: PixelStep, symbols: Tensor) -> Tensor:
    """-log p of the symbols int64 [B, P] of a step's tables [S * B, P, K], nats [S * B], at least in float32.

    Of chosen pixels: symbols [M, 1] of tables [M, 1, K], nats [S * B]."""
    scores = step.scores.float() if step.scores.dtype == torch.bfloat16 else step.scores
    if scores.shape[-1] > 1:
        given = symbols.repeat(len(scores) // max(len(symbols), 1), 1)
        nats = nn.functional.cross_entropy(scores.mT, given, reduction="none").sum(1)
    else:
        against = scores.view(-1, *symbols.shape) * (
            1 - 2 * symbols.to(scores)
        )  # -log p = softplus of the odds against x
        nats = nn.functional.softplus(against).sum(2).flatten()
    if step.chosen is None:
        return nats
    return nats.new_zeros(len(step.chosen)).index_add(0, step.chosen.nonzero()[:, 0], nats)


def rate(k: Tensor, scale: Tensor) -> Tensor:
    """-log P of latents at distance k from the prior's mean, nats; P(k) = the mass of N(0, scale^2) in k +- 1/2.

    For z with uniform noise this is the KL term of the unit-width posterior (Balle et al. 2017, eq. 12). Beyond three
    scales it goes on as a straight line: about what the coder's least frequency makes of it, with bounded gradients."""
    distance = k.abs()
    inside = distance.minimum(0.5 + _STRAIGHT_FROM * scale)
    near, far = (torch.special.log_ndtr((edge - inside) / scale) for edge in (0.5, -0.5))
    log_mass = near + torch.log1p(-(far - near).exp())
    nats: Tensor = _SLOPE * (distance - inside) / scale - log_mass
    return nats


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

    @property
    def constant(self) -> bool:
        """Whether the loss changes with the KL weight alone, not with the step or with how many pixels have ink."""
        config = self.model.config
        return config.posterior == "gaussian" and config.likelihood == "bernoulli"

    def loss(self, images: Tensor, step: int, progress: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch uint8 [B, S, S], nats per image, and metrics (0-d tensors). progress: 0..1."""
        config, train = self.model.config, self.train_config
        values = self.values(turned(images) if train.turns else images)
        rounded = config.posterior == "uniform" and bool(progress >= train.round_from)
        weight = _ramp(progress, train.kl_warmup)
        found = terms(self.model, values, 0, True, rounded, train.importance)
        assert found.log_likelihood is not None
        kl, nll = found.total_kl.mean(), -found.log_likelihood.mean()
        loss = weight * kl + nll
        metrics = {"nats": (kl + nll).detach(), "kl": kl.detach(), "log_likelihood": -nll.detach()}
        if train.importance > 1:
            loss = -importance_bound(found.log_weights(weight).view(train.importance, -1)).mean()
        if found.x_hat is not None:
            sse = self._sse(found.x_hat, values)
            loss = loss + math.log(2) * train.preview_weight * sse
            metrics["preview_sse"] = sse.detach()
        if train.rd_weights and train.lossy_share:
            lossy, more = self._lossy(values, 1 + step % len(train.rd_weights), weight, rounded)
            loss, metrics = loss + lossy, metrics | more
        return loss, metrics

    def _lossy(self, values: Tensor, quality: int, kl_weight: float, rounded: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a lossy quality on a part of the batch."""
        train = self.train_config
        some = values[: max(1, round(len(values) * train.lossy_share))]
        found = terms(self.model, some, quality, False, rounded)
        assert found.x_hat is not None
        kl, sse = found.total_kl.mean(), self._sse(found.x_hat, some)
        loss = kl_weight * kl + math.log(2) * train.rd_weights[quality - 1] * sse
        return loss, {f"bits_q{quality}": kl.detach() / math.log(2), f"sse_q{quality}": sse.detach()}

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
        """Nats per image, KL and active units of every level, and PSNR in dB of the mean error (rounded latents only).

        images uint8 [N, S, S]; binary models see one sample of the pixels, Gaussian ones of the latents, drawn with a
        fixed seed. The random state is restored: training goes on as if nothing had been evaluated."""
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(0)
            return self._evaluate([self.values(batch) for batch in torch.split(images, batch_size)])

    def _evaluate(self, batches: list[Tensor]) -> dict[str, float]:
        """Of pixels int64 [B, S, S]."""
        count = sum(map(len, batches))
        rounded = self.model.config.posterior == "uniform"
        sums: dict[str, float] = {}
        units: dict[str, Tensor] = {}

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums.get(name, 0.0) + float(value.double().sum())

        for batch in batches:
            for quality in range(self.model.config.qualities):
                found = terms(self.model, batch, quality, quality == 0, rounded)
                for number, kl in enumerate(found.kl):
                    level = f"q{quality}_z{number + 1}"
                    add(f"kl_{level}", kl.sum(1))
                    units[level] = kl.double().sum(0) + units.get(level, 0.0)
                if found.log_likelihood is not None:
                    add("nats", found.total_kl - found.log_likelihood)
                    add("log_likelihood", found.log_likelihood)
                if found.x_hat is not None:
                    add(f"sse_q{quality}", self._sse(found.x_hat.clamp(0, 1), batch) * len(batch))
        result = {name: value / count for name, value in sums.items()}
        for level, kl in units.items():
            result[f"active_{level}"] = int((kl / count > ACTIVE_NATS).sum())
        for quality in range(self.model.config.qualities if rounded else 0):
            mse = result.pop(f"sse_q{quality}") / batches[0][0].numel()
            result[f"psnr_db_q{quality}"] = 10 * math.log10(255**2 / max(mse, 1e-9))
        return result


def _ramp(progress: float | Tensor, until: float) -> Any:
    """From 0 to 1 while progress gets `until` there; a 0-d tensor if progress is one."""
    if not until:
        return 1.0
    return (progress / until).clamp(max=1.0) if isinstance(progress, Tensor) else min(1.0, progress / until)


def turned(images: Tensor) -> Tensor:
    """Each image flipped and transposed at random, one of the eight symmetries of the square: [B, S, S]."""
    for dims in ((1,), (2,)):
        chosen = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(chosen[:, None, None], images.flip(dims), images)
    chosen = torch.rand(len(images), device=images.device) < 0.5
    return torch.where(chosen[:, None, None], images.transpose(1, 2), images)
