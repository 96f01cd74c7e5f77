"""`python -m vqcodec.training RECIPE`: training without the command line's other parts (no installation needed)."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from .config import read_recipe
from .datasets import load
from .loop import Progress, train


def main() -> None:
    """Parse arguments, train, and print metrics to stderr."""
    parser = argparse.ArgumentParser(prog="python -m vqcodec.training", description="Train a recipe.")
    parser.add_argument("recipe", help="TOML file, or the name of a recipe in training/recipes")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/NAME)")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop after a checkpoint when reached")
    parser.add_argument("--limit", type=int, help="train on the first N images only (dry run)")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = read_recipe(arguments.recipe)
    images, test = (
        torch.from_numpy(load(recipe.data, split, arguments.data_dir).images) for split in ("train", "test")
    )

    def report(progress: Progress) -> None:
        if progress.step % 200 == 0 or progress.step == progress.steps:
            shown = " ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            print(f"{progress.step}/{progress.steps} {shown}", file=sys.stderr, flush=True)

    train(
        recipe,
        images[: arguments.limit],
        arguments.out or Path("runs") / recipe.name,
        device=arguments.device,
        resume=arguments.resume,
        max_seconds=arguments.max_seconds,
        validation=test[:2000],
        report=report,
    )


if __name__ == "__main__":
    main()
