"""`python -m vqcodec.eval.beta --data mnist`: how much the weight of the commitment term matters to a VQ-VAE.

van den Oord et al. 2017 (section 3.2) weigh that term of eq. 3 with beta and say that results "did not vary" from 0.1
to 2.0. Here one model is trained per beta, all else alike (start, order of images, steps), on the first images of the
training split. The recipe is the data set's own, less what the paper's VQ-VAE does not have: one codebook instead of
residual levels, the nearest code instead of one chosen by its rate (the rate is nobody's target, so it may vary).

beta is `train.commitment`: the weight of the mean square of a latent's dimensions, beside the squared error of an image
in 0..1 (`training.vq`). Latents are normalised to unit variance, so the encoder cannot shrink them to please the term.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from ..codec import files as targets
from ..training.config import Recipe, VQRecipe, read_recipe
from ..training.data.datasets import Dataset, load
from ..training.export import export
from ..training.loop import train
from . import vq
from .environment import Environment, environment, line
from .files import percent
from .tables import Table, aligned, number

BETAS = (0.1, 0.25, 0.5, 1.0, 2.0)
_BATCH = 64  # a quarter of the recipe's: a short run needs steps more than it needs wide batches
_NEVER = 1.0  # share of the training after which rates are steered


@dataclass(frozen=True)
class Outcome:
    """What training with a beta gave, means over the test images.

    mse: of decoded pixels, 0..255.  perplexity, used: of the codebook.  prior_bits: code length of the indices (files
    also hold the model's name, which says beta).  bound_nats, bound_bpd: `vq_bound`, None without the training split
    where `datasets.load` looks by itself.
    """

    beta: float
    mse: float
    perplexity: float
    used: float
    prior_bits: float
    bound_nats: float | None
    bound_bpd: float | None


@dataclass(frozen=True)
class Spread:
    """A quantity of `Outcome` over all betas. percent: of the mean, most less least."""

    quantity: str
    least: float
    most: float
    percent: float


@dataclass(frozen=True)
class Sweep:
    """All trainings. steps: of each, with batches of `batch_size` out of `train_images` images."""

    recipe: str
    data: str
    train_images: int
    test_images: int
    epochs: int
    steps: int
    batch_size: int
    seed: int
    environment: Environment
    outcomes: list[Outcome]
    spreads: list[Spread]


def base_recipe(recipe: Recipe, epochs: int, seed: int = 0) -> VQRecipe:
    """What all trainings have in common, out of a VQ-VAE's recipe: the paper's model, trained for `epochs`."""
    assert isinstance(recipe, VQRecipe)
    model = replace(recipe.model, levels=recipe.model.levels[:1])
    schedule = replace(
        recipe.train, epochs=epochs, seed=seed, batch_size=_BATCH, rate_bits=recipe.train.rate_bits[:1],
        rate_start=_NEVER,
    )  # fmt: skip
    return replace(recipe, note="", model=model, train=schedule)


def sweep(recipe: VQRecipe, betas: Sequence[float], data: Dataset, test: Dataset, folder: Path) -> Sweep:
    """Train with every beta on all images of `data`, and measure on those of `test`.

    Runs are kept in folder/NAME: what is finished is not trained again, and what was begun goes on."""
    config, count = recipe.train, len(data.images)
    outcomes = []
    for beta in betas:
        outcomes.append(outcome(trained(with_beta(recipe, beta, count), data, folder), beta, test))
        print(f"beta {beta:g}: done", file=sys.stderr, flush=True)
    return Sweep(
        recipe.name, data.name, count, len(test.images), config.epochs, _steps(recipe, count), config.batch_size,
        config.seed, environment(), outcomes, spreads(outcomes),
    )  # fmt: skip


def with_beta(recipe: VQRecipe, beta: float, images: int) -> VQRecipe:
    """The recipe with another weight of the commitment term; its name says all that makes a run another one."""
    weight = f"{beta:g}".replace(".", "-").replace("+", "")  # names of models have no other characters
    name = f"{recipe.name}-beta-{weight}-{images}x{recipe.train.epochs}-seed{recipe.train.seed}"
    return replace(recipe, name=name, train=replace(recipe.train, commitment=beta))


def trained(recipe: VQRecipe, data: Dataset, folder: Path) -> Path:
    """Weights file of a recipe, trained in folder/NAME as far as it is not yet."""
    run = folder / recipe.name
    task = train(recipe, torch.from_numpy(data.images), run, resume=True)
    assert task is not None  # there is no limit of time
    return export(task, recipe, data, run, _steps(recipe, len(data.images)))


def outcome(weights: Path, beta: float, test: Dataset) -> Outcome:
    """What a model of one codebook does on the test images."""
    measured = vq.measure(str(weights), test)
    (point,), (codebook,) = measured.points, measured.codebooks
    bound = point.bound
    return Outcome(
        beta, point.model.distortion.mse, codebook.perplexity, codebook.used, point.model.prior_bits,
        bound.nats if bound else None, bound.bpd if bound else None,
    )  # fmt: skip


def spreads(outcomes: Sequence[Outcome]) -> list[Spread]:
    """Of every quantity that all outcomes have."""
    found = []
    for quantity in list(asdict(outcomes[0]))[1:]:
        values = [value for row in outcomes if (value := getattr(row, quantity)) is not None]
        if values:
            least, most, mean = min(values), max(values), abs(sum(values) / len(values))
            found.append(Spread(quantity, least, most, percent(most - least, mean)))
    return found


def _steps(recipe: VQRecipe, images: int) -> int:
    return recipe.train.epochs * max(1, images // recipe.train.batch_size)


_COLUMNS = {
    "beta": 2, "mse": 2, "perplexity": 1, "used": 3, "prior_bits": 2, "bound_nats": 2, "bound_bpd": 4,
}  # fmt: skip
_HEAD = ["beta", "MSE", "perplexity", "codes used", "prior, bits", "bound, nats", "bound, bits/dim"]


def tables(result: dict[str, Any]) -> list[Table]:
    """A `Sweep`, as it stands in JSON: a row per beta, and how far the rows are apart."""
    rows = [[number(row[key], decimals) for key, decimals in _COLUMNS.items()] for row in result["outcomes"]]
    apart = {spread["quantity"]: number(spread["percent"], 1) for spread in result["spreads"]}
    last = ["spread, %", *(apart.get(key, "-") for key in list(_COLUMNS)[1:])]
    head = (
        f"{result['recipe']}, one codebook, nearest code: {result['steps']:,} steps of {result['batch_size']} out of "
        f"{result['train_images']:,} images of {result['data']}, seed {result['seed']}; means over "
        f"{result['test_images']:,} test images"
    )
    return [Table(head, _HEAD, [*rows, last])]


def table(result: dict[str, Any]) -> str:
    """The same as text."""
    (only,) = tables(result)
    return f"{only.title}\n{aligned([only.head, *only.rows])}\n{line(result['environment'])}"


def _numbers(context: click.Context, option: click.Parameter, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with commas between them, found {text!r}") from error
    if not all(0 <= value < float("inf") for value in values):
        raise click.BadParameter(f"expected weights from 0, found {text!r}")
    return values


@click.command()
@click.option("--data", required=True, help="Data set with a recipe vq-DATA: mnist, omniglot28.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--betas", callback=_numbers, default=",".join(f"{beta:g}" for beta in BETAS), show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True)
@click.option("--limit", type=click.IntRange(1), default=20000, show_default=True, help="Training images.")
@click.option("--test-limit", type=click.IntRange(1), help="Test images (default all).")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("runs/beta"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the result as JSON to this file.")
def main(
    data: str,
    data_dir: Path | None,
    betas: list[float],
    epochs: int,
    limit: int,
    test_limit: int | None,
    seed: int,
    folder: Path,
    out: Path | None,
) -> None:
    """Train a small VQ-VAE with several weights of its commitment term, and compare the results on test images."""
    torch.set_num_threads(1)
    if out:
        targets.check_target(out, force=True)
    known, test = load(data, "train", data_dir), load(data, "test", data_dir)
    known, test = replace(known, images=known.images[:limit]), replace(test, images=test.images[:test_limit])
    recipe = base_recipe(read_recipe(f"vq-{data}"), epochs, seed)
    result = asdict(sweep(recipe, betas, known, test, folder))
    if out:
        targets.write_bytes(out, (json.dumps(result, indent=2) + "\n").encode(), force=True)
    print(table(result))


if __name__ == "__main__":
    main()
