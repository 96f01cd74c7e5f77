"""Steps that a GPU captures: what they may not do shows on a CPU too. The capture itself needs a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vqcodec.training.config import PhotoRecipe, Recipe, read_recipe
from vqcodec.training.data.photos import Photos
from vqcodec.training.loop import build_task

READS = ("_local_scalar_dense", "nonzero", "lift_fresh", "unique", "masked_select")
"""Operations by which the host waits for the device, or gives it something."""


class Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += [str(func)] if any(name in str(func) for name in READS) else []
        return func(*args, **(kwargs or {}))


def watched(recipe: Recipe, images: Tensor | Photos) -> list[str]:
    task = build_task(recipe)
    assert task.constant
    with Watch() as watch:
        for progress in (0.01, 0.9):
            loss, _ = task.loss(images[torch.arange(2)], 0, torch.tensor(progress))
            loss.backward()
    return [name for name in watch.found if "lift_fresh" not in name] + watch.found[2:]  # two are the progress above


def loose(task: nn.Module) -> list[str]:
    """Tensors of modules that do not move to a device with them, but for those that only decoders use."""
    held = [
        (f"{name}.{attribute}", value if isinstance(value, list | tuple) else [value])
        for name, module in task.named_modules()
        for attribute, value in vars(module).items()
        if attribute != "waves"
    ]
    return [name for name, values in held if any(isinstance(value, Tensor) for value in values)]


def test_the_host_is_not_asked(
    tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8], digits: NDArray[np.uint8]
) -> None:
    crops = Photos([torch.from_numpy(photo).permute(2, 0, 1)] * 2, 64)
    assert watched(tiny_photo_recipe, crops) == []
    assert watched(read_recipe("archive-mnist-binary-gpu"), torch.from_numpy(digits)) == []
    assert watched(read_recipe("lvae-mnist"), torch.from_numpy(digits)) == []


@pytest.mark.parametrize("name", ["archive-mnist-binary-gpu", "ladder-mnist-elbo", "ladder-mnist", "vq-mnist"])
def test_all_that_models_hold_moves_with_them(name: str) -> None:
    assert loose(build_task(read_recipe(name))) == []


def test_some_losses_change_from_step_to_step() -> None:
    for name in ("ladder-mnist", "archive-mnist", "vq-mnist", "vq-photo"):
        assert not build_task(read_recipe(name)).constant
