"""The sweep over the weight of the commitment term, with a few steps on eight digits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from vqcodec.codec import models
from vqcodec.eval import beta
from vqcodec.eval.beta import Outcome, Sweep
from vqcodec.training.config import Recipe, VQRecipe, read_recipe
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.loop import CHECKPOINT

BETAS = (0.1, 2.0)


@pytest.fixture(scope="module", autouse=True)
def _training_split(digit_set: Dataset) -> Iterator[None]:
    """MNIST is the eight digits, with or without the real files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets._LOADERS, "mnist", lambda split, folder: digit_set)
        yield


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> VQRecipe:
    return beta.base_recipe(tiny_recipe, epochs=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beta")


@pytest.fixture(scope="module")
def result(recipe: VQRecipe, digit_set: Dataset, folder: Path) -> Sweep:
    return beta.sweep(recipe, BETAS, digit_set, digit_set, folder)


def test_only_beta_differs(recipe: VQRecipe, result: Sweep, folder: Path) -> None:
    told = [models.load(str(next((folder / name).glob("*.safetensors")))).description for name in names(folder)]
    assert [one.recipe["train"]["commitment"] for one in told] == list(BETAS)
    for one in told:
        assert one.config == json.loads(json.dumps(dataclasses.asdict(recipe.model)))
        same = {**dataclasses.asdict(recipe.train), "commitment": one.recipe["train"]["commitment"]}
        assert one.recipe["train"] == json.loads(json.dumps(same))
        assert one.results["steps"] == result.steps == 3
    assert [row.beta for row in result.outcomes] == list(BETAS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_model_is_the_papers(recipe: VQRecipe) -> None:
    full = beta.base_recipe(read_recipe("vq-mnist"), epochs=1)
    assert [level.codes for level in full.model.levels] == [256]
    assert (full.train.seed, full.train.rate_start, full.train.learning_rate) == (0, 1.0, 2e-3)
    assert beta.base_recipe(read_recipe("vq-mnist"), epochs=1, seed=5).train.seed == 5


def test_the_nearest_code_is_taken(result: Sweep, folder: Path) -> None:
    for name in names(folder):
        codec = models.load(str(next((folder / name).glob("*.safetensors")))).codec
        assert codec.state_dict()["quantiser.rd_weights"].tolist() == [0]


def test_outcomes_are_measured(result: Sweep) -> None:
    for row in result.outcomes:
        assert row.mse > 0
        assert 1 <= row.perplexity <= 16
        assert 0 < row.used <= 1
        assert row.bound_nats is not None
        assert row.bound_bpd == pytest.approx(-row.bound_nats / math.log(2) / 784)
        assert row.bound_nats < -row.prior_bits * math.log(2)
    assert result.outcomes[0] != result.outcomes[1]


def test_runs_are_resumed(recipe: VQRecipe, result: Sweep, folder: Path, digit_set: Dataset) -> None:
    before = {name: (folder / name / CHECKPOINT).stat().st_mtime_ns for name in names(folder)}
    again = beta.sweep(recipe, BETAS, digit_set, digit_set, folder)
    assert again.outcomes == result.outcomes
    assert before == {name: (folder / name / CHECKPOINT).stat().st_mtime_ns for name in names(folder)}
    assert names(folder) == ["tiny-beta-0-1-8x3-seed0", "tiny-beta-2-8x3-seed0"]


def test_spreads() -> None:
    first = Outcome(0.1, 90.0, 8.0, 1.0, 100.0, None, None)
    rows = beta.spreads([first, dataclasses.replace(first, beta=2.0, mse=110.0, bound_nats=-5.0)])
    found = {row.quantity: row for row in rows}
    assert set(found) == {"mse", "perplexity", "used", "prior_bits", "bound_nats"}
    assert (found["mse"].least, found["mse"].most, found["mse"].percent) == (90.0, 110.0, 20.0)
    assert (found["used"].percent, found["bound_nats"].percent) == (0.0, 0.0)
    (negative,) = [row for row in beta.spreads([
        dataclasses.replace(first, bound_nats=-90.0), dataclasses.replace(first, bound_nats=-110.0),
    ]) if row.quantity == "bound_nats"]  # fmt: skip
    assert negative.percent == pytest.approx(20.0)


def test_command_line(monkeypatch: pytest.MonkeyPatch, tiny_recipe: Recipe, tmp_path: Path) -> None:
    monkeypatch.setattr(beta, "read_recipe", {"vq-mnist": tiny_recipe}.__getitem__)
    out = tmp_path / "beta.json"
    options = ["--betas", "0.25,1", "--epochs", "1", "--limit", "4", "--test-limit", "3", "--seed", "1"]
    shown = CliRunner().invoke(
        beta.main, ["--data", "mnist", *options, "--folder", str(tmp_path / "runs"), "--out", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    written = json.loads(out.read_text())
    assert beta.table(written) == shown.stdout.rstrip("\n")
    assert (written["train_images"], written["test_images"], written["epochs"], written["seed"]) == (4, 3, 1, 1)
    assert [row["beta"] for row in written["outcomes"]] == [0.25, 1.0]
    assert "spread, %" in shown.stdout


@pytest.mark.parametrize("betas", ["", "a", "0.1,,1", "-1", "nan", "inf"])
def test_bad_betas(betas: str) -> None:
    refused = CliRunner().invoke(beta.main, ["--data", "mnist", "--betas", betas])
    assert refused.exit_code == 2
    assert "expected" in refused.output
