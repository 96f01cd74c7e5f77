"""Training of VQ-VAEs of photographs: pixels, codebooks and prior in one step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn

from ..codec.photo.config import SAMPLES
from ..codec.photo.model import SIGNAL
from ..codec.photo_vq.config import PhotoVQConfig
from ..codec.photo_vq.model import PhotoVQModel
from ..codec.photo_vq.prior import FloatPrior, Stage, walk
from ..codec.photo_vq.quantiser import Chooser, Told, draw, price, tell
from ..codec.vq.quantiser import usage
from .config import ParameterGroup, PhotoVQTrain
from .precision import products

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

        Root of the mean squared error (pixels 0..255), which lies between the errors' and PSNR's way to weigh images;
        commitment in the same units; and the code length in bits per index, which is the prior's alone."""
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
        worth = price(config.weight) * min(1.0, progress / max(self.train_config.price_warmup, 1e-9))
        told, drawn = tell(self.model.autoencoder, x, present, Chooser(steps, lambda lengths: lengths, measure, worth))
        x_hat = self.model.autoencoder.synthesis.render(drawn)
        rmse = (255**2 * (x_hat - x).square().mean((1, 2, 3)) + 1).sqrt()
        committed = torch.stack([_commitment(each, config.codebooks[level].stride) for level, each in enumerate(told)])
        commitment = (committed * present).sum(0) / (2 * rmse.detach())
        rates = torch.stack(bits) * present
        symbols = sum(each.index[0].numel() for each in told)
        loss = (rmse + self.train_config.commitment * commitment).mean() + rates.sum(0).mean() / symbols
        if self.training:
            self._update(told, present)
        metrics = {"rmse": rmse.detach().mean(), "commitment": commitment.detach().mean()}
        share = present.float().mean(1).clamp_min(1e-9) * x.shape[2] * x.shape[3]
        return loss, metrics | {f"bpp{n + 1}": rate for n, rate in enumerate(rates.detach().mean(1) / share)}

    def _levels(self, batch: int, device: torch.device) -> Tensor:
        """How many levels each image has, int64 [B]: all of them for the first half, any number for the rest.

        One image at least has all, so that every process has gradients of all parameters."""
        levels = len(self.model.config.codebooks)
        drawn = torch.randint(1, levels + 1, (batch,), device=device)
        drawn[: (batch + 1) // 2] = levels
        return drawn

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
    def evaluate(self, images: Tensor, batch_size: int = 8) -> dict[str, float]:
        """Bits per pixel and PSNR in dB (mean of images) of crops uint8 [N, 3, S, S], for every number of levels; and
        the share of codes that are used."""
        config, levels = self.model.config, len(self.model.config.codebooks)
        bits = torch.zeros(levels, dtype=torch.float64)
        psnrs: list[list[Tensor]] = [[] for _ in range(levels)]
        seen: list[list[Tensor]] = [[] for _ in range(levels)]

        def measure(stage: Stage, lengths: Tensor, symbols: Tensor) -> None:
            bits[stage.level] += float(lengths.gather(-1, symbols[..., None]).sum())

        for batch in torch.split(images, batch_size):
            for level, x_hat in enumerate(self._levels_of(batch, measure, seen)):
                shown = x_hat.add(0.5).mul(255).round().clamp(0, 255)
                mse = (shown - batch.float()).square().mean((1, 2, 3))
                psnrs[level].append(10 * torch.log10(255**2 / mse.clamp_min(1e-3)))
        result = {}
        for level, book in enumerate(config.codebooks):
            result[f"bpp{level + 1}"] = float(bits[: level + 1].sum()) / (images.numel() / SAMPLES)
            result[f"psnr_db{level + 1}"] = float(torch.cat(psnrs[level]).mean())
            result[f"used{level + 1}"] = usage(torch.cat(seen[level]), book.size).used
        return result

    def _levels_of(
        self, images: Tensor, measure: Callable[[Stage, Tensor, Tensor], None], seen: list[list[Tensor]]
    ) -> list[Tensor]:
        """Pixels -0.5..0.5 after every level, in the precision of the training; indices are added to `seen`."""
        model, levels = self.model, len(self.model.config.codebooks)
        x = (images.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
        height, width = x.shape[2:]
        present = torch.ones(levels, len(x), dtype=torch.bool, device=x.device)
        steps = walk(FloatPrior(model.prior), len(x), height, width, levels, x.device)
        chooser = Chooser(steps, lambda lengths: lengths, measure, price(model.config.weight))
        with products(x.device, self.train_config.precision):
            indices = [each.index for each in tell(model.autoencoder, x, present, chooser)[0]]
            for own, index in zip(seen, indices, strict=True):
                own.append(index.flatten())
            return [draw(model.autoencoder, indices[:count], height, width) for count in range(1, levels + 1)]


def _commitment(told: Told, stride: int) -> Tensor:
    """Squared distance of what a level was to tell and what it told, as a mean squared error of pixels 0..255: [B]."""
    error = (told.z - (told.mean + told.q).detach()).square().sum((1, 2, 3))
    return error * (255 / SIGNAL) ** 2 / (SAMPLES * stride**2 * told.index[0].numel())


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
        vectors = (told.z - told.mean)[present].flatten(2).transpose(1, 2).flatten(0, 1).float()
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
