"""The table of Sonderby et al. 2016: cells trained by `training.experiments`, measured, beside the paper's numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..codec import files
from ..training.batchnorm import reestimate
from ..training.data.datasets import load
from ..training.experiments import KINDS, Cell, run_cells
from ..training.ladder import LadderTask
from ..training.loop import CHECKPOINT, METRICS, load_task
from .environment import Environment, environment, line
from .gaussian import Bound, LevelNumbers, numbers, values_of
from .nll import BoundsError
from .report import Facts, Section, code, page
from .report.training import comparison_figures
from .tables import Table, aligned, number

LABELS = {"vae": "VAE", "vae-bn": "VAE + BN", "vae-bn-wu": "VAE + BN + WU", "lvae": "LVAE + BN + WU"}
"""The paper's names of the kinds."""
_OMNIGLOT = {
    "vae": (-111.21, -110.58, -111.26, -111.58, -110.46),
    "vae-bn": (-105.62, -105.51, -106.09, -105.66, -105.45),
    "vae-bn-wu": (-104.51, -102.61, -102.52, -102.66, -102.48),
    "lvae": (None, -102.63, -102.18, -102.21, -102.11),
}
_PAPER = {("lvae", 5, "mnist"): -82.12} | {
    (kind, layers, "omniglot28"): value for kind, row in _OMNIGLOT.items() for layers, value in enumerate(row, 1)
}
"""L_5000 after 2,000 epochs (Sonderby et al. 2016, tables 1 and 2), recalled, not looked up; -102.11 was checked
against a second source (as -102.1), and so was -81.74, the fine-tuned LVAE with 10 importance samples on MNIST."""


@dataclass(frozen=True)
class CellNumbers:
    """A trained cell on the test images. steps: of the optimiser; parameters: of both networks.

    paper: L_5000 that the paper gives (as a log-likelihood, nats), None where it gives none."""

    kind: str
    layers: int
    epochs: int
    steps: int
    seed: int
    parameters: int
    elbo_nats: float
    bounds: list[Bound]
    levels: list[LevelNumbers]
    seconds: float
    paper: float | None


@dataclass(frozen=True)
class Experiment:
    """All cells of a data set that were asked for. precision: of matrix products in the bounds; steps_per_epoch: of the
    optimiser."""

    data: str
    images: int
    precision: str
    environment: Environment
    steps_per_epoch: int
    cells: list[CellNumbers]


def measure(
    cells: Sequence[Cell],
    epochs: int,
    folder: Path,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    parallel: int = 1,
    samples: Sequence[int] = (1, 100),
    precision: str = "bf16",
    train: bool = True,
) -> Experiment:
    """Train what is not finished (unless train is False: then leave it out), and measure on the test images, which were
    binarised once (`NAME-binary`). Results are kept beside the checkpoints, so that a second call computes only what is
    new. Raises BoundsError if no cell is there, DataError, ConfigError."""
    data = {cell.data for cell in cells}
    if len(data) != 1:
        raise BoundsError(f"a table is of one data set, found cells of {', '.join(sorted(data)) or 'none'}")
    if train:
        run_cells(cells, epochs, folder, data_dir, device, parallel)
    (name,) = data
    there = [cell for cell in cells if (folder / cell.recipe(epochs).name / CHECKPOINT).exists()]
    if not there:
        raise BoundsError(f"no cell of {epochs} epochs is trained in {folder}")
    how = _How(folder, epochs, data_dir, limit, device, tuple(sorted(samples)), precision)
    rows = [row for cell in there if (row := how.measured(cell))]
    if not rows:
        raise BoundsError(f"no cell of {epochs} epochs is trained to its end in {folder}")
    images = len(load(f"{name}-binary", "test", data_dir).images[:limit])
    return Experiment(f"{name}-binary test", images, precision, environment(device), rows[0].steps // epochs, rows)


@dataclass(frozen=True)
class _How:
    """How cells are measured."""

    folder: Path
    epochs: int
    data_dir: Path | None
    limit: int | None
    device: str
    samples: tuple[int, ...]
    precision: str

    def measured(self, cell: Cell) -> CellNumbers | None:
        """Numbers of a cell, as kept or measured now; None if its training is not at its end."""
        recipe = cell.recipe(self.epochs)
        task, steps = load_task(recipe, self.folder / recipe.name)
        assert isinstance(task, LadderTask)
        train = torch.from_numpy(load(cell.data, "train", self.data_dir).images)
        if steps < self.epochs * max(1, len(train) // recipe.train.batch_size):
            return None
        kept = self.folder / recipe.name / "measured.json"
        checkpoint = hashlib.sha256(kept.with_name(CHECKPOINT).read_bytes()).hexdigest()
        asked = {
            "samples": list(self.samples), "limit": self.limit, "precision": self.precision, "checkpoint": checkpoint,
        }  # fmt: skip
        result = _kept(kept, asked)
        if result is None:
            reestimate(task, train)
            task.to(self.device)
            values = values_of(task.model, load(f"{cell.data}-binary", "test", self.data_dir), self.limit)
            result = asdict(numbers(task.model, values, self.samples, self.precision))
            files.write_bytes(kept, json.dumps({"asked": asked, "result": result}).encode(), force=True)
        return CellNumbers(
            cell.kind, cell.layers, self.epochs, steps, recipe.train.seed,
            sum(p.numel() for p in task.model.parameters()), result["elbo_nats"],
            [Bound(**bound) for bound in result["bounds"]], [LevelNumbers(**level) for level in result["levels"]],
            result["seconds"], _PAPER.get((cell.kind, cell.layers, cell.data)),
        )  # fmt: skip


def _kept(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text())
        return kept["result"] if kept["asked"] == asked else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tables(result: dict[str, Any]) -> list[Table]:
    """The result of `measure`, as it stands in JSON: log-likelihoods beside the paper's, and active units."""
    cells = sorted(result["cells"], key=lambda cell: (cell["layers"], KINDS.index(cell["kind"])))
    bounds = [f"L_{bound['samples']:,}" for bound in cells[0]["bounds"]]
    note = (
        "Log-likelihoods in nats per image, higher is better. L_k: importance-weighted bound of k samples. Paper: "
        "L_5000 after 2,000 epochs (Sonderby et al. 2016), recalled; OMNIGLOT there is another 28 x 28 preparation."
    )
    likelihoods = Table(
        f"{result['data']}, {result['images']:,} images",
        ["model", "latents", "epochs", "ELBO", *bounds, "paper, L_5,000", "difference"],
        [_likelihood_row(cell) for cell in cells],
        note,
    )
    active = Table(
        "active units (KL above 0.01 nats) and KL in nats, by level",
        ["model", "latents", *(f"z{n}" for n in range(1, 6))],
        [_active_row(cell) for cell in cells],
    )
    return [likelihoods, active]


def _sizes(cell: dict[str, Any]) -> str:
    return "-".join(str(level["latents"]) for level in cell["levels"])


def _likelihood_row(cell: dict[str, Any]) -> list[str]:
    found = [-bound["nats"] for bound in cell["bounds"]]
    paper = cell["paper"]
    beside = ["-", "-"] if paper is None else [number(paper, 2), f"{found[-1] - paper:+.2f}"]
    values = [number(value, 2) for value in (-cell["elbo_nats"], *found)]
    return [LABELS[cell["kind"]], _sizes(cell), str(cell["epochs"]), *values, *beside]


def _active_row(cell: dict[str, Any]) -> list[str]:
    levels = [f"{level['active']} ({level['kl_nats']:.2f})" for level in cell["levels"]]
    return [LABELS[cell["kind"]], _sizes(cell), *levels, *["-"] * (5 - len(levels))]


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text."""
    parts = [f"{each.title}\n{aligned([each.head, *each.rows])}\n{each.note}".rstrip() for each in tables(result)]
    return "\n\n".join([*parts, line(result["environment"])])


def report(result: dict[str, Any], folder: Path, command: str) -> str:
    """The result of `measure`, as it stands in JSON, as one HTML page: the tables, and what training looked like.

    folder: of the runs. Raises MetricsError for a run without readable metrics."""
    likelihoods, active = tables(result)
    facts = Facts([
        ("Data", f"{result['data']}, {result['images']:,} images, each pixel sampled once"),
        ("Bounds", f"{result['precision']} matrix products, one draw of samples for all k"),
        ("Machine", line(result["environment"])),
        ("Command", code(command)),
    ])  # fmt: skip
    sections = [Section("What was measured", [facts]), Section("Log-likelihood", [likelihoods])]
    name = result["data"].removesuffix("-binary test")
    for layers in sorted({cell["layers"] for cell in result["cells"]}, reverse=True):
        runs = {
            LABELS[cell["kind"]]: folder / Cell(cell["kind"], layers, name).recipe(cell["epochs"]).name / METRICS
            for cell in result["cells"]
            if cell["layers"] == layers
        }
        figures = comparison_figures(runs, result["steps_per_epoch"])
        sections.append(Section(f"{layers} layers" if layers > 1 else "One layer", figures))
    subtitle = f"The comparisons of Sonderby et al. 2016, {result['cells'][0]['epochs']:,} epochs each"
    return page(f"Ladder VAEs on {name}", subtitle, [*sections, Section("Active units", [active])])
