"""The staged context prior over the indices of all levels: p(indices of a stage | all indices before)."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from ..photo.model import exact_block, expand
from .config import PHASES, PhotoVQConfig


@dataclass(frozen=True)
class Stage:
    """Indices that are coded together: those of a phase of a level."""

    level: int
    phase: int


Walk = Generator[tuple[Stage, Tensor], Tensor, list[Tensor]]


def at_phase(grid: Tensor, phase: int) -> Tensor:
    """The positions of a phase, a view: [..., h, w] -> [..., h / 2, w / 2]."""
    row, column = PHASES[phase]
    return grid[..., row::2, column::2]


class PhotoVQPrior(nn.Module):
    """Features go from each level to the next, with the embedded indices of all levels before. In a level the four
    phases of a 2 x 2 grid are stages; each sees the features at its own positions and the indices of the phases before
    in a neighbourhood of 6 x 6.

    The same code runs in float for training and, with its leaves replaced by `to_exact`, in integers."""

    def __init__(self, config: PhotoVQConfig) -> None:
        """All indices are equally likely at first, but for noise."""
        super().__init__()
        self.config = config
        books, width, embed, hidden = config.codebooks, config.prior_width, config.prior_embed, config.prior_hidden
        self.start = nn.Embedding(1, width)
        self.embeddings = nn.ModuleList(nn.Embedding(book.size, embed) for book in books)
        self.entries = nn.ModuleList(nn.Conv2d(embed, width, 3, padding=1) for _ in books[1:])
        self.expand = nn.ModuleList(
            expand(above.stride // below.stride, width, width) for above, below in pairwise(books)
        )
        self.blocks = nn.ModuleList(exact_block(width) for _ in books[1:])
        self.stages = nn.ModuleList(_StageNet(config, phase) for _ in books for phase in range(len(PHASES)))
        self.heads = nn.ModuleList(nn.Conv2d(hidden, book.size, 1) for book in books)
        with torch.no_grad():
            for head in self.heads:
                assert isinstance(head, nn.Conv2d)
                assert head.bias is not None
                head.weight.mul_(0.1)
                nn.init.zeros_(head.bias)

    def first(self, batch: int, rows: int, columns: int, device: torch.device) -> Tensor:
        """Features of the first level [B, width, rows, columns]: the same everywhere."""
        features: Tensor = self.start(torch.zeros(batch, rows, columns, dtype=torch.int64, device=device))
        return features.permute(0, 3, 1, 2)

    def embed(self, level: int, index: Tensor) -> Tensor:
        """Indices int64 [B, h, w] -> [B, embed, h, w]."""
        found: Tensor = self.embeddings[level](index)
        return found.permute(0, 3, 1, 2)

    def below(self, level: int, features: Tensor, index: Tensor) -> Tensor:
        """Features of the next level, from those of a level and its indices [B, h, w]."""
        features = features + self.entries[level](self.embed(level, index))
        below: Tensor = self.blocks[level](self.expand[level](features))
        return below

    def logits(self, stage: Stage, features: Tensor, known: list[Tensor]) -> Tensor:
        """Logits [B, K, h / 2, w / 2] of the indices of a stage.

        features: of its level, [B, width, h, w]; known: indices [B, h / 2, w / 2] of the phases before."""
        embedded = torch.cat([self.embed(stage.level, index) for index in known], 1) if known else None
        net = self.stages[stage.level * len(PHASES) + stage.phase]
        found: Tensor = self.heads[stage.level](net(at_phase(features, stage.phase), embedded))
        return found


class _StageNet(nn.Module):
    """From what is known at a stage to hidden channels."""

    def __init__(self, config: PhotoVQConfig, phase: int) -> None:
        """phase: of the level, 0..3: how many phases are known."""
        super().__init__()
        hidden = config.prior_hidden
        self.own = nn.Conv2d(config.prior_width, hidden, 1)
        self.known = nn.Conv2d(phase * config.prior_embed, hidden, 3, padding=1) if phase else nn.Identity()
        self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU())

    def forward(self, features: Tensor, embedded: Tensor | None) -> Tensor:
        """Features [B, width, h, w] and embedded indices [B, phase * embed, h, w], None in the first phase."""
        x = self.own(features)
        found: Tensor = self.mix(x if embedded is None else x + self.known(embedded))
        return found


class Prior(Protocol):
    """What the walk needs of a prior, float or exact."""

    @property
    def net(self) -> PhotoVQPrior:
        """The networks."""

    def table(self, logits: Tensor) -> Tensor:
        """Something per symbol, [B, n, K], of logits [B, K, h, w]: code lengths (float) or frequencies (exact)."""


class FloatPrior:
    """The prior as it is trained: code lengths in bits."""

    def __init__(self, net: PhotoVQPrior) -> None:
        """The net is the model's own."""
        self.net = net

    def table(self, logits: Tensor) -> Tensor:
        """Logits [B, K, h, w] -> code lengths float32 [B, h w, K]."""
        return torch.log_softmax(logits.float().flatten(2).transpose(1, 2), -1) * (-1 / math.log(2))


def walk(prior: Prior, batch: int, height: int, width: int, levels: int, device: torch.device) -> Walk:
    """The one walk over all stages that encoder, decoder and training share.

    Yields (stage, what the prior says [B, n, K]) and receives the symbols int64 [B, n], n = h / 2 * w / 2; returns the
    indices int64 [B, h, w] of all levels. height, width: of the image, multiples of `config.multiple`."""
    net, config = prior.net, prior.net.config
    indices: list[Tensor] = []
    features = net.first(batch, *config.grid(0, height, width), device)
    for level in range(levels):
        if level:
            features = net.below(level - 1, features, indices[-1])
        rows, columns = config.grid(level, height, width)
        index = torch.zeros(batch, rows, columns, dtype=torch.int64, device=device)
        known: list[Tensor] = []
        for phase in range(len(PHASES)):
            stage = Stage(level, phase)
            symbols = yield stage, prior.table(net.logits(stage, features, known))
            known.append(symbols.view(batch, rows // 2, columns // 2))
            at_phase(index, phase).copy_(known[-1])
        indices.append(index)
    return indices
