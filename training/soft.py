"""Choice of indices with a gradient, for the training of VQ-VAEs of photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..codec.photo_vq.prior import Stage, Walk, at_phase
from ..codec.photo_vq.quantiser import Chooser, costs


class SoftChooser(Chooser):
    """Chooses the cheapest indices; vectors and code lengths have the gradient of a soft choice (Agustsson et al. 2017,
    "Soft-to-hard vector quantization").

    The soft choice has probabilities proportional to p(k) exp(-|v - c_k|^2 / t): of all encoders of random choice the
    best at some price of bits (Blahut 1972). So code vectors move only where the codebook can follow, and only where
    that is worth its bits.

    expected: code length in bits [B] of the soft choice of every level."""

    def __init__(
        self,
        walk: Walk,
        emit: Callable[[Stage, Tensor, Tensor], None],
        rd_price: float,
        temperatures: Sequence[float],
    ) -> None:
        """The walk says code lengths. temperatures: t of every level, squared distances > 0."""
        super().__init__(walk, lambda lengths: lengths, emit, rd_price)
        self._temperatures = temperatures
        self.expected = [torch.zeros(())] * len(temperatures)
        self._soft: list[Tensor] = []

    def pick(self, level: int, residual: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        """As `Chooser.pick`; the vectors have the value of the chosen ones."""
        self._soft = []
        codebook = codebook.clone()  # the gradient needs it as it is now, and training moves it
        index, q = super().pick(level, residual, codebook)
        soft = torch.zeros_like(residual)
        for phase, vectors in enumerate(self._soft):
            place = at_phase(soft, phase)
            place.copy_(vectors.transpose(1, 2).view_as(place))
        return index, q + (soft - soft.detach())

    def _symbols(self, stage: Stage, vectors: Tensor, bits: Tensor, codebook: Tensor) -> Tensor:
        temperature = self._temperatures[stage.level]
        cost = costs(vectors, codebook, bits, temperature * math.log(2))
        share = torch.softmax(cost / -temperature, -1)
        self._soft.append(torch.matmul(share, codebook))
        self.expected[stage.level] = self.expected[stage.level] + (share * bits).sum((1, 2))
        return super()._symbols(stage, vectors.detach(), bits, codebook)
