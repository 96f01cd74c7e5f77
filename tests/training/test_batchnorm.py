"""Re-estimated statistics of batch norm, on eight real digits."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.codec import weights_file
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.eval import gaussian
from vqcodec.training.batchnorm import reestimate
from vqcodec.training.config import LadderRecipe
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.export import export
from vqcodec.training.ladder import LadderTask
from vqcodec.training.loop import load_task


@pytest.fixture
def task(tiny_gaussian: Path, tiny_gaussian_recipe: LadderRecipe) -> LadderTask:
    """As training left it."""
    found, _ = load_task(tiny_gaussian_recipe, tiny_gaussian.parent)
    assert isinstance(found, LadderTask)
    return found.train()


@pytest.fixture
def certain(binary_digits: NDArray[np.uint8]) -> Tensor:
    """Digits of which every sample is the same."""
    return torch.from_numpy(binary_digits)


def norms_of(task: LadderTask) -> list[nn.BatchNorm2d]:
    return [module for module in task.modules() if isinstance(module, nn.BatchNorm2d)]


def state_of(task: LadderTask) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


@torch.no_grad()
def bottom_up_features(task: LadderTask, batch: Tensor) -> tuple[Tensor, Tensor]:
    """What both batch norms of the lowest level are given, [B, 32], when the first normalises by its batch."""
    first, norm, rectifier, second, *_ = task.model.inference.nets[0]
    lower = (batch > 0).float().flatten(1) @ first.weight.flatten(1).T + first.bias
    scaled = (lower - lower.mean(0)) / (lower.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    return lower, rectifier(scaled) @ second.weight.flatten(1).T + second.bias


@pytest.mark.parametrize(("size", "parts"), [
    (4, [(0, 4), (4, 8)]),
    (3, [(0, 3), (3, 6)]),  # what is left over would be a smaller batch, of other statistics
    (8, [(0, 8)]),
    (1000, [(0, 8)]),
])  # fmt: skip
def test_statistics_are_the_mean_of_those_of_the_batches(
    size: int, parts: list[tuple[int, int]], task: LadderTask, certain: Tensor
) -> None:
    features = [bottom_up_features(task, certain[a:b]) for a, b in parts]
    reestimate(task, certain, size)
    norms = (task.model.inference.nets[0][1], task.model.inference.nets[0][4])
    for norm, batches in zip(norms, zip(*features, strict=True), strict=True):
        # Sums of 784 float32 products near 1 are right to some 1e-6.
        expected = torch.stack([batch.mean(0) for batch in batches]).mean(0)
        torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
        expected = torch.stack([batch.var(0) for batch in batches]).mean(0)
        torch.testing.assert_close(norm.running_var, expected, rtol=1e-4, atol=1e-5)
    assert all(int(norm.num_batches_tracked) == len(parts) for norm in norms_of(task))


def test_every_norm_forgets_what_it_saw_in_training(task: LadderTask, certain: Tensor) -> None:
    spoilt = copy.deepcopy(task)
    for norm in norms_of(spoilt):
        norm.running_mean.fill_(7.0)
        norm.running_var.fill_(100.0)
        norm.num_batches_tracked.fill_(5)
    for one in (task, spoilt):
        reestimate(one, certain, 4)
    assert len(norms_of(task)) == 17  # two a level and direction, and one a head; the prior at the top has none
    for (name, one), other in zip(task.state_dict().items(), spoilt.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, msg=name)


def test_nothing_else_changes(task: LadderTask, certain: Tensor) -> None:
    before, state = state_of(task), torch.get_rng_state()
    reestimate(task, certain)
    assert torch.equal(torch.get_rng_state(), state)
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in before if name.endswith(statistics)}
    assert not any(module.training for module in task.modules())
    assert all(parameter.grad is None for parameter in task.parameters())


def test_statistics_do_not_hang_on_the_random_state(task: LadderTask, digits: NDArray[np.uint8]) -> None:
    """Grey pixels are sampled anew, with a seed of their own."""
    again = copy.deepcopy(task)
    for seed, one in enumerate((task, again)):
        torch.manual_seed(seed)
        reestimate(one, torch.from_numpy(digits), 4)
    for one, other in zip(task.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_models_without_batch_norm_stay_as_they_are(tiny_gaussian_recipe: LadderRecipe, certain: Tensor) -> None:
    plain = dataclasses.replace(tiny_gaussian_recipe.model, batch_norm=False)
    task = LadderTask(plain, tiny_gaussian_recipe.train)
    before, state = state_of(task), torch.get_rng_state()
    reestimate(task, certain)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert not any(module.training for module in task.modules())


@torch.no_grad()
def test_evaluation_is_nearer_to_training(tiny_gaussian_recipe: LadderRecipe, certain: Tensor) -> None:
    """After three steps the running averages are still mostly what they began with. What remains in one batch of all
    images is that evaluation divides by a variance of 8 / 7, three times a level."""
    torch.manual_seed(0)
    task = LadderTask(tiny_gaussian_recipe.model, tiny_gaussian_recipe.train)
    for step in range(3):
        task.loss(certain, step, 0.0)
    normalised = means(copy.deepcopy(task), certain)
    before = (means(task.eval(), certain) - normalised).norm()
    reestimate(task, certain)
    after = (means(task, certain) - normalised).norm()
    assert float(after) < 0.5 * float(before)


def means(task: LadderTask, images: Tensor) -> Tensor:
    """Means and log scales that the bottom-up pass gives for z_1."""
    inference = task.model.inference
    return torch.cat(inference.head(0, inference.up(0, (images[:, None] > 0).float()), 0), 1)


def test_export_stores_the_statistics_of_the_training_set(
    task: LadderTask, tiny_gaussian: Path, digits: NDArray[np.uint8]
) -> None:
    stored = weights_file.read_tensors(tiny_gaussian)
    lagging = LadderCodec(copy.deepcopy(task).eval().model).state_dict()
    reestimate(task, torch.from_numpy(digits))
    expected = LadderCodec(task.model).state_dict()
    assert all(torch.equal(stored[name], value) for name, value in expected.items())
    assert not all(torch.equal(stored[name], value) for name, value in lagging.items())


def test_exported_models_evaluate_as_the_trained_one(
    task: LadderTask, tiny_gaussian_recipe: LadderRecipe, digit_set: Dataset, tmp_path: Path
) -> None:
    """The task that `export` leaves behind, and the float model of the integers in its file: the same samples, KL."""
    path = export(task, tiny_gaussian_recipe, digit_set, tmp_path, steps=60)
    trained = torch.from_numpy(digit_set.images)
    found = []
    for model in (task.model, gaussian.load(str(path)).model):
        task.model = model
        torch.manual_seed(3)
        found.append(task.evaluate(trained))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    levels = {f"{what}_q0_z{level}" for what in ("kl", "active") for level in (1, 2, 3)}
    assert found[0].keys() == {"nats", "log_likelihood"} | levels
