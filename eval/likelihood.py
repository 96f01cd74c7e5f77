"""`python -m vqcodec.eval.likelihood --data mnist`: which likelihood suits 8-bit pixels, a table or a logistic mixture.

Half of the pixels (a chequerboard within each patch) are predicted from the other half, by the network of a Ladder
VAE's last stage with the one head or the other, trained alike from the same start; what is compared is bits per
predicted pixel on test images. The table is two softmaxes over the halves of a value (codec.ladder.pixels), the mixture
ten discretised logistics (Salimans et al. 2017, "PixelCNN++", section 2.1)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from ..codec.ladder.config import LadderConfig, Stage
from ..codec.ladder.pixels import HALF, StagedPixels
from ..training.data.datasets import load
from .tables import aligned, number

_MIXTURES = 10
_LEAST_LOG_SCALE = -7.0
_CONFIG = LadderConfig(
    widths=(1, 1, 1), likelihood="categorical", stages=(Stage(8, 0), Stage(16, 64, 1)), pixel_embed=4
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Bits per predicted pixel on the test images, after `steps` batches. parameters: of network and head."""

    head: str
    parameters: int
    steps: int
    bits_per_pixel: float


class Predictor(nn.Module):
    """The last stage's network and a head."""

    def __init__(self, mixture: bool) -> None:
        """mixture: logistics instead of tables."""
        super().__init__()
        torch.manual_seed(0)
        self.pixels = StagedPixels(_CONFIG)
        self.mixture = nn.Linear(_CONFIG.pixel_features, 3 * _MIXTURES) if mixture else None
        if self.mixture is not None:
            with torch.no_grad():  # means spread over the range of values
                self.mixture.bias[_MIXTURES : 2 * _MIXTURES] = torch.linspace(-1, 1, _MIXTURES)

    def forward(self, images: Tensor) -> Tensor:
        """Nats [B, P] of the predicted pixels of images uint8 [B, S, S]."""
        pixels = self.pixels
        patches = pixels.to_patches(images.long())
        known, wanted = (patches[:, places] for places in pixels.places)
        context = torch.zeros(len(images), 1, *patches.shape[2:])
        embedded = pixels.embedding(known).permute(0, 1, 4, 2, 3).flatten(1, 2)
        features = pixels.nets[1](torch.cat([context, embedded], 1)).unflatten(1, (wanted.shape[1], -1))
        rows, value = features.permute(0, 1, 3, 4, 2).flatten(1, 3), wanted.flatten(1)
        if self.mixture is not None:
            return mixture_nats(self.mixture(torch.relu(rows)), value)
        high, low = value // HALF, value % HALF
        low_logits = pixels.low(torch.relu(rows + pixels.high_embedding(high)))
        return _nats(pixels.high(torch.relu(rows)), high) + _nats(low_logits, low)


def mixture_nats(parameters: Tensor, value: Tensor) -> Tensor:
    """-log of the mass of [v - 1/2, v + 1/2] under a mixture of logistics; the outermost values take the tails.

    parameters [B, P, 3 K] (weights, means and log scales for values in -1..1), value int64 [B, P] -> [B, P]."""
    weight, mean, log_scale = parameters.unflatten(-1, (3, -1)).unbind(-2)
    x = (value[..., None] / 127.5 - 1) - mean
    inverse = (-log_scale.clamp_min(_LEAST_LOG_SCALE)).exp()
    upper, lower = (x + 1 / 255) * inverse, (x - 1 / 255) * inverse
    inside = (torch.sigmoid(upper) - torch.sigmoid(lower)).clamp_min(1e-12).log()
    at = value[..., None]
    log_mass = torch.where(at == 0, nn.functional.logsigmoid(upper), inside)
    log_mass = torch.where(at == 255, nn.functional.logsigmoid(-lower), log_mass)
    return -torch.logsumexp(torch.log_softmax(weight, -1) + log_mass, -1)


def _nats(logits: Tensor, symbols: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.mT, symbols, reduction="none")


def compare(train: Tensor, test: Tensor, steps: int, batch_size: int = 128) -> list[Outcome]:
    """Train both heads on images uint8 [N, S, S] and measure them on others."""
    return [_outcome(name, Predictor(name == "mixture"), train, test, steps, batch_size) for name in HEADS]


HEADS = ("table", "mixture")


def _outcome(name: str, net: Predictor, train: Tensor, test: Tensor, steps: int, batch_size: int) -> Outcome:
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss = net(train[torch.randint(len(train), (batch_size,), generator=generator)]).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 100.0)
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        nats = torch.cat([net(batch) for batch in test.split(500)]).double().mean()
    parameters = sum(p.numel() for p in net.parameters())
    return Outcome(name, parameters, steps, float(nats) / math.log(2))


@click.command()
@click.option("--data", required=True, help="Data set: mnist, omniglot28.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--steps", type=click.IntRange(1), default=1500, show_default=True)
@click.option("--limit", type=click.IntRange(1), default=2000, show_default=True, help="Test images.")
def main(data: str, data_dir: Path | None, steps: int, limit: int) -> None:
    """Compare the likelihoods of 8-bit pixels on a data set."""
    train, test = (torch.from_numpy(load(data, split, data_dir).images) for split in ("train", "test"))
    rows = [list(map(str, asdict(row).values())) for row in compare(train, test[:limit], steps)]
    shown = [[head, number(int(parameters)), steps, f"{float(bits):.4f}"] for head, parameters, steps, bits in rows]
    print(f"{data} test, {limit} images, half of the pixels given the other half")
    print(aligned([["head", "parameters", "steps", "bits/pixel"], *shown]))


if __name__ == "__main__":
    main()
