"""Training of photograph models: in one process, in two, and on from a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vqcodec.codec import models
from vqcodec.codec.config import ConfigError
from vqcodec.training import loop
from vqcodec.training.config import PhotoRecipe, read_recipe
from vqcodec.training.data.datasets import DataError
from vqcodec.training.data.photos import Photos, load_photos
from vqcodec.training.ladder import rate
from vqcodec.training.loop import Progress, load_task, train
from vqcodec.training.photo import PhotoTask, _nats, at_least, terms

ROOT = Path(__file__).parents[2]


def photos(photo: NDArray[np.uint8], count: int = 4) -> Photos:
    return Photos([torch.from_numpy(photo).permute(2, 0, 1)] * count, 64)


@pytest.fixture
def data(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    """A folder of data sets with six photographs, one too small."""
    for number in range(6):
        folder = tmp_path / "data" / "photos" / ("bsds" if number % 2 else "coco")
        folder.mkdir(parents=True, exist_ok=True)
        side = 40 if number == 5 else 128
        Image.fromarray(np.roll(photo, 7 * number, 1)[:, :side]).save(folder / f"{number}.png")
    return tmp_path / "data"


RECIPE = """
family = "photo"
name = "two"
data = "photos"
note = "for tests"

[model]
width = 8
analysis_blocks = 1
synthesis_blocks = 1
fine_width = 8
fine_blocks = 0
levels = [
    { stride = 16, latents = 4, width = 8, blocks = 0 },
    { stride = 8, latents = 12, width = 8, blocks = 1 },
]

[train]
epochs = 4
batch_size = 2
crop = 64
precision = "float32"
watched = [50]
"""


def test_the_loss_falls(tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    losses: list[float] = []

    def watched(task: PhotoTask) -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(task.loss(photos(photo)[torch.arange(4)], 0, 0.0)[0])

    torch.manual_seed(tiny_photo_recipe.train.seed)
    losses.append(watched(PhotoTask(tiny_photo_recipe.model, tiny_photo_recipe.train)))
    task = train(tiny_photo_recipe, photos(photo), tmp_path)
    assert isinstance(task, PhotoTask)
    losses.append(watched(task))
    assert losses[1] < 0.8 * losses[0]


def test_training_in_pieces_is_training_in_one(
    tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    whole = train(tiny_photo_recipe, photos(photo), tmp_path / "whole")
    while (task := train(tiny_photo_recipe, photos(photo), tmp_path / "pieces", resume=True, max_seconds=0)) is None:
        pass
    assert whole is not None
    for a, b in zip(whole.parameters(), task.parameters(), strict=True):
        assert torch.equal(a, b)


def torchrun(arguments: list[str], data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"VQCODEC_DATA": str(data), "PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "vqcodec.training", *arguments], env=environment, capture_output=True, text=True, timeout=240
    )


def test_two_processes_train_one_model(data: Path, tmp_path: Path) -> None:
    """Stopped and continued; the weights are written once, and one process cannot go on where two were."""
    recipe = tmp_path / "two.toml"
    recipe.write_text(RECIPE)
    run = tmp_path / "run"
    stopped = torchrun([str(recipe), "--out", str(run), "--max-seconds", "0"], data)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("stopped before the end") == 1
    with pytest.raises(ConfigError, match="2 processes"):
        train(read_recipe(recipe), load_photos(64, data)[0], run, resume=True)
    ended = torchrun([str(recipe), "--out", str(run), "--resume"], data)
    assert ended.returncode == 0, ended.stderr
    task, steps = load_task(read_recipe(recipe), run)
    assert (steps, isinstance(task, PhotoTask)) == (8, True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [8]
    assert models.load(str(run / "two.safetensors")).photographs


def test_gradients_of_two_processes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\n"
        "from vqcodec.training.parallel import join\n"
        "group, device = join('cpu')\n"
        "torch.manual_seed(0)\n"
        "layer, x = torch.nn.Linear(3, 2), torch.randn(8, 3)\n"
        "layer(x[group.share(torch.arange(8))]).square().mean().backward()\n"
        "group.average_gradients(layer.parameters())\n"
        "found = [p.grad.clone() for p in layer.parameters()]\n"
        "layer.zero_grad()\n"
        "layer(x).square().mean().backward()\n"
        "assert all(torch.allclose(a, p.grad) for a, p in zip(found, layer.parameters()))\n"
        "assert group.gathered(group.rank) == [0, 1] and group.agreed(group.rank) == 0 and device == 'cpu'\n"
        "group.scatter_seeds(5)\n"
        "assert len({float(v) for v in group.gathered(torch.rand(()))}) == 2\n"
        "torch.distributed.destroy_process_group()\n"
        "import os; os._exit(0)\n"  # see training/__main__.py
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".links"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_rounded_latents_have_gradients(tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8]) -> None:
    task = PhotoTask(tiny_photo_recipe.model, tiny_photo_recipe.train)
    crops = photos(photo)[torch.arange(2)]
    found = terms(task.model, crops, torch.tensor([30.0, 90.0]), rounded=True)
    assert [bits.shape for bits in found.bits] == [(2,)] * 3
    assert found.x_hat.shape == crops.shape
    (found.bpp().sum() + found.x_hat.square().sum()).backward()
    assert float(task.model.analysis.linear.weight.grad.abs().sum()) > 0


def test_the_lower_bound_lets_values_rise_again() -> None:
    x = torch.tensor([-2.0, -2.0, 1.0, 1.0], requires_grad=True)
    at_least(x, 0.0).backward(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0.0, -1.0, 1.0, -1.0]


def test_photographs_are_read_and_some_held_out(data: Path) -> None:
    train_set, held_out = load_photos(64, data)
    assert (len(train_set), len(held_out)) == (4, 1)
    crops = train_set[torch.tensor([0, 3, 3])]
    assert (crops.shape, crops.dtype) == ((3, 3, 64, 64), torch.uint8)
    assert held_out.centres().shape == (1, 3, 64, 64)
    assert sum(map(len, load_photos(64, data, limit=3))) in (2, 3)  # without the small one


def test_missing_and_damaged_photographs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photographs"):
        load_photos(64, tmp_path / "nothing")
    (data / "photos" / "coco" / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.png"):
        load_photos(64, data)


def test_recipes_and_images_have_to_fit(tiny_photo_recipe: PhotoRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="photographs"):
        train(tiny_photo_recipe, torch.zeros(4, 28, 28, dtype=torch.uint8), tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text(RECIPE.replace("crop = 64", "crop = 60"))
    with pytest.raises(ConfigError, match="multiple of 16"):
        read_recipe(bad)
    assert read_recipe("ladder-photo").model.multiple == 64


def test_crops_are_parts_of_their_photographs() -> None:
    """Pixels that tell where they are: rows, columns, and which photograph."""
    sizes = [(80, 100), (64, 64), (70, 300)]
    places = [torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w) % 250, indexing="ij")) for h, w in sizes]
    images = [
        torch.cat([place, torch.full((1, *place.shape[1:]), number)]).to(torch.uint8)
        for number, place in enumerate(places)
    ]
    numbers = torch.arange(3).repeat(20)
    flips = 0
    for number, (rows, columns, which) in zip(numbers.tolist(), Photos(images, 64)[numbers].int(), strict=True):
        assert (which == number).all()
        assert (rows.diff(dim=0) == 1).all()
        assert (rows.diff(dim=1) == 0).all()
        steps = columns.diff(dim=1) % 250
        flips += int(steps[0, 0] == 249)
        assert (steps == steps[0, 0]).all()
        assert (columns.diff(dim=0) == 0).all()
    assert 10 < flips < 50
    assert Photos(images, 64).centres(2)[0, :2, 0, 0].tolist() == [8, 18]


def test_reduced_copies(data: Path) -> None:
    train_set, held_out = load_photos(64, data, smallest=0.5)
    assert (train_set.originals, len(held_out)) == (4, 1)
    assert 4 < len(train_set) <= 8
    assert train_set[torch.arange(len(train_set))].shape[2:] == (64, 64)
    assert load_photos(64, data)[0].originals == 4


def test_rounding_does_not_hide_the_rate_from_the_encoder() -> None:
    """What rounds to 0 has no gradient of its own; that of noise draws it to the mean."""
    torch.manual_seed(0)
    offset = torch.full((20_000,), 0.3, requires_grad=True)
    scale = torch.full((20_000,), 0.4, requires_grad=True)
    k = offset + (offset.round() - offset).detach()
    nats = _nats(offset, k, scale, rounded=True)
    assert torch.allclose(nats, rate(torch.zeros(20_000), scale))  # what is coded
    nats.mean().backward()
    assert float(offset.grad.sum()) > 0.1
    coded = torch.tensor(0.4, requires_grad=True)
    rate(torch.tensor(0.0), coded).backward()
    assert float(scale.grad.sum()) == pytest.approx(float(coded.grad), rel=1e-4)  # as if nothing else were there
    with torch.no_grad():
        assert torch.equal(_nats(offset, k, scale, rounded=True), rate(k, scale))
    for rounded in (True, False):
        torch.manual_seed(1)
        told = _nats(offset, k, scale, torch.tensor(rounded))
        assert torch.allclose(told, rate(k, scale))


def test_training_fits_a_time(tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """With no time at all it ends at the second look, its learning rate having fallen to the end."""
    longer = dataclasses.replace(tiny_photo_recipe, train=dataclasses.replace(tiny_photo_recipe.train, epochs=1000))
    seen: list[Progress] = []
    assert train(longer, photos(photo), tmp_path, fit_seconds=0, report=seen.append) is not None
    assert [(one.step, one.steps) for one in seen] == [(50, 1000), (100, 100)]
    assert load_task(longer, tmp_path)[1] == 100


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    endless, pace = loop._Pace(math.inf), loop._Pace(1000)
    assert [endless.steps(50, 500), pace.steps(50, 500)] == [500, 500]
    now += 100
    assert [endless.steps(60, 500), pace.steps(60, 500)] == [500, 60 + 90]  # ten steps took 100 s, 900 s are left
    now += 100
    assert pace.steps(300, 500) == 500  # 800 s are left for many
