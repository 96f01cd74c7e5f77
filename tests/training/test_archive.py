"""Training of Ladder VAEs whose pixels come in raster order, and their export as models of archives."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.codec import models, weights_file
from vqcodec.codec.ladder.bitsback import ArchiveCodec
from vqcodec.codec.ladder.causal import CausalPixels
from vqcodec.codec.ladder.config import LadderConfig
from vqcodec.codec.ladder.exact import FRAC_BITS
from vqcodec.codec.ladder.gaussian import MAX_STEP_LOG2
from vqcodec.codec.ladder.pixels import PixelStep
from vqcodec.training import precision
from vqcodec.training.batchnorm import reestimate
from vqcodec.training.config import LadderRecipe, LadderTrain
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.export import export
from vqcodec.training.ladder import LadderTask, pixel_nats, terms
from vqcodec.training.loop import load_task, train

LIKELIHOODS = ("bernoulli", "categorical")


@pytest.fixture
def images(digits: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(digits)


def config_of(recipe: LadderRecipe, likelihood: str, **changes: object) -> LadderConfig:
    return dataclasses.replace(recipe.model, likelihood=likelihood, **changes)


def task_of(config: LadderConfig, **schedule: object) -> LadderTask:
    torch.manual_seed(0)
    return LadderTask(config, LadderTrain(**{"precision": "float32", "kl_warmup": 0.0} | schedule))


# The likelihood


def test_nats_of_chosen_pixels_go_to_their_images() -> None:
    torch.manual_seed(0)
    chosen = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    scores, symbols = torch.randn(3, 1, 16), torch.tensor([[3], [0], [15]])
    found = pixel_nats(PixelStep(0, 1, scores, torch.arange(3), chosen), symbols)
    nats = -scores[:, 0].log_softmax(1)[torch.arange(3), symbols[:, 0]]
    torch.testing.assert_close(found, torch.stack([nats[0] + nats[1], torch.zeros(()), nats[2]]))


def test_no_chosen_pixels_take_no_nats() -> None:
    step = PixelStep(0, 1, torch.zeros(0, 1, 16), torch.arange(3), torch.zeros(4, 3, dtype=torch.bool))
    assert pixel_nats(step, torch.zeros(0, 1, dtype=torch.int64)).tolist() == [0.0] * 4


def test_nats_of_chosen_pixels_are_float32_at_least() -> None:
    chosen = torch.ones(1, 2, dtype=torch.bool)
    scores = torch.randn(2, 1, 16)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        step = PixelStep(0, 1, scores.to(dtype), torch.arange(2), chosen)
        assert pixel_nats(step, torch.zeros(2, 1, dtype=torch.int64)).dtype == expected


@torch.no_grad()
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_likelihood_is_that_of_the_waves(
    likelihood: str, tiny_archive_recipe: LadderRecipe, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training takes all pixels at once."""
    model = task_of(config_of(tiny_archive_recipe, likelihood)).eval().model
    values = images.long() if likelihood == "categorical" else (images > 100).long()
    pixels = model.generative.pixels
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    found = terms(model, values).log_likelihood
    walk, patches = pixels.walk, pixels.to_patches(values)
    monkeypatch.setattr(pixels, "walk", lambda context, known: walk(context))
    in_waves = terms(model, values).log_likelihood
    assert found is not None
    assert in_waves is not None
    torch.testing.assert_close(found, in_waves, rtol=1e-5, atol=1e-3)  # float32 sums of up to 5,000 nats
    assert patches.shape == (8, 784)
    assert len(found.unique()) == 8


@torch.no_grad()
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_rows_go_sample_by_sample(
    likelihood: str, tiny_archive_recipe: LadderRecipe, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = task_of(config_of(tiny_archive_recipe, likelihood)).eval().model
    values = images[:3].long() if likelihood == "categorical" else (images[:3] > 100).long()
    noisy = terms(model, values, samples=2).log_weights().view(2, 3)
    assert bool((noisy[0] != noisy[1]).all())
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    one, many = (terms(model, values, samples=samples).log_likelihood for samples in (1, 4))
    assert one is not None
    assert many is not None
    torch.testing.assert_close(many, one.repeat(4), rtol=1e-5, atol=1e-3)


# Training


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_few_steps_lower_the_loss(likelihood: str, tiny_archive_recipe: LadderRecipe, images: Tensor) -> None:
    task = task_of(config_of(tiny_archive_recipe, likelihood))
    optimiser = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(12):
        loss, metrics = task.loss(images, step, 1.0)
        assert metrics.keys() == {"nats", "kl", "log_likelihood"}
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_reach_every_parameter_that_learns(
    likelihood: str, tiny_archive_recipe: LadderRecipe, images: Tensor
) -> None:
    task = task_of(config_of(tiny_archive_recipe, likelihood))
    task.loss(images, 0, 1.0)[0].backward()
    learning = {name: p for name, p in task.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in learning.values())
    grouped = {id(p) for group in task.parameter_groups() for p in group.parameters if p.requires_grad}
    assert grouped == {id(p) for p in learning.values()}
    fixed = {name for name, p in task.named_parameters() if not p.requires_grad}
    assert fixed == {"model.generative.top.weight", "model.generative.pixels.seen.weight"}


def test_training_does_not_move_how_pixels_are_seen(tiny_archive: Path, tiny_archive_recipe: LadderRecipe) -> None:
    trained, _ = load_task(tiny_archive_recipe, tiny_archive.parent)
    assert isinstance(trained, LadderTask)
    pixels = trained.model.generative.pixels
    assert isinstance(pixels, CausalPixels)
    assert torch.equal(pixels.seen.weight, CausalPixels(tiny_archive_recipe.model).seen.weight)


def test_training_lowers_the_nats(tiny_archive: Path, tiny_archive_recipe: LadderRecipe, images: Tensor) -> None:
    new = task_of(tiny_archive_recipe.model).eval().evaluate(images)
    trained, _ = load_task(tiny_archive_recipe, tiny_archive.parent)
    reestimate(trained, images)
    values = trained.evaluate(images)
    assert values["nats"] < new["nats"] / 2
    assert {f"kl_q0_z{level}" for level in (1, 2)} < values.keys()


def test_resume_is_bit_for_bit(tiny_archive_recipe: LadderRecipe, images: Tensor, tmp_path: Path) -> None:
    schedule = dataclasses.replace(tiny_archive_recipe.train, epochs=2, batch_size=4)
    recipe = dataclasses.replace(tiny_archive_recipe, train=schedule)
    whole = train(recipe, images, tmp_path / "whole")
    assert whole is not None
    steps = 0
    while (parts := train(recipe, images, tmp_path / "parts", resume=steps > 0, max_seconds=-1)) is None:
        steps += 1
    assert steps == 3
    assert all(torch.equal(one, other) for one, other in zip(whole.state_dict().values(), parts.state_dict().values()))  # noqa: B905


def test_statistics_are_measured_without_the_pixels(
    tiny_archive_recipe: LadderRecipe, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The perceptron has no batch norm, and is most of the work."""
    task = task_of(tiny_archive_recipe.model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in task.model.generative.pixels.modules())

    def never(*_: object) -> None:
        raise AssertionError("pixels were visited")

    monkeypatch.setattr(CausalPixels, "walk", never)
    before = task.model.inference.nets[0][1].running_mean.clone()
    reestimate(task, images)
    assert not torch.equal(task.model.inference.nets[0][1].running_mean, before)


# Precision


@pytest.mark.parametrize(("wanted", "device", "instructions", "enabled"), [
    ("float32", "cpu", True, False), ("bf16", "cpu", True, True), ("bf16", "cpu", False, False),
    ("float32", "cuda", False, False), ("bf16", "cuda", False, True),
])  # fmt: skip
def test_bf16_needs_instructions(
    wanted: str, device: str, instructions: bool, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: instructions, raising=False)
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: asked.append((kind, dtype, enabled)))
    precision.products(torch.device(device), wanted)
    assert asked == [(device, torch.bfloat16, enabled)]


def test_one_kind_of_instructions_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    with precision.products(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    for name in ("avx512_bf16", "amx_tile"):  # of other versions of PyTorch
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported")
    with precision.products(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


# Export


def test_export_chooses_grids_by_the_posteriors(
    tiny_archive: Path, tiny_archive_recipe: LadderRecipe, digit_set: Dataset
) -> None:
    """Measured on the finest grid, a step is the power of two nearest to the mean standard deviation, in logs."""
    trained, _ = load_task(tiny_archive_recipe, tiny_archive.parent)
    assert isinstance(trained, LadderTask)
    reestimate(trained, torch.from_numpy(digit_set.images))
    scales = ArchiveCodec(trained.model).posterior_log_scales(digit_set.images)
    stored = weights_file.read_tensors(tiny_archive)
    for level, scale in enumerate(scales):
        steps = stored[f"archive.steps{level}"]
        expected = (scale / math.log(2) + FRAC_BITS).clamp(0, MAX_STEP_LOG2)
        assert steps.dtype == torch.int64
        assert 0 <= int(steps.min()) <= int(steps.max()) <= MAX_STEP_LOG2
        assert float((steps - expected).abs().max()) <= 0.5


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_exported_files_are_models_of_archives(
    likelihood: str, tiny_archive_recipe: LadderRecipe, digit_set: Dataset, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(tiny_archive_recipe, name="a", model=config_of(tiny_archive_recipe, likelihood))
    task = task_of(recipe.model)
    paths = [export(task, recipe, digit_set, tmp_path / name, steps=0) for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = models.load(str(paths[0]), archive=True)
    assert isinstance(found.codec, ArchiveCodec)
    assert models.packs(found.description)
    assert found.description.config["context"] == 2
    card = paths[0].with_suffix(".md").read_text()
    assert f"Gaussian; {likelihood} pixels (for archives; cannot code single images)" in card
    # What it packs takes about what the float model says: of the same expectation, with 2 % for fixed point and grids.
    images = (
        np.where(digit_set.images > 0, np.uint8(255), np.uint8(0)) if likelihood == "bernoulli" else digit_set.images
    )
    nats = task.evaluate(torch.from_numpy(images))["nats"]
    bits = found.codec.cost_bits(images).mean()
    assert bits == pytest.approx(nats / math.log(2), rel=0.02, abs=20)


def test_gaussian_models_in_stages_are_still_for_measuring(
    tiny_gaussian_recipe: LadderRecipe, digit_set: Dataset, tmp_path: Path
) -> None:
    path = export(task_of(tiny_gaussian_recipe.model), tiny_gaussian_recipe, digit_set, tmp_path, steps=0)
    assert not models.packs(weights_file.describe(path))
    assert "(for measuring; cannot code single images)" in path.with_suffix(".md").read_text()
