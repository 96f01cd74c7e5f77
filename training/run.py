"""A whole training run: recipe and data in, weights file and card out; what `vqcodec train` does."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from ..codec.config import ConfigError
from .config import AnyPhotoRecipe, PhotoLosslessTrain, PhotoTrain, Recipe, read_recipe
from .data.datasets import Dataset, load
from .data.photos import Photos, load_photos
from .export import export
from .loop import CHECKPOINT, Progress, train
from .parallel import leave

_VALIDATION_IMAGES = 2000
_PRINT_EVERY = 200


def run(
    recipe_name: str,
    out: Path | None = None,
    data_dir: Path | None = None,
    device: str | None = None,
    threads: int = 1,
    max_seconds: float | None = None,
    fit_seconds: float | None = None,
    limit: int | None = None,
    resume: bool = False,
    init: Path | None = None,
) -> Path | None:
    """Train and export; returns the weights file in the run's folder, or None if time ran out before the end.

    limit: train on the first images only. init: folder of a run whose weights this one starts from. Test images are
    measured after every epoch; the run chooses nothing by them. Raises ConfigError, DataError."""
    recipe = read_recipe(recipe_name)
    torch.set_num_threads(threads)
    folder = out or Path("runs") / recipe.name
    if not resume and (folder / CHECKPOINT).exists():
        raise ConfigError(f"{folder} holds a run already: continue it with --resume, or name another folder with --out")
    images, validation, described = _data(recipe, data_dir, limit)
    rank = int(os.environ.get("RANK", "0"))  # of several processes the first one speaks and exports
    with Bar(
        TextColumn(recipe.name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"), console=Console(file=sys.stderr),
        disable=bool(rank) or not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task_bar = bar.add_task(recipe.name, total=None, shown="")

        steps = recipe.train.epochs * max(1, len(images) // recipe.train.batch_size)

        def report(progress: Progress) -> None:
            nonlocal steps
            steps = progress.steps
            shown = " ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            bar.update(task_bar, total=progress.steps, completed=progress.step, shown=shown)
            if bar.disable and not rank and (progress.step % _PRINT_EVERY == 0 or progress.step == progress.steps):
                print(f"{progress.step}/{progress.steps} {shown}", file=sys.stderr, flush=True)

        task = train(
            recipe,
            images,
            folder,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            resume=resume,
            init=init,
            max_seconds=math.inf if max_seconds is None else max_seconds,
            fit_seconds=math.inf if fit_seconds is None else fit_seconds,
            validation=validation,
            report=report,
        )
    leave()
    if task is None or rank:
        return None
    return export(task, recipe, described, folder, steps)


def _data(recipe: Recipe, data_dir: Path | None, limit: int | None) -> tuple[Tensor | Photos, Tensor, Dataset | Photos]:
    """Images to train on, images to measure on, and what the export needs to know of the set."""
    if isinstance(recipe, AnyPhotoRecipe):
        smallest = recipe.train.smallest if isinstance(recipe.train, PhotoTrain | PhotoLosslessTrain) else 1.0
        photos, held_out = load_photos(recipe.train.crop, data_dir, limit, smallest)
        return photos, held_out.centres(), photos
    data, test = load(recipe.data, "train", data_dir), load(recipe.data, "test", data_dir)
    return torch.from_numpy(data.images[:limit]), torch.from_numpy(test.images[:_VALIDATION_IMAGES]), data
