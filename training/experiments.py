"""The comparisons of Sonderby et al. 2016 as a grid of recipes: inference, batch normalisation, warm-up, layers, data.

A cell is a recipe like any other, so its run resumes and its checkpoint is read as any other's."""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from ..codec.config import ConfigError
from ..codec.ladder.config import LadderConfig, Stage
from .config import LadderRecipe, LadderTrain
from .data.datasets import load
from .loop import train

LATENTS = (64, 32, 16, 8, 4)
WIDTHS = (512, 256, 128, 64, 32)
KINDS = ("vae", "vae-bn", "vae-bn-wu", "lvae")
DATA = ("mnist", "omniglot28")
VALIDATION_IMAGES = 2000
_WARM_UP = 0.1  # 200 of 2,000 epochs


@dataclass(frozen=True)
class Cell:
    """One model of the paper's table. kind: of KINDS; layers: 1..5; data: of DATA."""

    kind: str
    layers: int
    data: str

    def __post_init__(self) -> None:
        """Check the fields; raises ConfigError."""
        if self.kind not in KINDS or self.layers not in range(1, 6) or self.data not in DATA:
            raise ConfigError(f"no cell {self.name}: {', '.join(KINDS)}; layers 1 to 5; {', '.join(DATA)}")

    @property
    def name(self) -> str:
        """As on the command line and in folders: kind-layers-data."""
        return f"{self.kind}-{self.layers}-{self.data}"

    def recipe(self, epochs: int) -> LadderRecipe:
        """How to train it (Sonderby et al. 2016, section 3).

        Runs of less than the paper's 2,000 epochs warm up over the same share of them, and their learning rate falls
        along a cosine, which a short run needs more than a long one."""
        model = LadderConfig(
            form="mlp", latents=LATENTS[: self.layers], widths=WIDTHS[: self.layers], grids=(1,) * self.layers,
            inference="ladder" if self.kind == "lvae" else "bottom-up", posterior="gaussian", skip=False,
            batch_norm=self.kind != "vae", leak=3, stages=(Stage(784, 0),), pixel_features=1,
        )  # fmt: skip
        train = LadderTrain(
            epochs=epochs, batch_size=256, learning_rate=2e-3, ladder_rate=1.0, grad_clip=math.inf,
            kl_warmup=_WARM_UP if self.kind in ("vae-bn-wu", "lvae") else 0.0,
        )  # fmt: skip
        return LadderRecipe(f"{self.name}-{epochs}", self.data, "", model, train)

    @staticmethod
    def parse(name: str) -> Cell:
        """The cell of a name. Raises ConfigError."""
        parts = name.rsplit("-", 2)
        if len(parts) != 3 or not parts[1].isdecimal():
            raise ConfigError(f"no cell {name}: a cell is named KIND-LAYERS-DATA, as lvae-5-mnist")
        return Cell(parts[0], int(parts[1]), parts[2])


def table_cells(data: str) -> list[Cell]:
    """All that the paper compares on a data set: the ladder of one layer would be the plain VAE."""
    return [Cell(kind, layers, data) for layers in range(1, 6) for kind in KINDS if kind != "lvae" or layers > 1]


def run_cell(cell: Cell, epochs: int, folder: Path, data_dir: Path | None, device: str, seconds: float) -> bool:
    """Train a cell in folder/NAME-EPOCHS, from its checkpoint if there is one; whether it is finished.

    Metrics of the first VALIDATION_IMAGES test images are written after every epoch, for the plots."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # dead units leave tiny gradients behind, which are slow
    recipe = cell.recipe(epochs)
    images, test = (torch.from_numpy(load(cell.data, split, data_dir).images) for split in ("train", "test"))
    done = train(
        recipe, images, folder / recipe.name, device=device, resume=True, max_seconds=seconds,
        validation=test[:VALIDATION_IMAGES],
    )  # fmt: skip
    return done is not None


def run_cells(
    cells: Sequence[Cell],
    epochs: int,
    folder: Path,
    data_dir: Path | None = None,
    device: str = "cpu",
    parallel: int = 1,
    seconds: float = math.inf,
) -> list[Cell]:
    """Train cells, `parallel` at a time in processes of their own (on a GPU, too: the networks are tiny); what is
    finished is passed over, what was begun goes on. Returns those that time ran out for.

    seconds: for every cell."""
    left = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context) as pool:
        jobs = {pool.submit(run_cell, cell, epochs, folder, data_dir, device, seconds): cell for cell in cells}
        for job in as_completed(jobs):
            finished = job.result()
            left += [] if finished else [jobs[job]]
            print(f"{jobs[job].name}: {'done' if finished else 'stopped'}", file=sys.stderr, flush=True)
    return left
