"""Choice of indices, and the walk over the levels that the encoder and the training share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..photo.config import SAMPLES
from ..photo.model import SIGNAL, full_precision
from .model import Autoencoder, Drawn
from .prior import Stage, Walk, at_phase


def price(weight: float) -> float:
    """Squared distance (signal units) that a bit is worth where one unit of mean squared error (0..255) is worth
    `weight` bits per pixel; the same for all strides, as the transforms are orthonormal."""
    return SAMPLES * SIGNAL**2 / (255**2 * weight)


def costs(vectors: Tensor, codebook: Tensor, bits: Tensor, rd_price: float) -> Tensor:
    """Squared distance + rd_price * bits of every code (Chou, Lookabaugh and Gray 1989, eq. 4), up to a constant.

    vectors [B, n, D], codebook [K, D], bits [B, n, K] -> [B, n, K]."""
    own = codebook.square().sum(1)
    with full_precision(vectors):
        distance = torch.addmm(own, vectors.flatten(0, 1), codebook.T, alpha=-2).view(bits.shape)
    return distance.add_(bits, alpha=rd_price)


def code_vectors(codebook: Tensor, index: Tensor) -> Tensor:
    """Codebook [K, D], index int64 [B, h, w] -> [B, D, h, w]."""
    return codebook[index].permute(0, 3, 1, 2)


class Chooser:
    """The encoder's side of the prior's walk: picks the cheapest index of every position, stage by stage."""

    def __init__(
        self,
        walk: Walk,
        lengths: Callable[[Tensor], Tensor],
        emit: Callable[[Stage, Tensor, Tensor], None],
        rd_price: float,
    ) -> None:
        """lengths: bits of what the prior says; emit(stage, what the prior says [B, n, K], symbols [B, n]) is for who
        codes or counts them."""
        self._walk, self._lengths, self._emit, self._price = walk, lengths, emit, rd_price
        self._next: tuple[Stage, Tensor] | None = next(walk)

    def pick(self, level: int, residual: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """Indices int64 [B, h, w] of a level, for its residual [B, D, h, w], and their vectors [B, D, h, w]."""
        index = torch.zeros(residual[:, 0].shape, dtype=torch.int64, device=residual.device)
        while self._next is not None and self._next[0].level == level:
            stage, table = self._next
            vectors = at_phase(residual, stage.phase).flatten(2).transpose(1, 2).float()
            symbols = self._symbols(stage, vectors, self._lengths(table).detach(), codebook)
            at_phase(index, stage.phase).copy_(symbols.view_as(at_phase(index, stage.phase)))
            self._emit(stage, table, symbols)
            try:
                self._next = self._walk.send(symbols)
            except StopIteration:
                self._next = None
        return index, code_vectors(codebook, index)

    def _symbols(self, stage: Stage, vectors: Tensor, bits: Tensor, codebook: Tensor) -> Tensor:
        """The cheapest codes int64 [B, n] for vectors [B, n, D], given bits [B, n, K]."""
        return costs(vectors, codebook, bits, self._price).argmin(-1)


@dataclass(frozen=True)
class Told:
    """A level as the encoder told it. index int64 [B, h, w]; residual [B, D, h, w]: what was to be told."""

    index: Tensor
    residual: Tensor


def tell(model: Autoencoder, x: Tensor, present: Tensor, chooser: Chooser) -> tuple[list[Told], Drawn]:
    """Walk over the levels, choosing indices.

    x: pixels -0.5..0.5, [B, 3, H, W], sides multiples of the model's; present: bool [levels, B], which levels an image
    has (all levels that any has are walked)."""
    coefficients, features = model.analysis.up(x)
    walk = model.synthesis.walk(len(x), x.shape[2], x.shape[3], present)
    levels: list[Told] = []
    try:
        step = next(walk)
        while True:
            if not present[step.level].any():
                step = walk.send(None)
                continue
            z = model.analysis.target(step, coefficients, features)
            residual = z - step.mean
            index, q = chooser.pick(step.level, residual, model.codebooks[step.level])
            levels.append(Told(index, residual.detach()))
            step = walk.send(q)
    except StopIteration as stop:
        return levels, stop.value


def draw(model: Autoencoder, indices: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Pixels -0.5..0.5 [B, 3, height, width] of the indices int64 [B, h, w] of the first levels, one or more."""
    books = model.config.codebooks
    batch, device = len(indices[0]), indices[0].device
    present = (torch.arange(len(books), device=device) < len(indices))[:, None].expand(-1, batch)
    walk = model.synthesis.walk(batch, height, width, present)
    try:
        step = next(walk)
        while True:
            here = step.level < len(indices)
            step = walk.send(code_vectors(model.codebooks[step.level], indices[step.level]) if here else None)
    except StopIteration as stop:
        drawn: Drawn = stop.value
    return model.synthesis.render(drawn)
