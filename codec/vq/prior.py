"""The staged context prior over the indices of all levels."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ..exact.layers import Offset
from .config import VQConfig
from .schedule import Step, schedule

Walk = Generator[tuple[Step, Tensor], Tensor, list[Tensor]]


class StagedPrior(nn.Module):
    """p(indices) = product over steps of p(indices of the step | all indices of the steps before).

    Within a step the indices are independent given the context, so a step is one batched evaluation. Each step has
    its own two-layer perceptron over the embedded context (the grid is small and fixed, so it sees everything at
    once), a head shared by the level turns `prior_head` features per position into K logits, and a table adds a bias
    per position and symbol. The same code runs in float for training and, with its leaves replaced by
    `codec.exact.export.to_exact`, in exact integers.
    """

    def __init__(self, config: VQConfig) -> None:
        """Build all parts; logits start at zero (a uniform prior)."""
        super().__init__()
        self.config = config
        self.steps = schedule(config)
        levels = config.levels
        self.embeddings = nn.ModuleList(nn.Embedding(level.codes, config.prior_embed) for level in levels)
        self.heads = nn.ModuleList(nn.Linear(config.prior_head, level.codes) for level in levels)
        self.nets = nn.ModuleList(self._net(step) for step in self.steps)
        self.offsets = nn.ModuleList(Offset(len(step.positions), levels[step.level].codes) for step in self.steps)

    def _net(self, step: Step) -> nn.Module:
        known = sum(len(positions) for positions in step.known)
        if not known:
            return nn.Identity()
        width, dropout = self.config.prior_width, self.config.prior_dropout
        return nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(known * self.config.prior_embed, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(step.positions) * self.config.prior_head),
            nn.ReLU(),
        )

    def logits(self, step: Step, indices: Sequence[Tensor]) -> Tensor:
        """Logits [B, n, K] of the step's n positions given the indices [B, P_level] of every level."""
        offset = self.offsets[step.number]
        context = [
            embed(index[:, known]).flatten(1)
            for embed, index, known in zip(self.embeddings, indices, step.known, strict=True)
            if len(known)
        ]
        if not context:
            no_logits = torch.zeros((), device=indices[0].device)
            return cast("Tensor", offset(no_logits)).expand(len(indices[0]), -1, -1)
        features = self.nets[step.number](torch.cat(context, 1))
        features = features.unflatten(1, (len(step.positions), self.config.prior_head))
        logits: Tensor = offset(self.heads[step.level](features))
        return logits

    def forward(self, step: Step, indices: Sequence[Tensor]) -> Tensor:
        """Code lengths in bits, -log2 p, float32 [B, n, K]; arguments as for `logits`."""
        log_p: Tensor = torch.log_softmax(self.logits(step, indices).float(), -1)
        return log_p * (-1 / math.log(2))


class Prior(Protocol):
    """What the walk needs of a prior, float or exact."""

    config: VQConfig
    steps: list[Step]

    def __call__(self, step: Step, indices: Sequence[Tensor]) -> Tensor:
        """Something per symbol, [B, n, K]: code lengths (float) or frequencies (exact)."""


def walk(prior: Prior, batch: int, levels: int, device: torch.device) -> Walk:
    """The one walk over all steps that encoder, decoder and training share.

    Yields (step, what the prior says [batch, n, K]) and receives the symbols int64 [batch, n]; returns the indices of
    every level, int64 [batch, P_level]. Levels from `levels` on are not visited and stay zero.
    """
    config = prior.config
    indices = [
        torch.zeros(batch, config.level_grid(level) ** 2, dtype=torch.int64, device=device)
        for level in range(len(config.levels))
    ]
    for step in prior.steps:
        if step.level < levels:
            symbols = yield step, prior(step, indices)
            indices[step.level][:, step.positions] = symbols
    return indices
