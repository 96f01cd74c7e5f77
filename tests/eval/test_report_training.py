"""Figures of training runs: which lines they have, where the points lie, and what files are refused."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vqcodec.bitstream.errors import VqcodecError
from vqcodec.eval.report import Figure, MetricsError, Section, comparison_figures, page, training, training_figures
from vqcodec.training.config import LadderRecipe
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.loop import train

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(rows, name="metrics.jsonl"): a file of rows."""

    def make(rows: list[dict[str, Any]], name: str = "metrics.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return make


def evaluated(epochs: int, levels: int = 2, steps: int = 10) -> list[dict[str, Any]]:
    """Rows of a run: two batches an epoch and an evaluation, level z_n with n active units of n / epoch nats."""
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for step in (epoch * steps - 5, epoch * steps):
            rows.append({"step": step, "nats": 100.0 + step, "kl": 3.0, "loss": 90.0})
        row: dict[str, Any] = {"step": epoch * steps, "val_nats": 110.0}
        for level in range(1, levels + 1):
            row |= {f"val_kl_q0_z{level}": level / epoch, f"val_active_q0_z{level}": level}
        rows.append(row)
    return rows


def titles(figures: list[Figure]) -> list[str]:
    return [figure.title for figure in figures]


def keys(figure: Figure) -> list[str]:
    """Labels of a chart's legend."""
    return re.findall(r"</svg>([^<]+)</li>", figure.parts[0])


def points(figure: Figure) -> list[int]:
    """How many points each line has."""
    return [path.count("L") + 1 for path in re.findall(r'class="line"[^>]* d="(M[^"]+L[^"]+)"', figure.parts[0])]


def test_one_run(write: Write) -> None:
    figures = training_figures(write(evaluated(20, levels=5)), 10)
    assert titles(figures) == ["Active units", "KL by level", "-ELBO"]
    assert [keys(figure) for figure in figures[:2]] == [["z1", "z2", "z3", "z4", "z5"]] * 2
    assert keys(figures[2]) == ["training batches, mean of an epoch", "test images"]
    assert [points(figure) for figure in figures] == [[20] * 5, [20] * 5, [20] * 2]


def test_curves(write: Write) -> None:
    run = training._read(write(evaluated(3)), 10)
    assert run.levels == range(1, 3)
    assert run.curve("val_kl_q0_z2") == [(1, 2), (2, 1), (3, 2 / 3)]
    assert run.means("nats") == [(1, 107.5), (2, 117.5), (3, 127.5)]
    assert run.last("val_active_q0_z2") == 2
    assert run.last("val_active_q0_z3") == 0


def test_steps_after_a_resume_replace_those_before(write: Write) -> None:
    rows = [{"step": 10, "val_nats": 5.0}, {"step": 20, "val_nats": 4.0}, {"step": 30, "val_nats": 9.0}]
    again = [{"step": 20, "val_nats": 3.0}, {"step": 30, "val_nats": 2.0}]
    assert training._read(write(rows + again), 10).curve("val_nats") == [(1, 5), (2, 3), (3, 2)]


def test_what_was_not_logged_has_no_figure(write: Write) -> None:
    assert titles(training_figures(write([{"step": 50, "nats": 1.0}]), 10)) == ["-ELBO"]
    old = [{key: value for key, value in row.items() if "active" not in key} for row in evaluated(2)]
    assert titles(training_figures(write(old), 10)) == ["KL by level", "-ELBO"]
    other = write([{"step": 50, "sse": 1.0}])
    assert training_figures(other, 10) == []
    assert comparison_figures({"run": other}, 10) == []


def test_long_runs_have_few_points(write: Write) -> None:
    path = write(evaluated(2000))
    for figure in training_figures(path, 10):
        assert all(100 < count <= 400 for count in points(figure))
    assert training._thinned([(float(n), 0.0) for n in range(1001)])[-1] == (1000, 0)


def test_comparison(write: Write) -> None:
    runs = {"five": write(evaluated(20, 5), "a"), "three <3>": write(evaluated(15, 3), "b")}
    figures = comparison_figures(runs, 10)
    assert titles(figures) == [*(f"Active units of z{n}" for n in range(1, 6)), "KL by level at the end", "-ELBO"]
    assert [len(keys(figure)) for figure in figures] == [2, 2, 2, 1, 1, 2, 2]
    assert points(figures[0]) == [20, 15]
    assert figures[5].parts[0].count('class="bar" d="M') == 2 * 5 + 2  # and in the legend
    assert "no such level" in figures[5].caption
    assert "no such level" not in comparison_figures({"five": runs["five"]}, 10)[5].caption
    assert "three &lt;3&gt;" in page("t", "s", [Section("runs", figures)])


def test_values_that_are_no_numbers_are_left_out(write: Write) -> None:
    rows = [*evaluated(2), {"step": 30, "val_kl_q0_z1": float("nan"), "val_nats": float("inf")}]
    figures = comparison_figures({"run": write(rows)}, 10)
    assert not any("nan" in part or "inf" in part for figure in figures for part in figure.parts)


def test_a_line_that_is_being_written_is_left_out(write: Write) -> None:
    path = write(evaluated(3))
    before = training_figures(path, 10)
    with path.open("a") as file:
        file.write('{"step": 40, "val_n')
    assert training_figures(path, 10) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 1}\n{"step": 2, "na\n{"step": 3}\n', "line 2: expected a JSON object"),
        ('{"step": 1}\n\n', "line 2: expected a JSON object"),
        ("[1, 2]\n", "line 1: expected an object of numbers"),
        ('{"step": 1, "nats": "5"}\n', "line 1: expected an object of numbers"),
        ('{"step": 1, "nats": true}\n', "line 1: expected an object of numbers"),
        ('{"nats": 5}\n', 'line 1: expected a "step" from 1, found None'),
        ('{"step": 0, "nats": 5}\n', 'line 1: expected a "step" from 1, found 0'),
        ('{"step": 1.5, "nats": 5}\n', 'line 1: expected a "step" from 1, found 1.5'),
        ("", "no rows"),
        ('{"step": 1', "no rows"),
        (b"\xff\xfe\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    for figures in (lambda: training_figures(path, 10), lambda: comparison_figures({"run": path}, 10)):
        with pytest.raises(MetricsError, match=re.escape(said)) as caught:
            figures()
        assert str(caught.value).startswith(str(path))
        assert isinstance(caught.value, VqcodecError)


def test_an_epoch_has_steps(write: Write) -> None:
    with pytest.raises(ValueError, match="at least one step, found 0"):
        training_figures(write(evaluated(1)), 0)


def test_what_the_loop_writes(tiny_gaussian_recipe: LadderRecipe, digit_set: Dataset, tmp_path: Path) -> None:
    images = torch.from_numpy(digit_set.images)
    schedule = dataclasses.replace(tiny_gaussian_recipe.train, epochs=3)
    train(dataclasses.replace(tiny_gaussian_recipe, train=schedule), images, tmp_path, validation=images)
    figures = training_figures(tmp_path / "metrics.jsonl", 1)
    assert titles(figures) == ["Active units", "KL by level", "-ELBO"]
    assert [len(keys(figure)) for figure in figures] == [3, 3, 2]
    assert points(figures[0]) == [3] * 3
