"""Checks of what a weights file holds: against the model that its configuration stands for, and the ranges of integers.

Exact arithmetic is exact only for weights as `export` makes them; a file of somebody else's may hold any."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .layers import EXACT_BOUND, INPUT_BOUND, _Weighted
from .softmax import EXP_BITS, TOTAL

MAX_SHIFT = 32
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float32, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16,
}  # fmt: skip
"""Types by safetensors' names; float16 is how float32 is stored."""
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_SPARE = 1 << 22  # elements that a model may make besides those of its file: tables, transforms
_DIGITS = re.compile(r"[0-9]+\Z")

RISING, FALLING, ANY = 1, -1, 0
_RANGES = {
    "exp": (0, 1 << EXP_BITS, FALLING),
    "sigmoid": (0, 1 << 16, RISING),
    "weight": (0, 1 << 16, RISING),
    "narrowing": (-(1 << 15), 0, RISING),
    "inverse": (1, 1 << 26, FALLING),
    "normal": (0, 1 << 30, RISING),
    "odds": (1, (1 << 24) - 1, RISING),
    "reach": (0, 6, ANY),
    "rd_weights": (0, 1 << 30, ANY),
    "table": (-(1 << 24), 1 << 24, ANY),
    "steps": (0, 12, ANY),
}
"""Least, largest and order of the integers of a buffer, by its name without digits at the end."""


class _Budget(TorchFunctionMode):
    """Raises ValueError when more elements are made than there are in the file."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.left = elements

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            size = args[0] if args and isinstance(args[0], tuple | list) else args or kwargs.get("size", ())
            elements = 1
            for each in size:
                elements *= max(int(each), 0) if isinstance(each, int) else 1
            self.left -= elements
            if self.left < 0:
                raise ValueError("the configuration stands for a larger model")
        return func(*args, **kwargs)


@contextmanager
def limited(stored: int) -> Iterator[None]:
    """Inside, a model that has many more elements than are stored raises ValueError before it is made."""
    with _Budget(4 * stored + _SPARE):
        yield


def check_stored(codec: nn.Module, stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises ValueError unless a file holds the very tensors of a model. stored: types and shapes, by name."""
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in codec.state_dict().items()}
    for name in sorted(expected.keys() ^ stored.keys()):
        raise ValueError(f"tensor {name[:80]!r} is {'missing' if name in expected else 'not of this model'}")
    for name, (dtype, shape) in stored.items():
        if (_DTYPES.get(dtype), shape) != expected[name]:
            found, wanted = f"{dtype} {list(shape)}", f"{expected[name][0]} {list(expected[name][1])}"
            raise ValueError(f"tensor {name!r}: expected {wanted}, found {found}")


def check_values(codec: nn.Module) -> None:
    """Raises ValueError for numbers that no export makes: integers out of range, tables out of order, floats that are
    not finite."""
    layers = {name: module for name, module in codec.named_modules() if isinstance(module, _Weighted)}
    for name, layer in layers.items():
        _check_layer(name, layer)
    for name, tensor in codec.state_dict().items():
        if tensor.is_floating_point():
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"tensor {name!r}: expected finite numbers")
        elif name.rpartition(".")[0] not in layers:
            _check_table(name, tensor)


def check_frequencies(name: str, table: Tensor) -> None:
    """Raises ValueError unless the rows of a table are frequencies: each at least 1, their sum 65536."""
    if int(table.min()) < 1 or bool((table.sum(-1, dtype=torch.int64) != TOTAL).any()):
        raise ValueError(f"tensor {name!r}: expected frequencies from 1 whose sum is {TOTAL}")


def _check_layer(name: str, layer: _Weighted) -> None:
    """Sums of products and bias must stay below 2**53, whatever the inputs."""
    shift = int(layer.shift)
    if not 0 <= shift <= MAX_SHIFT:
        raise ValueError(f"tensor '{name}.shift': expected 0..{MAX_SHIFT}, found {shift}")
    _within(f"{name}.weight", layer.weight, -(2**15) + 1, 2**15 - 1)
    _within(f"{name}.bias", layer.bias, -EXACT_BOUND, EXACT_BOUND)
    sums = layer.weight.flatten(1).to(torch.int32).abs().sum(1, dtype=torch.int64)
    if layer.bias.shape != sums.shape or int((sums * INPUT_BOUND + layer.bias.abs()).max()) >= EXACT_BOUND:
        raise ValueError(f"tensor '{name}.bias': sums of the layer can reach 2^53")


def _check_table(name: str, table: Tensor) -> None:
    if table.dtype == torch.int16:
        _within(name, table, -(2**15) + 1, 2**15 - 1)
        return
    rule = _RANGES.get(_DIGITS.sub("", name.rpartition(".")[2]))
    if rule is None:
        return
    low, high, order = rule
    _within(name, table, low, high)
    if order and bool((table.diff() * order < 0).any()):
        raise ValueError(f"tensor {name!r}: expected numbers that {'rise' if order == RISING else 'fall'}")
    if order == FALLING and int(table[0]) == 0:
        raise ValueError(f"tensor {name!r}: expected a first number above 0")


def _within(name: str, tensor: Tensor, low: int, high: int) -> None:
    if tensor.numel():
        least, most = (int(value) for value in tensor.aminmax())
        if least < low or most > high:
            raise ValueError(f"tensor {name!r}: expected {low}..{high}, found {least}..{most}")
