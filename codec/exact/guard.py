"""Networks compute the same whatever the host program has set, and leave what it has set as it is.

What belongs to the calling thread is put aside while we compute: autocast, the default device and other modes,
gradients, NumPy's handling of floating-point errors, the number of threads (`threads`). What belongs to the whole
process (default dtype, random state, deterministic algorithms) is neither used nor changed, since other threads live by
it; with one exception, `full_float32`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...bitstream.forks import Lock
from .threads import threads_for

P = ParamSpec("P")
R = TypeVar("R")

_DEVICES = ("cpu", "cuda")
_LEVELS = (("generic", "all"), ("mkldnn", "all"), ("mkldnn", "conv"), ("mkldnn", "matmul"))  # of float32's precision
_SHAPED = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
_RANDOM = (
    torch.rand, torch.randn, torch.randint, torch.randperm, Tensor.uniform_, Tensor.normal_,
    nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_,
)  # fmt: skip


def guarded(pixels: Callable[..., int], floats: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator of functions that compute without gradients, and are no generators.

    pixels(the function's arguments): how many go through the networks together. floats: whether some of it is float32,
    and has to be precise (`full_float32`)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            precise = full_float32() if floats else nullcontext()
            with _put_aside(pixels(*args, **kwargs)), precise, torch._C.DisableTorchFunction(), torch.inference_mode():
                return function(*args, **kwargs)

        return inside

    return decorate


@contextmanager
def building() -> Iterator[None]:
    """Context in which modules are made and loaded: parameters are float32, on the CPU, for inference and training
    alike, and initial values come from a generator of our own."""
    with _put_aside(0), torch.inference_mode(False), _Building():
        yield


@contextmanager
def _put_aside(pixels: int) -> Iterator[None]:
    """Context without what the host has set for this thread, but for modes."""
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(threads_for(pixels))
        yield


class _Building(TorchFunctionMode):
    """Gives functions the dtype and the generator that they would take from the process."""

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _SHAPED and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        if func in _RANDOM and kwargs.get("generator") is None:
            kwargs["generator"] = self._generator
        with torch._C.DisableTorchFunction():  # modes of the host
            return func(*args, **kwargs)


@contextmanager
def full_float32() -> Iterator[None]:
    """Context in which products of float32 keep all of its bits on the CPU, by oneDNN where torch has it.

    These settings are the whole process's, so they are touched only where the host has changed them, and set back when
    the last of our threads leaves."""
    with _full.lock.held():
        _full.enter()
    try:
        yield
    finally:
        with _full.lock.held():
            _full.leave()


class _FullFloat32:
    """What was set before the first thread came. Levels inherit from those before them, so they are looked at in order
    and set back in reverse."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._process, self._inside = os.getpid(), 0
        self._before: list[Callable[[], object]] = []

    def enter(self) -> None:
        """One thread more."""
        if self._process != os.getpid():  # a fork: threads that were inside are not here
            self._process, self._inside = os.getpid(), 0
        self._inside += 1
        if self._inside > 1:
            return
        if torch.backends.mkldnn.is_available() and not torch._C._get_mkldnn_enabled():
            self._before.append(partial(torch._C._set_mkldnn_enabled, False))
            torch._C._set_mkldnn_enabled(True)
        if hasattr(torch._C, "_set_fp32_precision_setter"):
            for level in _LEVELS:
                self._raise(level)
        elif (found := torch.get_float32_matmul_precision()) != "highest":  # torch before 2.9
            self._before.append(partial(torch.set_float32_matmul_precision, found))
            torch.set_float32_matmul_precision("highest")

    def leave(self) -> None:
        """One thread fewer."""
        self._inside -= 1
        while not self._inside and self._before:
            self._before.pop()()

    def _raise(self, level: tuple[str, str]) -> None:
        found = torch._C._get_fp32_precision_getter(*level)
        if found not in ("none", "ieee"):
            self._before.append(partial(torch._C._set_fp32_precision_setter, *level, found))
            torch._C._set_fp32_precision_setter(*level, "ieee")


_full = _FullFloat32()
