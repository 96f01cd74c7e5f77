"""Figures of training runs over epochs, from their metrics.jsonl: -ELBO, and KL and active units by level.

A line of metrics.jsonl is an object: "step", and metrics of a batch ("nats", "kl", "loss") or, after an epoch, of test
images ("val_nats", "val_kl_q0_z1", "val_active_q0_z1", ...; q0 is the lossless setting, the only one of Gaussian
models)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ...bitstream.errors import VqcodecError
from ..ladder import ACTIVE_NATS
from .axes import Axis
from .charts import Bars, Series, bar_chart, line_chart
from .page import Figure

_MOST_POINTS = 400  # of a line, which is hardly as many pixels wide
_LEVEL = re.compile(r"val_(?:kl|active)_q0_z([1-9]\d?)")
_EPOCH, _EARLY = Axis("epoch"), Axis("epoch", log=True)  # the -ELBO falls most in the first epochs
_ACTIVE = f"Units whose mean KL is above {ACTIVE_NATS} nats, on test images after every epoch"

Point = tuple[float, float]


class MetricsError(VqcodecError):
    """A metrics.jsonl that is missing, or holds something else than rows of metrics."""


@dataclass(frozen=True)
class _Run:
    """Metrics of a run by optimiser step, rising; of a step that was logged twice (after a resume) what came last."""

    rows: Mapping[int, Mapping[str, float]]
    steps_per_epoch: int

    @property
    def levels(self) -> range:
        """Numbers of the levels of latents that were evaluated, from 1."""
        found = (_LEVEL.fullmatch(key) for row in self.rows.values() for key in row)
        return range(1, 1 + max([0, *(int(match[1]) for match in found if match)]))

    def curve(self, key: str) -> list[Point]:
        """(epoch, value) of a metric that is logged once an epoch."""
        return [(step / self.steps_per_epoch, row[key]) for step, row in self.rows.items() if key in row]

    def means(self, key: str) -> list[Point]:
        """(epoch, mean of its values) of a metric that is logged every few batches, at the end of every epoch."""
        epochs: dict[int, list[float]] = {}
        for step, row in self.rows.items():
            if key in row:
                epochs.setdefault(-(-step // self.steps_per_epoch), []).append(row[key])
        return [(float(epoch), fmean(values)) for epoch, values in epochs.items()]

    def last(self, key: str) -> float:
        """The newest value of a metric that is a number, 0 if there is none."""
        return next((value for _, value in reversed(self.curve(key)) if math.isfinite(value)), 0.0)


def training_figures(metrics: Path, steps_per_epoch: int) -> list[Figure]:
    """Figures of one run: active units and KL of every level, -ELBO; without those that nothing was logged for.

    metrics: its metrics.jsonl. A last line that is not finished is left out. Raises MetricsError for a file that is
    missing or holds other things, ValueError for steps_per_epoch below 1."""
    run = _read(metrics, steps_per_epoch)
    active, kl = (
        [Series(f"z{level}", run.curve(f"val_{what}_q0_z{level}")) for level in run.levels] for what in ("active", "kl")
    )
    elbo = [
        Series("training batches, mean of an epoch", run.means("nats")), Series("test images", run.curve("val_nats"))
    ]  # fmt: skip
    return [
        *_lines("Active units", f"{_ACTIVE}; z1 is next to the image.", active, _EPOCH, Axis("units", zero=True)),
        *_lines("KL by level", "Of the latents from their prior, mean over test images after every epoch.", kl, _EPOCH,
                Axis("nats per image", log=True)),
        *_lines("-ELBO", "One sample of the latents per image; epochs on a logarithmic axis.", elbo, _EARLY,
                Axis("nats per image")),
    ]  # fmt: skip


def comparison_figures(runs: Mapping[str, Path], steps_per_epoch: int) -> list[Figure]:
    """Figures of several runs, by name: active units of every level, a line per run; KL by level at the end; -ELBO.

    runs: metrics.jsonl of each. Raises as `training_figures`."""
    read = {name: _read(metrics, steps_per_epoch) for name, metrics in runs.items()}
    levels = range(1, 1 + max([0, *(len(run.levels) for run in read.values())]))
    figures = []
    for level in levels:
        series = [Series(name, run.curve(f"val_active_q0_z{level}")) for name, run in read.items()]
        figures += _lines(f"Active units of z{level}", f"{_ACTIVE}.", series, _EPOCH, Axis("units", zero=True))
    elbo = [Series(name, run.curve("val_nats")) for name, run in read.items()]
    caption = "Test images, one sample of the latents per image; epochs on a logarithmic axis."
    return [*figures, *_final_kl(read, levels), *_lines("-ELBO", caption, elbo, _EARLY, Axis("nats per image"))]


def _lines(title: str, caption: str, series: Sequence[Series], x: Axis, y: Axis) -> list[Figure]:
    """A chart of the series that have points; no figure if none has."""
    shown = [Series(one.label, _thinned(one.points)) for one in series if one.points]
    alt = f"Line chart over epochs: {title}"
    return [Figure(title, caption, [line_chart(shown, x, y, alt)])] if shown else []


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most 400 points, evenly spread, the last among them."""
    step = -(-len(points) // _MOST_POINTS)
    return list(points[(len(points) - 1) % step :: step])


def _final_kl(runs: Mapping[str, _Run], levels: Sequence[int]) -> list[Figure]:
    """Bars by run of the KL of every level when it was last evaluated; nothing without levels."""
    if not levels:
        return []
    bars = [Bars(name, [run.last(f"val_kl_q0_z{level}") for level in levels]) for name, run in runs.items()]
    names = [f"z{level}" for level in levels]
    title, caption = "KL by level at the end", "Mean over test images after the last epoch of each run."
    if len({run.levels for run in runs.values()}) > 1:
        caption += " It is 0 where a run has no such level."
    return [Figure(title, caption, [bar_chart(names, bars, "level", "nats per image", f"Bar chart: {title}, by run")])]


def _read(path: Path, steps_per_epoch: int) -> _Run:
    if steps_per_epoch < 1:
        raise ValueError(f"an epoch has at least one step, found {steps_per_epoch}")
    try:
        lines = path.read_text("utf-8").split("\n")[:-1]  # a run that goes on may be writing the last one
    except (OSError, UnicodeDecodeError) as error:
        raise MetricsError(f"{path}: cannot be read as metrics: {error}") from error
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        step, metrics = _row(line, f"{path}, line {number}")
        rows.setdefault(step, {}).update(metrics)
    if not rows:
        raise MetricsError(f"{path}: no rows of metrics")
    return _Run(dict(sorted(rows.items())), steps_per_epoch)


def _row(line: str, where: str) -> tuple[int, dict[str, float]]:
    """Step and metrics of a line. Raises MetricsError."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise MetricsError(f"{where}: expected a JSON object, found {line[:40]!r}") from error
    if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
        raise MetricsError(f"{where}: expected an object of numbers, found {line[:40]!r}")
    step = row.pop("step", None)
    if type(step) is not int or step < 1:
        raise MetricsError(f'{where}: expected a "step" from 1, found {step!r}')
    return step, row
