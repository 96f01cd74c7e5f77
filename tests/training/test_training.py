"""Recipes, the training loop and export, on eight real digits and eight real characters."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.bitstream.errors import VqcodecError
from vqcodec.cli import main
from vqcodec.codec import models, weights_file
from vqcodec.codec.config import ConfigError
from vqcodec.codec.images import psnr_db
from vqcodec.codec.vq.config import Level, VQConfig
from vqcodec.training.config import Recipe, TrainConfig, VQRecipe, VQTrain, read_recipe
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.export import export
from vqcodec.training.loop import Progress, _learning_rate, _Run, load_task, train
from vqcodec.training.vq import VQTask

PACKAGED = tuple(models.BUILT_IN.values())
MINIMAL = (
    'family = "vq"\nname = "a"\ndata = "mnist"\nnote = ""\n'
    "[model]\nlevels = [{ codes = 16 }]\n[train]\nrate_bits = [50]\n"
)


def changed(recipe: Recipe, **train_values: object) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train_values))


@pytest.fixture
def short(tiny_recipe: Recipe) -> Recipe:
    """6 steps: 3 epochs of two batches of four digits."""
    return changed(tiny_recipe, epochs=3, batch_size=4)


@pytest.fixture
def images(digits: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(digits)


# Recipes


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipes(name: str) -> None:
    recipe = read_recipe(name)
    assert (recipe.name, recipe.family) == (name, name.split("-")[0])
    assert recipe.data in datasets.NAMES
    assert recipe.model.image_size == 28


def test_minimal_recipe_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(MINIMAL)
    expected = VQRecipe("a", "mnist", "", VQConfig(levels=(Level(codes=16),)), VQTrain(rate_bits=(50.0,)))
    assert read_recipe(path) == expected


@pytest.mark.parametrize(("text", "message"), [
    (MINIMAL + "speed = 3\n", "unknown key 'speed'"),
    (MINIMAL.replace("codes", "codez"), "unknown key 'codez'"),
    ("colour = 1\n" + MINIMAL, "unknown key 'colour'"),
    (MINIMAL + 'seed = "one"\n', "train.seed: expected int, found 'one'"),
    (MINIMAL + "seed = true\n", "train.seed: expected int, found True"),
    (MINIMAL + "learning_rate = false\n", "train.learning_rate: expected float, found False"),
    (MINIMAL.replace('"mnist"', "3"), "data: expected str, found 3"),
    (MINIMAL.replace('note = ""\n', ""), "note"),
    (MINIMAL + "epochs = 0\n", "epochs, batch_size, warmup_steps and evaluate_every"),
    (MINIMAL + "batch_size = 0\n", "epochs, batch_size, warmup_steps and evaluate_every"),
    (MINIMAL + 'precision = "fp8"\n', "precision"),
    (MINIMAL + 'schedule = "linear"\n', "schedule must be 'cosine', 'constant' or 'steps', found 'linear'"),
    (MINIMAL.replace("[50]", "[50, 60]"), "rate_bits needs one entry per level"),
    (MINIMAL.replace("codes = 16", "codes = 1"), "codes must be in 2..32768"),
    (MINIMAL.replace("codes = 16", "stride = 0"), "stride"),
    (MINIMAL.replace("codes = 16", "stages = [64, 2]"), "stages must increase"),
    (MINIMAL.replace("[{ codes = 16 }]", "[]").replace("[50]", "[]"), "1 to 4 levels"),
    (MINIMAL.replace("[model]", "[model]\nimage_size = 30"), "multiple of 4"),
    (MINIMAL.replace("[model]", '[model]\ncodebook = "none"'), "codebook"),
    (MINIMAL.replace('"vq"', '"gan"', 1), "photo-vq, photo-lossless, found 'gan'"),
    (MINIMAL.replace('family = "vq"', ""), "photo-vq, photo-lossless, found None"),
    ("name = \n", "cannot read recipe"),
    ("name = '\udcff'\n", "cannot read recipe"),
])  # fmt: skip
def test_bad_recipes(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        read_recipe(path)


@pytest.mark.parametrize("name", ["nowhere.toml", "no-such-recipe", "folder/recipe"])
def test_missing_recipe(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read recipe") as caught:
        read_recipe(name)
    assert isinstance(caught.value, VqcodecError)  # one line on the command line


# The loop


def checkpoint(folder: Path) -> dict[str, object]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_identical(a: object, b: object) -> None:
    """Same structure, and tensors equal bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_identical(one, other)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def test_resume_is_bit_for_bit(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path / "whole")
    steps = 0
    while train(short, images, tmp_path / "parts", resume=steps > 0, max_seconds=-1) is None:
        steps += 1
        assert checkpoint(tmp_path / "parts")["step"] == steps  # stopped after every single step, in mid-epoch too
    assert steps == 5
    assert_identical(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))


def test_runs_are_deterministic_and_seeded(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(changed(short, seed=seed), images, tmp_path / name)
    first, second, other = (checkpoint(tmp_path / name)["task"] for name in "abc")
    assert_identical(first, second)
    assert not torch.equal(first["model.encoder.1.weight"], other["model.encoder.1.weight"])


def test_without_resume_a_run_starts_anew(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path, max_seconds=-1)
    train(short, images, tmp_path, max_seconds=-1)
    assert checkpoint(tmp_path)["step"] == 1


def test_resume_of_another_recipe_is_refused(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path, max_seconds=-1)
    with pytest.raises(ConfigError, match="another recipe"):
        train(changed(short, seed=1), images, tmp_path, resume=True)
    renoted = dataclasses.replace(short, note="the note alone may change")
    assert train(renoted, images, tmp_path, resume=True) is not None


def test_images_of_another_size_are_refused(short: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes images of 28 x 28 pixels"):
        train(short, torch.zeros(8, 32, 32, dtype=torch.uint8), tmp_path)


def test_metrics_and_progress(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(short, images, tmp_path, validation=images, report=seen.append)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated, trained = [row for row in rows if "val_bits1" in row], [row for row in rows if "loss" in row]
    assert [row["step"] for row in validated] == [2, 4, 6]
    assert {"val_bits2", "val_psnr_db1", "val_psnr_db2", "val_used1", "val_used2"} < validated[0].keys()
    assert all(row["val_bits1"] < row["val_bits2"] for row in validated)
    assert [row["step"] for row in trained] == [6]
    assert {"sse", "commitment", "bits1", "bits2", "rd_weight1", "rd_weight2"} < trained[0].keys()
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert [(progress.step, progress.steps) for progress in seen] == [(6, 6)]
    assert seen[0].metrics["loss"] == pytest.approx(trained[0]["loss"], abs=1e-6)  # the file has 6 decimals


def test_resumed_metrics_are_appended(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    train(short, images, tmp_path, validation=images, max_seconds=-1)
    train(short, images, tmp_path, validation=images, max_seconds=-1, resume=True)
    train(short, images, tmp_path, validation=images, resume=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_bits1" in row] == [2, 4, 6]


def test_a_run_may_start_from_the_weights_of_another(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    """Fine-tuning: its recipe may train in another way, but its model is the same."""
    first = train(short, images, tmp_path / "a")
    assert first is not None
    still = changed(short, learning_rate=1e-12, epochs=1)  # far below what changes a float32 weight
    tuned = train(still, images, tmp_path / "b", init=tmp_path / "a")
    assert tuned is not None
    learned = [name for name, p in first.named_parameters() if p.requires_grad]  # codebooks follow means of latents
    assert all(
        torch.allclose(tuned.state_dict()[name], first.state_dict()[name], rtol=0, atol=1e-10) for name in learned
    )
    other = dataclasses.replace(short, model=dataclasses.replace(short.model, width=8))
    with pytest.raises(ConfigError, match="is of another model"):
        train(other, images, tmp_path / "c", init=tmp_path / "a")
    with pytest.raises(ConfigError, match="no checkpoint .*nowhere"):
        train(short, images, tmp_path / "d", init=tmp_path / "nowhere")


def test_two_processes_do_not_train_in_one_folder(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process trains in"):
            train(short, images, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert train(short, images, tmp_path) is not None


def test_bfloat16(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    task = train(changed(short, precision="bf16"), images, tmp_path)
    assert task is not None
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}


def test_load_task(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_task(short, tmp_path)
    trained = train(short, images, tmp_path)
    assert trained is not None
    task, steps = load_task(short, tmp_path)
    assert steps == 6
    assert not task.training
    assert_identical(dict(task.state_dict()), dict(trained.state_dict()))


def test_loss_decreases_on_digits(tiny_recipe: Recipe, images: Tensor, tmp_path: Path) -> None:
    task = train(tiny_recipe, images, tmp_path, validation=images)
    assert task is not None
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    psnr = [row["val_psnr_db2"] for row in rows if "val_psnr_db2" in row]
    assert len(psnr) == 40
    # A black image has a PSNR of about 10 dB on these digits; a network that learns passes it by far.
    assert psnr[0] < 13
    assert psnr[-1] > 16


# The task


def task_of(recipe: Recipe, **model_values: object) -> VQTask:
    torch.manual_seed(0)
    return VQTask(dataclasses.replace(recipe.model, **model_values), recipe.train)


@pytest.mark.parametrize(("target", "sign"), [(1.0, 1), (1e4, -1)])
def test_rate_controller_moves_weights_towards_the_target(
    target: float, sign: int, tiny_recipe: Recipe, images: Tensor
) -> None:
    task = task_of(changed(tiny_recipe, rate_bits=(target, target), rate_start=0.5))
    task.rd_weights.fill_(0.1)
    task.loss(images, step=1, progress=0.4)
    assert torch.equal(task.rd_weights, torch.full((2,), 0.1))  # before rate_start
    for step in range(2, 22):
        task.loss(images, step, progress=0.6)
    # A new prior is uniform: 49 indices of 4 bits, above the one target and below the other.
    assert bool(((task.rd_weights - 0.1) * sign > 0.01).all())


def test_rate_weights_stay_in_range(tiny_recipe: Recipe, images: Tensor) -> None:
    task = task_of(changed(tiny_recipe, rate_bits=(1.0, 1.0)))
    task.rd_weights.fill_(1.999)
    task.loss(images, step=1, progress=0.9)
    assert torch.equal(task.rd_weights, torch.full((2,), 2.0))


def test_evaluation_changes_nothing(tiny_recipe: Recipe, images: Tensor) -> None:
    task = task_of(tiny_recipe).eval()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    first = task.evaluate(images)
    assert task.evaluate(images, batch_size=3) == pytest.approx(first, rel=1e-5)  # float32 sums in another order
    assert_identical({**task.state_dict()}, before)


def test_restarted_codes_lie_on_vectors_of_the_batch(tiny_recipe: Recipe) -> None:
    quantiser = task_of(tiny_recipe).model.quantiser
    vectors = torch.randn(2, 49, 4)
    quantiser.count0[:] = 1.0
    quantiser.count0[[3, 7]] = 0.01
    before = quantiser.codebooks[0].detach().clone()
    assert quantiser.restart(0, vectors, 0.02) == 2
    after = quantiser.codebooks[0].detach()
    alive = torch.ones(16, dtype=torch.bool)
    alive[[3, 7]] = False
    assert torch.equal(after[alive], before[alive])
    for code in (3, 7):
        assert bool((vectors.flatten(0, 1) == after[code]).all(1).any())
        assert torch.equal(quantiser.total0[code], after[code])
        assert quantiser.count0[code] == 1
    assert quantiser.restart(0, vectors, 0.02) == 0


def test_restarts_keep_codes_in_use(tiny_recipe: Recipe, images: Tensor) -> None:
    """A codebook far from every vector has one code in use; restarts bring others into use, until `restart_until`."""
    used = {}
    for until in (0.0, 1.0):
        task = task_of(changed(tiny_recipe, restart_until=until, restart_below=0.5, rate_start=1.0))
        with torch.no_grad():
            for name in ("model.quantiser.total0", "model.quantiser.codebooks.0"):
                task.get_buffer(name).add_(50) if "total" in name else task.get_parameter(name).add_(50)
        for step in range(1, 101):
            task.loss(images, step, progress=0.5)
        used[until] = task.eval().evaluate(images)["used1"]
    assert used[0.0] < 0.5 < used[1.0]


def test_ema_codebook_moves_to_the_mean_of_its_vectors(tiny_recipe: Recipe) -> None:
    quantiser = task_of(tiny_recipe).model.quantiser
    vectors, index = torch.randn(1, 49, 4), torch.full((1, 49), 5)
    for _ in range(2000):  # 0.99 ** 2000 < 1e-8 of the old value remains
        quantiser.update(0, vectors, index)
    assert torch.allclose(quantiser.codebooks[0][5], vectors.mean((0, 1)), atol=1e-5)  # float32, and epsilon 1e-5 / 49


def test_gradient_codebook_learns_from_its_loss_alone(tiny_recipe: Recipe, images: Tensor) -> None:
    gradient, ema = task_of(tiny_recipe, codebook="gradient"), task_of(tiny_recipe)
    loss, _ = gradient.loss(images, step=1, progress=0.5)
    loss.backward()
    for table in gradient.model.quantiser.codebooks:
        assert table.grad is not None
        assert float(table.grad.abs().sum()) > 0
    assert not any(table.requires_grad for table in ema.model.quantiser.codebooks)
    names = {id(parameter) for group in ema.parameter_groups() for parameter in group.parameters}
    assert names == {id(parameter) for parameter in ema.parameters() if parameter.requires_grad}


# Export


CONFIGURATIONS = {
    "gradient": ({"codebook": "gradient"}, (16, 16), (1, 1)),
    "hierarchical": ({}, (16, 16), (2, 1)),
    "single": ({}, (32,), (1,)),
    "unequal": ({}, (8, 32, 5), (4, 2, 1)),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_train_and_round_trip(
    name: str, tiny_recipe: Recipe, digit_set: Dataset, characters: NDArray[np.uint8], tmp_path: Path
) -> None:
    values, codes, strides = CONFIGURATIONS[name]
    levels = tuple(Level(codes=k, stride=s, stages=(8, 64)) for k, s in zip(codes, strides, strict=True))
    recipe = dataclasses.replace(
        tiny_recipe,
        model=dataclasses.replace(tiny_recipe.model, levels=levels, **values),
        train=dataclasses.replace(tiny_recipe.train, epochs=3, rate_bits=(60.0,) * len(levels)),
    )
    task = train(recipe, torch.from_numpy(digit_set.images), tmp_path)
    assert task is not None
    codec = models.load(str(export(task, recipe, digit_set, tmp_path, steps=3))).codec
    for count in range(1, len(levels) + 1):
        for images in (digit_set.images, characters):
            payloads, indices = codec.encode(images, count)
            assert [index.shape[1] for index in indices] == [math.ceil(7 / stride) ** 2 for stride in strides]
            decoded = codec.decode_indices(payloads, count)
            assert all(torch.equal(a, b) for a, b in zip(indices[:count], decoded[:count], strict=True))
            assert np.array_equal(codec.decode(payloads, count), codec.reconstruct(indices, count))


def test_export_is_deterministic(short: Recipe, digit_set: Dataset, tmp_path: Path) -> None:
    task = train(short, torch.from_numpy(digit_set.images), tmp_path)
    assert task is not None
    paths = [export(task, short, digit_set, tmp_path / name, steps=6) for name in ("a", "b")]
    reloaded, steps = load_task(short, tmp_path)
    paths.append(export(reloaded, short, digit_set, tmp_path / "c", steps))
    for suffix in (".safetensors", ".md"):
        assert len({path.with_suffix(suffix).read_bytes() for path in paths}) == 1


def test_description_and_card(tiny_model: Path, tiny_recipe: Recipe, digit_set: Dataset) -> None:
    described = weights_file.describe(tiny_model)
    assert (described.name, described.family) == ("tiny", "vq")
    assert described.recipe["train"]["learning_rate"] == 1e-2
    assert described.results["steps"] == 40
    card = " ".join(tiny_model.with_suffix(".md").read_text().split())
    assert card.startswith("# tiny - **Family**")
    for fact in ("2 residual levels", "28 x 28", digit_set.description, "8 images", digit_set.licence, "40 steps of 8",
                 "seed 0", weights_file.sha256(tiny_model).hex(), '"latent_dim": 4', "vqcodec eval tiny"):  # fmt: skip
        assert fact in card


def test_psnr_floor_is_below_every_training_image(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    codec = models.load(str(tiny_model)).codec
    for levels, floor in enumerate(codec.psnr_floor.tolist(), 1):
        error = codec.reconstruct(codec.encode(digits, levels)[1], levels).astype(int) - digits
        worst = min(psnr_db(int(square), 784) for square in (error**2).sum((1, 2)))
        # The 0.1 % quantile of eight values lies within 0.01 dB of the worst here; then 1 dB is taken off.
        assert worst - 1.01 <= floor <= worst - 0.9


def test_fixed_point_costs_little(tiny_recipe: Recipe, digit_set: Dataset, tmp_path: Path) -> None:
    images = torch.from_numpy(digit_set.images)
    task = train(tiny_recipe, images, tmp_path)
    assert task is not None
    float_bits = task.eval().evaluate(images)["bits2"]
    codec = models.load(str(export(task, tiny_recipe, digit_set, tmp_path, steps=40))).codec
    payloads, _ = codec.encode(digit_set.images, 2)
    bits = 8 * sum(map(len, payloads)) / len(payloads)
    # A stream ends within a byte; indices that flip between near-equal codes move the rest by a few bits.
    assert float_bits - 0.03 * float_bits < bits < float_bits * 1.03 + 8


def test_train_command(digit_set: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._LOADERS, "digits8", lambda split, folder: digit_set)
    recipe = tmp_path / "a.toml"
    recipe.write_text(
        'family = "vq"\nname = "small"\ndata = "digits8"\nnote = ""\n'
        "[model]\nwidth = 8\nprior_width = 8\nlevels = [{ codes = 8 }]\n"
        "[train]\nepochs = 3\nbatch_size = 8\nrate_bits = [50.0]\n"
    )
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    stopped = CliRunner().invoke(main, [*arguments, "--max-seconds", "0"])
    assert stopped.exit_code == 0, stopped.output
    assert stopped.stdout == "stopped before the end; continue with --resume\n"
    finished = CliRunner().invoke(main, [*arguments, "--resume"])
    assert finished.exit_code == 0, finished.output
    path = Path(finished.stdout.strip())
    assert path == tmp_path / "run" / "small.safetensors"
    assert "3/3 " in finished.stderr
    description = weights_file.describe(path)
    assert description.results["steps"] == 3
    assert description.recipe["data"] == "digits8"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, tiny_recipe: Recipe, digits: np.ndarray) -> None:
    for content in (b"", b"nonsense", b"PK\x03\x04" + bytes(100)):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(ConfigError, match="is damaged and cannot be resumed"):
            train(tiny_recipe, torch.from_numpy(digits), tmp_path, resume=True)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"precious")
    result = CliRunner().invoke(main, ["train", "vq-mnist", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "--resume" in result.output
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"precious"


# The learning rate


@pytest.mark.parametrize(("schedule", "step", "epoch", "factor"), [
    ("cosine", 9, 0, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 9 / 1000))), ("cosine", 500, 3, 0.505),
    ("cosine", 1000, 7, 0.01),
    ("constant", 0, 0, 0.1), ("constant", 4, 0, 0.5), ("constant", 9, 0, 1.0), ("constant", 999, 5000, 1.0),
    ("steps", 4, 0, 0.5), ("steps", 500, 0, 1.0), ("steps", 500, 199, 1.0), ("steps", 500, 200, 0.75),
    ("steps", 500, 399, 0.75), ("steps", 500, 400, 0.75**2), ("steps", 4, 1999, 0.5 * 0.75**9),
])  # fmt: skip
def test_learning_rates(schedule: str, step: int, epoch: int, factor: float) -> None:
    config = TrainConfig(learning_rate=3e-4, warmup_steps=10, schedule=schedule)
    assert _learning_rate(config, step, 1000, epoch) == pytest.approx(3e-4 * factor)


def test_the_loop_counts_epochs(tiny_recipe: Recipe, images: Tensor) -> None:
    run = _Run(changed(tiny_recipe, schedule="steps"), "cpu", steps_per_epoch=2)
    for step, factor in ((399, 1.0), (400, 0.75), (801, 0.75**2)):
        run.step = step
        run.advance(images, torch.arange(len(images)))
        assert run.optimiser.param_groups[0]["lr"] == pytest.approx(1e-2 * factor * run.groups[0].rate)


def test_gradients_may_stay_unclipped(short: Recipe, images: Tensor, tmp_path: Path) -> None:
    for clip in (math.inf, 1e9, 1e-3):
        train(changed(short, grad_clip=clip), images, tmp_path / str(clip))
    unclipped, far, near = (checkpoint(tmp_path / str(clip))["task"] for clip in (math.inf, 1e9, 1e-3))
    assert_identical(unclipped, far)
    assert not torch.equal(unclipped["model.encoder.1.weight"], near["model.encoder.1.weight"])
