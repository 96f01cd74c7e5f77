"""Training of photograph models: rate of the latents and squared error of the pixels, at all qualities at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.family import QUALITIES
from ..codec.photo.config import LOG_SCALE_MIN, PhotoConfig
from ..codec.photo.model import PhotoModel
from .config import ParameterGroup, PhotoTrain
from .ladder import rate

_LINEAR_RATE = 0.2  # of the learning rate, for the linear transforms, which start out good
_QUALITY_RATE = 3.0  # for what depends on quality: each step moves only the knots that its images chose


@dataclass(frozen=True)
class Terms:
    """Parts of the objective. bits: of every level, [B] each, from the coarsest; x_hat [B, 3, H, W], -0.5..0.5."""

    bits: list[Tensor]
    x_hat: Tensor

    def bpp(self) -> Tensor:
        """Bits per pixel, [B]."""
        pixels = self.x_hat.shape[2] * self.x_hat.shape[3]
        return torch.stack(self.bits).sum(0) / pixels


def terms(model: PhotoModel, images: Tensor, quality: Tensor, rounded: bool | Tensor) -> Terms:
    """The walk with latents rounded as the codec does (straight-through), or with noise that stands for it.

    images uint8 [B, 3, H, W], sides multiples of the model's; quality [B]; rounded: may be 0-d on the device."""
    x = images.float().div_(255).sub_(0.5)
    coefficients, features = model.analysis.up(x, quality)
    below, bits, latents = model.prior.first(len(x), x.shape[2], x.shape[3]), [], []
    for number, level in enumerate(model.config.levels):
        step = model.prior.expect(number, below, quality)
        offset = model.analysis.posterior(step, coefficients, features)
        k = offset + _moved(offset.detach(), rounded)
        nats = _nats(offset, k, at_least(step.log_scale, LOG_SCALE_MIN).exp(), rounded)
        bits.append(nats.flatten(1).sum(1) / math.log(2))
        if level.stride == model.config.stride:
            latents.append(step.mean + k / step.gain)
        below = model.prior.take(step, k, quality)
    return Terms(bits, model.synthesis(torch.cat(latents, 1), below, quality).float())


def _moved(offset: Tensor, rounded: bool | Tensor) -> Tensor:
    """From offsets to the integers next to them, or uniform noise."""
    if isinstance(rounded, Tensor):
        return torch.where(rounded, offset.round() - offset, torch.rand_like(offset) - 0.5)
    return offset.round() - offset if rounded else torch.rand_like(offset) - 0.5


def _nats(offset: Tensor, k: Tensor, scale: Tensor, rounded: bool | Tensor) -> Tensor:
    """Code lengths of k. Where it is rounded, they say nothing of how far an offset is from the next integer, and the
    encoder would drift to ever larger ones: its gradient is that of the offset with noise (as Minnen and Singh
    2020 have noise for the rate and rounding for the decoder), that of the scales the one of what is coded."""
    if rounded is False or not torch.is_grad_enabled():
        return rate(k, scale)
    coded, soft = rate(k.detach(), scale), rate(offset + torch.rand_like(offset) - 0.5, scale.detach())
    mixed = coded + soft - soft.detach()
    return torch.where(rounded, mixed, rate(k, scale)) if isinstance(rounded, Tensor) else mixed


class _AtLeast(torch.autograd.Function):
    """max(x, bound), whose gradient below the bound is let through where it raises x (Balle et al. 2018, code)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """Any shape -> the same shape."""
        ctx.save_for_backward(x < bound)
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient of the input."""
        (below,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.masked_fill(below & (gradient > 0), 0.0), None


def at_least(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), with a way back up for what has fallen below."""
    clamped: Tensor = _AtLeast.apply(x, bound)  # type: ignore[no-untyped-call]
    return clamped


class PhotoTask(nn.Module):
    """A PhotoModel and its training objective."""

    constant = True
    """The loss changes with the progress alone, not with the step."""

    def __init__(self, model: PhotoConfig, train: PhotoTrain) -> None:
        """Build the model."""
        super().__init__()
        self.model = PhotoModel(model)
        self.train_config = train

    def parameter_groups(self) -> list[ParameterGroup]:
        """Linear transforms, what depends on quality, and the rest."""
        named = dict(self.model.named_parameters())
        linear = [parameter for name, parameter in named.items() if ".linear." in name]
        knots = [parameter for name, parameter in named.items() if name.endswith(".table")]
        apart = {id(parameter) for parameter in (*linear, *knots)}
        rest = [parameter for parameter in named.values() if id(parameter) not in apart]
        clip = self.train_config.grad_clip
        return [
            ParameterGroup(rest, clip),
            ParameterGroup(linear, clip, _LINEAR_RATE),
            ParameterGroup(knots, clip, _QUALITY_RATE),
        ]

    def loss(self, images: Tensor, step: int, progress: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Rate plus weighted distortion of uint8 [B, 3, S, S], each at a random quality.

        An image's loss is divided by the root of its weight: so a share of the rate counts alike at all qualities."""
        config = self.model.config
        quality = 1 + (QUALITIES - 1) * torch.rand(len(images), device=images.device)
        found = terms(self.model, images, quality, progress >= self.train_config.round_from)
        x = images.float() / 255 - 0.5
        mse = 255**2 * (found.x_hat - x).square().mean((1, 2, 3))
        weight = config.weight_low * (config.weight_high / config.weight_low) ** ((quality - 1) / (QUALITIES - 1))
        bpp = found.bpp()
        loss = ((bpp + weight * mse) * weight.rsqrt()).mean() * math.sqrt(config.weight(QUALITIES / 2))
        return loss, {"bpp": bpp.detach().mean(), "mse": mse.detach().mean()}

    @torch.no_grad()
    def evaluate(self, images: Tensor, batch_size: int = 8) -> dict[str, float]:
        """Bits per pixel and PSNR in dB (mean of images) of crops uint8 [N, 3, S, S] at some qualities, rounded."""
        result: dict[str, float] = {}
        for quality in self.train_config.watched:
            bpps, psnrs = [], []
            for batch in torch.split(images, batch_size):
                found = terms(self.model, batch, torch.full((len(batch),), float(quality)).to(batch.device), True)
                levels = found.x_hat.add(0.5).mul(255).round().clamp(0, 255)
                mse = (levels - batch.float()).square().mean((1, 2, 3))
                bpps.append(found.bpp())
                psnrs.append(10 * torch.log10(255**2 / mse.clamp_min(1e-3)))
            result[f"bpp_q{quality}"] = float(torch.cat(bpps).mean())
            result[f"psnr_db_q{quality}"] = float(torch.cat(psnrs).mean())
        return result
