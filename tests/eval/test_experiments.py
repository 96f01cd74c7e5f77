"""The paper's table from trained cells: what is measured, kept, left out and refused; its page and the results page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from vqcodec.cli import main
from vqcodec.codec.config import ConfigError
from vqcodec.eval import experiments, results
from vqcodec.eval.nll import BoundsError
from vqcodec.eval.tables import Table, markdown
from vqcodec.training import experiments as training
from vqcodec.training.data.datasets import DataError, Dataset, binarise
from vqcodec.training.experiments import Cell, run_cell

CELLS = [Cell("vae", 1, "mnist"), Cell("lvae", 2, "mnist")]
EPOCHS = 3  # of one step each: there are eight images


@pytest.fixture
def folder(tmp_path: Path, digit_set: Dataset, digits: NDArray[Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of both cells on the eight digits, which stand for the data sets."""

    def load(name: str, split: str, data_dir: Path | None = None) -> Dataset:
        images = binarise(digits, "tests") if name.endswith("-binary") else digits
        return dataclasses.replace(digit_set, name=name, split=split, images=images)

    monkeypatch.setattr(training, "load", load)
    monkeypatch.setattr(experiments, "load", load)
    for cell in CELLS:
        assert run_cell(cell, EPOCHS, tmp_path, None, "cpu", 1e9)
    return tmp_path


def measured(folder: Path, cells: list[Cell] = CELLS, **options: Any) -> dict[str, Any]:
    found = experiments.measure(cells, EPOCHS, folder, train=False, **{"samples": (1, 20)} | options)
    return json.loads(json.dumps(dataclasses.asdict(found)))


def test_cells_are_measured_and_kept(folder: Path) -> None:
    first = measured(folder)
    assert [(row["kind"], row["layers"], row["steps"]) for row in first["cells"]] == [("vae", 1, 3), ("lvae", 2, 3)]
    for row in first["cells"]:
        one, twenty = row["bounds"]
        assert (one["samples"], twenty["samples"]) == (1, 20)
        assert twenty["nats"] < row["elbo_nats"] < 784
        assert len(row["levels"]) == row["layers"]
        assert row["paper"] is None
    kept = folder / CELLS[0].recipe(EPOCHS).name / "measured.json"
    changed = json.loads(kept.read_text())
    changed["result"]["elbo_nats"] = 1.5
    kept.write_text(json.dumps(changed))
    assert measured(folder)["cells"][0]["elbo_nats"] == 1.5  # read, not measured again
    again = measured(folder, samples=(1, 21))  # another question
    assert again["cells"][0]["elbo_nats"] > 100
    kept.write_text("{")
    assert measured(folder)["cells"] == first["cells"] or measured(folder)["cells"][0]["seconds"] > 0
    assert measured(folder)["cells"][0]["bounds"] == first["cells"][0]["bounds"]


def test_the_table_stands_beside_the_paper(folder: Path) -> None:
    result = measured(folder)
    result["cells"][1] |= {"paper": -100.0}
    likelihoods, active = experiments.tables(result)
    bound = result["cells"][1]["bounds"][1]["nats"]
    assert likelihoods.rows[0][:3] == ["VAE", "64", "3"]
    assert likelihoods.rows[0][-2:] == ["-", "-"]
    assert likelihoods.rows[1][:2] == ["LVAE + BN + WU", "64-32"]
    assert likelihoods.rows[1][-2:] == ["-100.00", f"{100 - bound:+.2f}"]
    assert [len(row) for table in (likelihoods, active) for row in table.rows] == [8, 8, 7, 7]
    assert active.rows[0][3:] == ["-"] * 4
    text = experiments.table(result)
    assert "L_20" in text
    assert "LVAE + BN + WU" in text


def test_the_papers_numbers_are_those_of_the_issue() -> None:
    assert experiments._PAPER["lvae", 5, "mnist"] == -82.12
    assert experiments._PAPER["vae", 3, "omniglot28"] == -111.26
    assert experiments._PAPER["lvae", 5, "omniglot28"] == -102.11
    assert experiments._PAPER["lvae", 2, "omniglot28"] == -102.63
    assert experiments._PAPER["lvae", 1, "omniglot28"] is None
    assert ("vae", 5, "mnist") not in experiments._PAPER


def test_unfinished_and_missing_cells_are_left_out(folder: Path, tmp_path: Path) -> None:
    assert len(measured(folder, [*CELLS, Cell("vae-bn", 3, "mnist")])["cells"]) == 2
    checkpoint = folder / CELLS[0].recipe(EPOCHS).name / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"step": 2}, checkpoint)
    assert [row["kind"] for row in measured(folder)["cells"]] == ["lvae"]
    with pytest.raises(BoundsError, match="no cell of 3 epochs is trained to its end"):
        measured(folder, CELLS[:1])
    with pytest.raises(BoundsError, match="no cell of 3 epochs is trained in"):
        measured(tmp_path / "nowhere")
    with pytest.raises(BoundsError, match="a table is of one data set, found cells of mnist, omniglot28"):
        measured(folder, [*CELLS, Cell("vae", 1, "omniglot28")])


def test_the_page_and_the_command(folder: Path, tmp_path: Path) -> None:
    names = [cell.name for cell in CELLS]
    page, out = tmp_path / "page.html", tmp_path / "out.json"
    told = ["experiments", *names, "--epochs", "3", "--folder", str(folder), "--no-train", "--samples", "1"]
    told += ["--samples", "20", "--report", str(page), "--out", str(out)]
    run = CliRunner().invoke(main, told)
    assert run.exit_code == 0, run.output
    assert "VAE" in run.output
    html = page.read_text()
    assert "experiments vae-1-mnist lvae-2-mnist --epochs 3" in html
    assert "--no-train --samples 1 --samples 20" in html
    assert len(re.findall("<svg", html)) >= 4
    assert json.loads(out.read_text())["cells"][0]["kind"] == "vae"


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["nonsense"], 1, "no cell nonsense"),
    (["--data", "kodak"], 1, "no cell vae-1-kodak"),
    (["vae-1-mnist", "--samples", "0"], 2, "Invalid value for '--samples'"),
    (["vae-1-mnist", "--no-train", "--folder", "nowhere"], 1, "no cell of 2000 epochs is trained in nowhere"),
    (["vae-1-mnist", "--out", "nowhere/a.json"], 1, "nowhere"),
])  # fmt: skip
def test_nonsense_is_refused(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(main, ["experiments", *arguments])
    assert run.exit_code == code, run.output
    assert message in run.output


def test_data_are_needed(tmp_path: Path) -> None:
    with pytest.raises((DataError, ConfigError)):
        run_cell(CELLS[0], EPOCHS, tmp_path, tmp_path, "cpu", 1.0)


# The results page


def test_results_are_written_from_json(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "results"
    source.mkdir()
    with pytest.raises(results.ResultsError, match="no result in"):
        results.results(source)
    (source / "experiments-mnist.json").write_text(json.dumps(measured(folder)))
    out = tmp_path / "results.md"
    run = CliRunner().invoke(results.main, ["--folder", str(source), "--out", str(out)])
    assert run.exit_code == 0, run.output
    text = out.read_text()
    assert text.count("\n## ") == 1
    assert "`vqcodec experiments --data mnist" in text
    assert "| LVAE + BN + WU | 64-32 | 3 |" in text
    (source / "lvae-mnist.json").write_text("[]")
    run = CliRunner().invoke(results.main, ["--folder", str(source), "--out", str(out)])
    assert run.exit_code == 1
    assert "lvae-mnist.json is no result of this chapter" in run.output
    assert out.read_text() == text


def test_shipped_results_are_those_of_their_json() -> None:
    """docs/results.md is what the command makes of docs/results."""
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "results.md").read_text() == results.results(docs / "results")


def test_markdown() -> None:
    text = markdown(Table("title", ["", "a"], [["x | y", "1"], ["  part", "2"]], "note"))
    assert text == "**title**\n\n|  | a |\n| --- | ---: |\n| x \\| y | 1 |\n| part | 2 |\n\nnote"
