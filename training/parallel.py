"""Training in several processes, one per GPU (or per core): each takes a part of every batch.

`torchrun --nproc-per-node N -m vqcodec.training RECIPE` starts them and tells each its rank by environment variables.
Gradients are averaged between them, so all hold the same weights at every step; the first one writes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

_SEEDS = 7_919  # between the ranks' random states


@dataclass(frozen=True)
class Group:
    """The processes of a training. rank: of this one; size: how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, order: Tensor) -> Tensor:
        """Part of a batch that this process takes, int64 [n]."""
        return order[self.rank :: self.size]

    def scatter_seeds(self, seed: int) -> None:
        """Give every process random numbers of its own; one alone keeps those it has."""
        if self.rank:
            torch.manual_seed(seed + _SEEDS * self.rank)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes (where all have the same ones)."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def agreed(self, value: Any) -> Any:
        """The first process's value."""
        return self.gathered(value)[0]


ALONE = Group()


def leave() -> None:
    """End the group, if there is one: processes that just exit may abort in its threads."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def join(device: str) -> tuple[Group, str]:
    """The group that torchrun started this process in (else of it alone), and the device that is its own."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    return Group(distributed.get_rank(), size), own
