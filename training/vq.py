"""Training of VQ-VAE codecs: reconstruction, commitment, codebook and prior in one step, at given rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..codec.vq.config import VQConfig
from ..codec.vq.model import VQModel
from ..codec.vq.prior import walk
from ..codec.vq.quantiser import choose, usage
from ..codec.vq.schedule import Step
from .config import ParameterGroup, VQTrain

_CONTROL_GAIN = 0.02  # of the rate controller: relative change of a weight per step for a rate off by its target
_MAX_WEIGHT = 2.0
_RESTART_EVERY = 20
_CLIP_PRIOR = 1e9  # the prior's gradient is not clipped
_PRIOR_WEIGHT = 0.05  # per bit; the prior has parameters of its own, so this only scales its gradient for clipping


class VQTask(nn.Module):
    """A VQModel and what its training needs besides: the rate-distortion weight of every level.

    The codes of a batch are chosen as the encoder will choose them (`choose`), walking the prior, so the walk's code
    lengths are at once the cost of the choice and the prior's loss. How many levels the decoder sees is drawn per
    image, so that every level count gives a good image (quantiser dropout, Zeghidour et al. 2021).
    """

    rd_weights: Tensor
    targets: Tensor

    constant = False
    """Codebooks are looked after at some steps."""

    def __init__(self, model: VQConfig, train: VQTrain) -> None:
        """Build the model; rate-distortion weights start at 0."""
        super().__init__()
        self.model = VQModel(model)
        self.train_config = train
        self.register_buffer("rd_weights", torch.zeros(len(model.levels)))
        self.register_buffer("targets", torch.tensor(train.rate_bits), persistent=False)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Parameters of the autoencoder and of the prior, whose gradients are clipped apart."""
        prior = list(self.model.prior.parameters())
        autoencoder = [p for n, p in self.model.named_parameters() if not n.startswith("prior.") and p.requires_grad]
        return [ParameterGroup(autoencoder, self.train_config.grad_clip), ParameterGroup(prior, _CLIP_PRIOR)]

    def loss(self, images: Tensor, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch uint8 [B, S, S], and metrics (0-d tensors).

        van den Oord et al. 2017, eq. 3: squared error per image, plus codebook and commitment terms, plus the prior's
        code length. progress: share of the training done, 0..1.
        """
        model, quantiser, levels = self.model, self.model.quantiser, len(self.model.config.levels)
        x = (images[:, None].float() / 256).contiguous(memory_format=torch.channels_last)
        z = model.encoder(x).float()
        weights = self.rd_weights.tolist()
        rates = torch.zeros(levels, device=x.device)

        def count(step: Step, lengths: Tensor, symbols: Tensor) -> None:
            nonlocal rates
            bits = lengths.gather(-1, symbols[..., None]).sum() / len(x)
            rates = rates + nn.functional.one_hot(torch.tensor(step.level), levels).to(bits) * bits

        indices = choose(walk(model.prior, len(x), levels, x.device), quantiser, z, weights, count)

        parts = torch.stack([quantiser.embed(level, indices[level]) for level in range(levels)])
        partial = parts.cumsum(0)
        commitment = (partial.detach() - z).square().mean((1, 2, 3, 4)).sum()
        seen = torch.randint(levels, (len(x),), device=x.device)
        z_q = partial[seen, torch.arange(len(x), device=x.device)]
        x_hat = model.decoder(z + (z_q - z).detach())
        distortion = (x_hat.float() - x).square().sum((1, 2, 3)).mean()
        loss = distortion + self.train_config.commitment * commitment + _PRIOR_WEIGHT * rates.sum()
        if model.config.codebook == "gradient":
            loss = loss + (partial - z.detach()).square().mean((1, 2, 3, 4)).sum()
        if self.training:
            self._update(z.detach(), parts.detach(), indices, rates.detach(), step, progress)
        metrics = {"sse": distortion.detach(), "commitment": commitment.detach()}
        metrics |= {f"bits{level + 1}": rate for level, rate in enumerate(rates.detach())}
        return loss, metrics | {f"rd_weight{n + 1}": w.clone() for n, w in enumerate(self.rd_weights)}

    @torch.no_grad()
    def _update(
        self, z: Tensor, parts: Tensor, indices: list[Tensor], rates: Tensor, step: int, progress: float
    ) -> None:
        """Codebook statistics, restarts and the rate controller; after the loss used the old values."""
        residual, quantiser = z, self.model.quantiser
        restart = step % _RESTART_EVERY == 0 and progress < self.train_config.restart_until
        for level, index in enumerate(indices):
            vectors = quantiser.vectors(level, residual)
            quantiser.update(level, vectors, index)
            if restart:
                quantiser.restart(level, vectors, self.train_config.restart_below)
            residual = residual - parts[level]
        if progress >= self.train_config.rate_start:
            error = ((rates - self.targets) / self.targets).clamp(-1, 1)
            self.rd_weights.add_(1e-4).mul_(torch.exp(_CONTROL_GAIN * error)).clamp_(0, _MAX_WEIGHT)

    @torch.no_grad()
    def evaluate(self, images: Tensor, batch_size: int = 500) -> dict[str, float]:
        """Rates in bits per image, PSNR in dB (mean over images) of rounded pixels and codebook usage, per level.

        images uint8 [N, S, S]."""
        model, levels = self.model, len(self.model.config.levels)
        bits = torch.zeros(levels, dtype=torch.float64)
        psnr: list[list[Tensor]] = [[] for _ in range(levels)]
        seen: list[list[Tensor]] = [[] for _ in range(levels)]

        def count(step: Step, lengths: Tensor, symbols: Tensor) -> None:
            bits[step.level] += float(lengths.gather(-1, symbols[..., None]).sum())

        for batch in torch.split(images, batch_size):
            z = model.encoder(batch[:, None].float() / 256).float()
            indices = choose(
                walk(model.prior, len(z), levels, z.device), model.quantiser, z, self.rd_weights.tolist(), count
            )
            for level in range(levels):
                x_hat = (model.reconstruct(indices, level + 1)[:, 0].float() * 256).round().clamp(0, 255)
                mse = (x_hat - batch.float()).square().mean((1, 2))
                psnr[level].append(20 * math.log10(255) - 10 * mse.clamp_min(1e-9).log10())
                seen[level].append(indices[level])
        result = {}
        for level, spec in enumerate(model.config.levels):
            result[f"bits{level + 1}"] = float(bits[: level + 1].sum()) / len(images)
            result[f"psnr_db{level + 1}"] = float(torch.cat(psnr[level]).mean())
            result[f"used{level + 1}"] = usage(torch.cat(seen[level]), spec.codes).used
        return result
