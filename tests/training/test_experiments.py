"""The grid of the paper's comparisons: recipes of cells, their names, and runs that stop, resume and pass over."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.codec.config import ConfigError
from vqcodec.codec.ladder.config import Stage
from vqcodec.training import experiments
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.experiments import DATA, KINDS, Cell, run_cell, run_cells, table_cells
from vqcodec.training.loop import load_task

ROOT = Path(__file__).parents[2]
ALL = [Cell(kind, layers, data) for kind in KINDS for layers in range(1, 6) for data in DATA]
FIRST, SECOND = Cell("vae", 1, "mnist"), Cell("lvae", 2, "mnist")
EPOCHS = 2  # of one step each: there are eight images


# Cells and recipes


@pytest.mark.parametrize("data", DATA)
def test_the_papers_table(data: str) -> None:
    cells = table_cells(data)
    assert len(cells) == len(set(cells)) == 19
    assert {cell.data for cell in cells} == {data}
    counts = {kind: [cell.layers for cell in cells if cell.kind == kind] for kind in KINDS}
    assert counts == {"lvae": [2, 3, 4, 5]} | {kind: [1, 2, 3, 4, 5] for kind in ("vae", "vae-bn", "vae-bn-wu")}


def test_names_round_trip() -> None:
    assert [Cell.parse(cell.name) for cell in ALL] == ALL
    assert Cell("vae-bn-wu", 3, "omniglot28").name == "vae-bn-wu-3-omniglot28"


@pytest.mark.parametrize("name", [
    "", "lvae", "lvae-5", "lvae-mnist", "lvae-five-mnist", "lvae--mnist", "lvae-0-mnist", "lvae-6-mnist",
    "gan-3-mnist", "lvae-3-cifar10", "vae-wu-3-mnist", "-3-mnist", "lvae-3-mnist-1",
])  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="^no cell " + name):
        Cell.parse(name)


def test_impossible_cells_tell_what_is_possible() -> None:
    for kind, layers, data in (("gan", 3, "mnist"), ("lvae", 0, "mnist"), ("lvae", 6, "mnist"), ("lvae", 3, "cifar")):
        with pytest.raises(ConfigError, match=f"no cell {kind}-{layers}-{data}: vae, vae-bn, .*; layers 1 to 5; mnist"):
            Cell(kind, layers, data)


@pytest.mark.parametrize(("kind", "batch_norm", "warm_up", "inference"), [
    ("vae", False, False, "bottom-up"), ("vae-bn", True, False, "bottom-up"), ("vae-bn-wu", True, True, "bottom-up"),
    ("lvae", True, True, "ladder"),
])  # fmt: skip
@pytest.mark.parametrize("data", DATA)
def test_recipes_are_the_papers(kind: str, batch_norm: bool, warm_up: bool, inference: str, data: str) -> None:
    for layers in range(1, 6):
        recipe = Cell(kind, layers, data).recipe(300)
        model, train = recipe.model, recipe.train
        assert (recipe.name, recipe.data) == (f"{kind}-{layers}-{data}-300", data)
        assert model.latents == (64, 32, 16, 8, 4)[:layers]
        assert model.widths == (512, 256, 128, 64, 32)[:layers]
        assert (model.form, model.posterior, model.skip, model.likelihood) == ("mlp", "gaussian", False, "bernoulli")
        assert (model.batch_norm, model.inference, model.top_down) == (batch_norm, inference, "shared")
        assert (model.stages, model.pixel_features) == ((Stage(784, 0),), 1)  # a factorised likelihood
        assert (train.epochs, train.batch_size, train.importance) == (300, 256, 1)
        # 200 of the paper's 2,000 epochs; all parameters learn at one rate, unclipped.
        assert train.kl_warmup == (0.1 if warm_up else 0.0)
        assert (train.ladder_rate, train.grad_clip) == (1.0, math.inf)


# Runs, on eight digits


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch, digit_set: Dataset) -> None:
    monkeypatch.setitem(datasets._LOADERS, "mnist", lambda split, folder: digit_set)


def in_this_process(cell: Cell, folder: Path, seconds: float = math.inf) -> bool:
    return run_cell(cell, EPOCHS, folder, None, "cpu", seconds)


def checkpoint(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.name}-{EPOCHS}" / "checkpoint.pt"


def weights(cell: Cell, folder: Path) -> dict[str, Tensor]:
    task, steps = load_task(cell.recipe(EPOCHS), folder / f"{cell.name}-{EPOCHS}")
    assert steps == EPOCHS
    return dict(task.state_dict())


def assert_same_weights(cell: Cell, one: Path, other: Path) -> None:
    found = weights(cell, one)
    for name, value in weights(cell, other).items():
        assert torch.equal(value, found[name]), name


def test_a_cell_is_trained_in_its_own_folder(tiny_data: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiments, "VALIDATION_IMAGES", 5)
    assert in_this_process(SECOND, tmp_path)
    assert os.listdir(tmp_path) == ["lvae-2-mnist-2"]
    assert torch.get_num_threads() == 1
    found = weights(SECOND, tmp_path)
    assert found["model.inference.heads.1.0.0.weight"].shape == (64, 256, 1, 1)
    rows = (tmp_path / "lvae-2-mnist-2" / "metrics.jsonl").read_text().splitlines()
    assert sum("val_nats" in row for row in rows) == EPOCHS
    assert sum("val_active_q0_z2" in row for row in rows) == EPOCHS


def test_stopped_cells_resume_and_finished_ones_are_passed_over(tiny_data: None, tmp_path: Path) -> None:
    assert not in_this_process(FIRST, tmp_path / "parts", seconds=-1)
    first = checkpoint(FIRST, tmp_path / "parts").read_bytes()
    assert in_this_process(FIRST, tmp_path / "parts")
    finished = checkpoint(FIRST, tmp_path / "parts").read_bytes()
    assert finished != first
    assert in_this_process(FIRST, tmp_path / "parts", seconds=-1)  # nothing is left to do, so no time is needed
    assert checkpoint(FIRST, tmp_path / "parts").read_bytes() == finished
    assert in_this_process(FIRST, tmp_path / "whole")
    assert_same_weights(FIRST, tmp_path / "parts", tmp_path / "whole")


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def children_read(tmp_path: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose MNIST is the eight digits, and an environment in which processes take it for the official
    one: Python imports sitecustomize when it starts. What children do is theirs but for these hashes."""
    folder, start = tmp_path / "data", tmp_path / "start"
    (folder / "mnist").mkdir(parents=True)
    for images, labels in datasets.IDX_FILES.values():
        write_idx(folder / "mnist" / f"{images}.gz", digits)
        write_idx(folder / "mnist" / f"{labels}.gz", np.zeros(len(digits), np.uint8))
    start.mkdir()
    sha256 = hashlib.sha256(digits.tobytes()).hexdigest()
    (start / "sitecustomize.py").write_text(
        "from vqcodec.training.data import datasets\n"
        f"datasets.PIXELS |= {{('mnist', split): {sha256!r} for split in ('train', 'test')}}\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(start), str(ROOT / ".links")]))
    return folder


def test_cells_run_in_processes_of_their_own(
    children_read: Path, tiny_data: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One cell has a step left to do and finishes, the other is begun and out of time after its first step."""
    assert not in_this_process(FIRST, tmp_path / "runs", seconds=-1)
    left = run_cells([SECOND, FIRST], EPOCHS, tmp_path / "runs", children_read, parallel=2, seconds=-1)
    assert left == [SECOND]
    told = capsys.readouterr().err.splitlines()
    assert sorted(told) == ["lvae-2-mnist: stopped", "vae-1-mnist: done"]
    assert in_this_process(SECOND, tmp_path / "runs")
    for cell in (FIRST, SECOND):
        assert in_this_process(cell, tmp_path / "whole")
        assert_same_weights(cell, tmp_path / "runs", tmp_path / "whole")


def test_missing_data_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(datasets.DataError, match="missing .*train-images"):
        run_cell(FIRST, EPOCHS, tmp_path / "runs", tmp_path / "nowhere", "cpu", math.inf)
    assert not (tmp_path / "runs").exists()
