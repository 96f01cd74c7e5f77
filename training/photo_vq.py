"""Training of VQ-VAEs of photographs: pixels, codebooks and prior in one step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from ..codec.photo.config import SAMPLES
from ..codec.photo_vq.config import PhotoVQConfig
from ..codec.photo_vq.model import PhotoVQModel
from ..codec.photo_vq.prior import FloatPrior, Stage, walk
from ..codec.photo_vq.quantiser import Chooser, Told, draw, price, tell
from ..codec.vq.quantiser import usage
from .config import ParameterGroup, PhotoVQTrain
from .precision import products
from .soft import SoftChooser

_LINEAR_RATE = 0.2  # of the learning rate, for the linear transforms, which start out good
_DECAY = 0.99  # of the codebooks' averages
_SPLIT_EVERY = 50
_SPLIT_SHARE = 0.2  # of the standard deviation within a cell: distance of the halves of a split code
_SEEDS = 1_000_003


class PhotoVQTask(nn.Module):
    """A PhotoVQModel and its training objective.

    How many levels an image has is drawn at random, so that every number of levels gives a good image (quantiser
    dropout, Zeghidour et al. 2021). Indices are chosen as the encoder will choose them, walking the prior, whose code
    lengths are at once part of the choice and the prior's loss. Code vectors are moving averages of what they stand
    for (van den Oord et al. 2017, appendix A.1), over all processes of a training; unused ones become halves of much
    used ones (Linde, Buzo and Gray 1980)."""

    constant = False
    """Codebooks are looked after at some steps."""

    def __init__(self, model: PhotoVQConfig, train: PhotoVQTrain) -> None:
        """Build the model."""
        super().__init__()
        self.model = PhotoVQModel(model)
        self.train_config = train
        self.averages = nn.ModuleList(_Averages(book.size, book.length) for book in model.codebooks)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The prior, whose gradient is not clipped with the rest; linear transforms; the other networks."""
        autoencoder, prior = self.model.autoencoder, list(self.model.prior.parameters())
        synthesis = autoencoder.synthesis
        transforms = (autoencoder.analysis.linear, synthesis.carry, synthesis.linear)
        linear = [each for part in transforms for each in part.parameters()]
        apart = {id(parameter) for parameter in linear}
        rest = [each for each in autoencoder.parameters() if each.requires_grad and id(each) not in apart]
        clip = self.train_config.grad_clip
        return [
            ParameterGroup(rest, clip),
            ParameterGroup(linear, clip, _LINEAR_RATE),
            ParameterGroup(prior, math.inf, self.train_config.prior_rate),
        ]

    def loss(self, images: Tensor, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch uint8 [B, 3, S, S], and metrics. step, progress: of the training, progress in 0..1.

        The prior's part is its code length in bits per index. The autoencoder's is the root (to first order) of an
        image's mse + bpp / weight: so images weigh between what they do in a sum of errors and in a mean of PSNRs."""
        config, levels = self.model.config, len(self.model.config.codebooks)
        if self.training and step % _SPLIT_EVERY == 0 and 0 < progress < self.train_config.split_until:
            self._split(step)
        x = images.float().div_(255).sub_(0.5)
        x = x.contiguous(memory_format=torch.channels_last)
        count = self._levels(len(x), x.device)
        present = torch.arange(levels, device=x.device)[:, None] < count
        bits = [torch.zeros(len(x), device=x.device) for _ in range(levels)]

        def measure(stage: Stage, lengths: Tensor, symbols: Tensor) -> None:
            bits[stage.level] = bits[stage.level] + lengths.gather(-1, symbols[..., None]).flatten(1).sum(1)

        steps = walk(FloatPrior(self.model.prior), len(x), x.shape[2], x.shape[3], levels, x.device)
        warm = min(1.0, progress / max(self.train_config.price_warmup, 1e-9))
        chooser = SoftChooser(steps, measure, warm * price(config.weight), self._temperatures())
        told, drawn = tell(self.model.autoencoder, x, present, chooser)
        x_hat = self.model.autoencoder.synthesis.render(drawn)
        rmse = (255**2 * (x_hat - x).square().mean((1, 2, 3)) + 1).sqrt()
        pixels = x.shape[2] * x.shape[3]
        bpp = (torch.stack(chooser.expected) * present).sum(0) / pixels
        objective = rmse + warm * bpp / config.weight / (2 * rmse.detach())
        rates = torch.stack(bits) * present
        symbols = sum(each.index[0].numel() for each in told)
        loss = objective.mean() + rates.sum(0).mean() / symbols
        if self.training:
            self._update(told, present)
        share = present.float().mean(1).clamp_min(1e-9) * pixels
        metrics = {f"bpp{n + 1}": rate for n, rate in enumerate(rates.detach().mean(1) / share)}
        return loss, {"rmse": rmse.detach().mean()} | metrics

    def _levels(self, batch: int, device: torch.device) -> Tensor:
        """How many levels each image has, int64 [B]: all of them for the first half, any number for the rest.

        One image at least has all, so that every process has gradients of all parameters."""
        levels = len(self.model.config.codebooks)
        drawn = torch.randint(1, levels + 1, (batch,), device=device)
        drawn[: (batch + 1) // 2] = levels
        return drawn

    def _temperatures(self) -> list[float]:
        """Of the soft choice at every level: that of the price, or twice the squared error of a coefficient where that
        is more (the best choice at that error, were coefficients Gaussian), as indices are fewer than would be worth
        it."""
        least = price(self.model.config.weight) / math.log(2)
        return [max(least, 2 * self._average(n).mean_error()) for n in range(len(self.model.config.codebooks))]

    @torch.no_grad()
    def _update(self, told: list[Told], present: Tensor) -> None:
        """Move the codebooks; after the loss used the old ones."""
        codebooks = self.model.autoencoder.codebooks
        sums = [self._average(level).sums(each, present[level], codebooks[level]) for level, each in enumerate(told)]
        totals = _summed(torch.cat(sums)).split([len(each) for each in sums])
        for level, found in enumerate(totals):
            self._average(level).update(found, codebooks[level])

    @torch.no_grad()
    def _split(self, step: int) -> None:
        """Turn unused codes into halves of used ones."""
        for level, codebook in enumerate(self.model.autoencoder.codebooks):
            pairs = self._average(level).split(codebook, self.train_config.split_below, step * _SEEDS + level)
            self._halve(level, *pairs)

    def _halve(self, level: int, unused: Tensor, parents: Tensor) -> None:
        """Let the prior know the halves of a code: each is half as likely as it was."""
        prior = self.model.prior
        head, embedding = prior.heads[level], prior.embeddings[level]
        assert isinstance(head, nn.Conv2d)
        assert isinstance(embedding, nn.Embedding)
        assert head.bias is not None
        head.bias[parents] -= math.log(2)
        for table in (head.weight, head.bias, embedding.weight):
            table[unused] = table[parents]

    def _average(self, level: int) -> _Averages:
        average = self.averages[level]
        assert isinstance(average, _Averages)
        return average

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> dict[str, float]:
        """Bits per pixel and PSNR in dB (mean of images) of crops uint8 [N, 3, S, S], for every number of levels; and
        the share of codes that are used."""
        found = self._measured(images)
        result = {}
        for level, book in enumerate(self.model.config.codebooks):
            result[f"bpp{level + 1}"] = sum(found.bits[: level + 1]) / (images.numel() / SAMPLES)
            result[f"psnr_db{level + 1}"] = float(found.psnr_db[level].mean())
            result[f"used{level + 1}"] = usage(found.indices[level], book.size).used
        return result

    @torch.no_grad()
    def psnr_db(self, images: Tensor) -> Tensor:
        """PSNR in dB [levels, N] of crops uint8 [N, 3, S, S], for every number of levels."""
        return self._measured(images).psnr_db

    def _measured(self, images: Tensor, batch_size: int = 8) -> _Measured:
        """All levels, in the precision of the training."""
        model, levels = self.model, len(self.model.config.codebooks)
        bits = [0.0] * levels
        psnrs, seen = [], []

        def measure(stage: Stage, lengths: Tensor, symbols: Tensor) -> None:
            bits[stage.level] += float(lengths.gather(-1, symbols[..., None]).sum())

        for batch in torch.split(images, batch_size):
            x = (batch.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
            height, width = x.shape[2:]
            present = torch.ones(levels, len(x), dtype=torch.bool, device=x.device)
            with products(x.device, self.train_config.precision):
                steps = walk(FloatPrior(model.prior), len(x), height, width, levels, x.device)
                chooser = Chooser(steps, lambda lengths: lengths, measure, price(model.config.weight))
                indices = [each.index for each in tell(model.autoencoder, x, present, chooser)[0]]
                shown = [draw(model.autoencoder, indices[:count], height, width) for count in range(1, levels + 1)]
            levels_255 = torch.stack(shown).add(0.5).mul(255).round().clamp(0, 255)
            mse = (levels_255 - batch.float()).square().mean((2, 3, 4))
            psnrs.append(10 * torch.log10(255**2 / mse.clamp_min(1e-3)))
            seen.append([index.flatten() for index in indices])
        return _Measured(bits, torch.cat(psnrs, 1), [torch.cat(each) for each in zip(*seen, strict=True)])


@dataclass(frozen=True)
class _Measured:
    """bits: of each level, all images together; psnr_db [levels, N]; indices: of each level, int64 [n]."""

    bits: list[float]
    psnr_db: Tensor
    indices: list[Tensor]


def _summed(values: Tensor) -> Tensor:
    """Sum over the processes of a training, in place."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values


class _Averages(nn.Module):
    """Moving averages of a codebook's use. count [K]: uses a batch.  total [K, D]: sum of the vectors a batch.
    error [D]: squared distance a batch, over all codes."""

    count: Tensor
    total: Tensor
    error: Tensor

    def __init__(self, size: int, length: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("total", torch.zeros(size, length))
        self.register_buffer("error", torch.zeros(length))

    def sums(self, told: Told, present: Tensor, codebook: Tensor) -> Tensor:
        """Counts, sums and squared distances of a batch, one after the other; present: which images count, bool [B]."""
        vectors = told.residual[present].flatten(2).transpose(1, 2).flatten(0, 1).float()
        rows = told.index[present].flatten()
        count = torch.bincount(rows, minlength=len(codebook)).to(vectors.dtype)
        total = torch.zeros_like(codebook).index_add_(0, rows, vectors)
        error = (vectors - codebook[rows]).square().sum(0)
        return torch.cat([count, total.flatten(), error])

    def update(self, sums: Tensor, codebook: Tensor) -> None:
        """Move the averages, and the code vectors that are in use onto theirs."""
        sizes = [self.count.numel(), self.total.numel(), self.error.numel()]
        count, total, error = sums.split(sizes)
        self.count.lerp_(count, 1 - _DECAY)
        self.total.lerp_(total.view_as(self.total), 1 - _DECAY)
        self.error.lerp_(error, 1 - _DECAY)
        used = self.count > 1e-4  # else a quotient of remainders
        codebook[used] = self.total[used] / self.count[used, None]

    def mean_error(self) -> float:
        """Squared distance of a coefficient, over the codes as they are used."""
        return float(self.error.mean() / self.count.sum().clamp_min(1e-9))

    def split(self, codebook: Tensor, below: float, seed: int) -> tuple[Tensor, Tensor]:
        """Turn codes used less than `below` of the mean into halves of the most used ones (but the very first, which
        says that there is nothing to tell). Returns which, and whose halves they are, int64 [n] each."""
        mean = self.count.mean()
        unused = (self.count < below * mean).nonzero()[:, 0]
        order = self.count.argsort(descending=True)[1:]
        parents = order[self.count[order] > mean]
        n = min(len(unused), len(parents))
        unused, parents = unused[:n], parents[:n]
        noise = torch.randn(n, codebook.shape[1], generator=torch.Generator().manual_seed(seed)).to(codebook)
        spread = (self.error / self.count.sum().clamp_min(1e-9)).sqrt() * _SPLIT_SHARE * noise
        codebook[unused] = codebook[parents] - spread
        codebook[parents] += spread
        self.count[parents] /= 2
        self.count[unused] = self.count[parents]
        for rows in (unused, parents):
            self.total[rows] = codebook[rows] * self.count[rows, None]
        return unused, parents
