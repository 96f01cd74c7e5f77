"""Fixed-point layers: integers carried in float64 tensors.

A value v is stored as the integer round(v * 2**frac_bits), |integer| <= ACTIVATION_LIMIT after every weighted layer.
A weighted layer computes

    y = clamp(floor((sum(w * x) + b) / 2**shift), -ACTIVATION_LIMIT, ACTIVATION_LIMIT)

with |w| < 2**15 and b holding the bias and the rounding half. Export checks that every partial sum stays below 2**53, so
each float64 addition is exact in any order and on any device; the division by a power of two and the floor are exact too.
ReLU, pixel (un)shuffle, gathers and residual sums are exact as they stand, so the float modules serve for both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATION_LIMIT = 2**15 - 1
INPUT_BOUND = 2**18  # what a weighted layer may be fed: residual sums of a few clamped values
EXACT_BOUND = 2**53  # integers below this are exact in float64


class Residual(nn.Module):
    """y = x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        """body keeps the shape of its input."""
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class Offset(nn.Module):
    """Adds a learned table [n, K] to the last two dimensions."""

    def __init__(self, rows: int, columns: int) -> None:
        """Starts at zero."""
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        """[..., n, K] (or anything that broadcasts to it) -> [..., n, K]."""
        return x + self.table


class _ExactLayer(nn.Module):
    """Holds integer buffers as they are stored and their float64 copies as they are computed with."""

    def __init__(self) -> None:
        super().__init__()
        self._double: dict[str, Tensor] = {}

    def _as_double(self, name: str) -> Tensor:
        stored: Tensor = getattr(self, name)
        cached = self._double.get(name)
        if cached is None or cached.device != stored.device:
            cached = self._double[name] = stored.to(torch.float64)
        return cached


class _Weighted(_ExactLayer):
    """weight int16, bias int64 [out], shift int64 scalar."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("shift", shift)
        self._scale: float | None = None

    def _requantise(self, accumulator: Tensor) -> Tensor:
        if self._scale is None:
            self._scale = 2.0 ** -int(self.shift)
        return accumulator.mul_(self._scale).floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class ExactLinear(_Weighted):
    """Fully connected layer, weight [out, in]: float64 integers [..., in] -> [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        """See the module's docstring for the arithmetic."""
        # Not F.linear: a fused bias may be added in another precision by some back ends.
        return self._requantise(torch.matmul(x, self._as_double("weight").T).add_(self._as_double("bias")))


class ExactConv2d(_Weighted):
    """Convolution, weight [out, in, kh, kw], zero padding: float64 integers [B, in, H, W] -> [B, out, H', W']."""

    def __init__(self, weight: Tensor, bias: Tensor, shift: Tensor, stride: int, padding: int) -> None:
        """Stride and padding in pixels, equal in both directions."""
        super().__init__(weight, bias, shift)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """See the module's docstring for the arithmetic."""
        sums = nn.functional.conv2d(x, self._as_double("weight"), stride=self.stride, padding=self.padding)
        return self._requantise(sums.add_(self._as_double("bias")[:, None, None]))


class ExactEmbedding(_ExactLayer):
    """Look-up of rows of an int16 table [K, E]: int64 [...] -> float64 integers [..., E]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """The table holds round(value * 2**frac_bits)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, index: Tensor) -> Tensor:
        """Index in [0, K)."""
        return self._as_double("table")[index]


class ExactOffset(_ExactLayer):
    """Adds an int32 table [n, K]: float64 integers [..., n, K] -> the same shape."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """The table holds round(value * 2**frac_bits)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n, K] -> [..., n, K]."""
        return x + self._as_double("table")
