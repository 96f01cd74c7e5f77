"""Steps of training as CUDA graphs: a whole step is launched at once, where small networks wait for their launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_EAGER_STEPS = 3  # of each kind before it is captured: they make the optimiser's state and choose kernels

Metrics = dict[str, Tensor]


class Captured:
    """A step that depends on nothing but tensors in fixed places and a phase; each phase gets a graph of its own."""

    def __init__(self, step: Callable[[Any, Tensor, float], Metrics]) -> None:
        """step: of images, their numbers int64 [B] (always as many), and a phase."""
        self._step = step
        self._eager: dict[float, int] = {}
        self._graphs: dict[float, tuple[torch.cuda.CUDAGraph, Metrics]] = {}
        self._numbers: Tensor | None = None
        self._stream = torch.cuda.Stream()

    def __call__(self, images: Any, numbers: Tensor, phase: float) -> Metrics:
        """One step on images, the same ones in every call; the metrics hold until the next one."""
        if self._numbers is None:
            self._numbers = numbers.clone()
        self._numbers.copy_(numbers)
        if self._eager.setdefault(phase, 0) < _EAGER_STEPS:
            self._eager[phase] += 1
            return self._aside(images, self._numbers, phase)
        if phase not in self._graphs:
            self._graphs[phase] = self._capture(images, self._numbers, phase)
        graph, metrics = self._graphs[phase]
        graph.replay()
        return metrics

    def _aside(self, images: Any, numbers: Tensor, phase: float) -> Metrics:
        """As it stands, but on a stream of its own, as capturing needs it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            metrics = self._step(images, numbers, phase)
        torch.cuda.current_stream().wait_stream(self._stream)
        return metrics

    def _capture(self, images: Any, numbers: Tensor, phase: float) -> tuple[torch.cuda.CUDAGraph, Metrics]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = self._step(images, numbers, phase)
        return graph, metrics
