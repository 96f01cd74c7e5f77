"""Steps of training as a CUDA graph: a whole step is launched at once, where small networks wait for their launches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_EAGER_STEPS = 3  # before the capture: they make the optimiser's state and choose kernels

Metrics = dict[str, Tensor]


class Captured:
    """A step that reads nothing from the host but its arguments, which are copied to fixed places on the device."""

    def __init__(self, step: Callable[[Tensor, Tensor], Metrics]) -> None:
        """step: of numbers int64 [B] of images, always as many, and the progress, 0..1 (0-d)."""
        self._step = step
        self._stream = torch.cuda.Stream()
        self._progress = torch.zeros((), device="cuda")
        self._numbers: Tensor | None = None
        self._eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._metrics: Metrics = {}

    def __call__(self, numbers: Tensor, progress: float) -> Metrics:
        """One step; the metrics hold until the next one."""
        if self._numbers is None:
            self._numbers = torch.empty_like(numbers)
        self._numbers.copy_(numbers)
        self._progress.fill_(progress)
        if self._eager < _EAGER_STEPS:
            self._eager += 1
            return self._aside(self._numbers)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._metrics = self._step(self._numbers, self._progress)
        self._graph.replay()
        return self._metrics

    def _aside(self, numbers: Tensor) -> Metrics:
        """As it stands, but on a stream of its own, as a later capture needs it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            metrics = self._step(numbers, self._progress)
        torch.cuda.current_stream().wait_stream(self._stream)
        return metrics
