"""Fixed-point layers: integers carried in float64 tensors.

A value v is stored as the integer round(v * 2**frac_bits), |integer| <= ACTIVATION_LIMIT after every weighted layer.
A weighted layer computes

    y = clamp(floor((sum(w * x) + b) / 2**shift), -ACTIVATION_LIMIT, ACTIVATION_LIMIT)

with |w| < 2**15 and b holding the bias and the rounding half. Export checks that every partial sum stays below 2**53,
so each float64 addition is exact in any order and on any device (see `backend` for a faster way to the same sums); the
division by a power of two and the floor are exact too. ReLU, pixel (un)shuffle, gathers and residual sums are exact as
they stand, so the float modules serve for both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from . import backend
from .requantise import ACTIVATION_LIMIT, Requantiser

T = TypeVar("T")

INPUT_BOUND = 2**18  # what a weighted layer may be fed: residual sums of a few clamped values
EXACT_BOUND = 2**53  # integers below this are exact in float64


class Residual(nn.Module):
    """y = x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        """The body keeps the shape of its input."""
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class Leaky(nn.Module):
    """max(x, x / 2**shift): a leaky rectifier (Maas et al. 2013) whose slope has an exact form."""

    def __init__(self, shift: int) -> None:
        """shift: at least 1."""
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return nn.functional.leaky_relu(x, 2.0**-self.shift)


class ExactLeaky(nn.Module):
    """max(x, floor(x / 2**shift)) of float64 integers."""

    def __init__(self, shift: int) -> None:
        """shift: at least 1."""
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return torch.maximum(x, x.mul(2.0**-self.shift).floor_())


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
    """Holds integer buffers as they are stored, and what is derived from them to compute with."""

    def __init__(self) -> None:
        super().__init__()
        self._derived: dict[tuple[str, str], tuple[Tensor, Any]] = {}
        self.register_load_state_dict_post_hook(_forget_derived)  # type: ignore[no-untyped-call]

    def _derive(self, name: str, derive: Callable[[Tensor], T], form: str = "") -> T:
        """derive(buffer `name`), remembered for as long as the buffer is the same tensor. form: tells several apart."""
        stored: Tensor = getattr(self, name)
        source, value = self._derived.get((name, form), (None, None))
        if source is not stored:
            value = derive(stored)
            self._derived[name, form] = stored, value
        return cast(T, value)


def _forget_derived(layer: nn.Module, _: object) -> None:
    assert isinstance(layer, _ExactLayer)
    layer._derived.clear()


def _power(shift: Tensor) -> float:
    return 2.0 ** -int(shift)


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

    def _requantiser(self) -> Requantiser:
        shift = int(self.shift)
        return self._derive("bias", partial(Requantiser, shift=shift), f"to shift {shift}")

    def _rows(self, x: Tensor) -> Tensor:
        """Float64 integers [..., in] -> [..., out], the weights being a matrix or 1x1 kernels."""
        weight = self._derive("weight", backend.Weight)
        if backend.takes_rows(x, weight):
            return backend.rows(x, weight, self._requantiser())
        # The bias as part of the product, and the power of two as part of both: as exact, and fewer passes over memory.
        scale = self._derive("shift", _power)
        matrix = self._derive("weight", lambda stored: stored.double().flatten(1).T.mul(scale), str(scale))
        bias = self._derive("bias", lambda stored: stored.double().mul(scale), str(scale))
        y = torch.addmm(bias, x.reshape(-1, x.shape[-1]), matrix)
        return y.floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT).view(*x.shape[:-1], len(bias))


class ExactLinear(_Weighted):
    """Fully connected layer, weight [out, in]: float64 integers [..., in] -> [..., out]."""

    def forward(self, x: Tensor) -> Tensor:
        """See the module's docstring for the arithmetic."""
        return self._rows(x)


class ExactConv2d(_Weighted):
    """Convolution, weight [out, in, kh, kw], zero padding: float64 integers [B, in, H, W] -> [B, out, H', W']."""

    def __init__(self, weight: Tensor, bias: Tensor, shift: Tensor, stride: int, padding: int) -> None:
        """Stride and padding in pixels, equal in both directions."""
        super().__init__(weight, bias, shift)
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """See the module's docstring for the arithmetic."""
        if self.weight.shape[2:] == (1, 1) and self.stride == 1 and not self.padding:
            return self._rows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # PyTorch would go image by image
        weight = self._derive("weight", backend.Weight)
        return backend.conv2d(x, weight, self.stride, self.padding, self._requantiser())


class ExactEmbedding(_ExactLayer):
    """Look-up of rows of an int16 table [K, E]: int64 [...] -> float64 integers [..., E]."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """The table holds round(value * 2**frac_bits)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, index: Tensor) -> Tensor:
        """Index in [0, K)."""
        return nn.functional.embedding(index, self._derive("table", Tensor.double))


class ExactOffset(_ExactLayer):
    """Adds an int32 table [n, K]: float64 integers [..., n, K] -> the same shape."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """The table holds round(value * 2**frac_bits)."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n, K] -> [..., n, K]."""
        return x + self._derive("table", Tensor.double)
