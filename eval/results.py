"""`python -m vqcodec.eval.results`: docs/results.md from the JSON files in docs/results, no number typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..bitstream.errors import VqcodecError
from ..codec import files
from . import beta, experiments, gaussian, vq
from .bench import archives, photographs
from .environment import line
from .tables import Table, markdown

FOLDER = Path("docs/results")
_HEAD = """# Complete results

`python -m vqcodec.eval.results` writes this page from the JSON files in `docs/results`. The command under each heading
wrote the file that its tables come from. [Benchmarks](benchmarks.md) explains the numbers.

Binary sets are sampled once for testing (`training.datasets.binarise`), and anew in every epoch of training. The
posterior of the ladders shares the generative top-down pass, as in the equations of Sonderby et al. 2016;
`top_down = "separate"` in a recipe gives it a pass of its own, as the authors' code does. All runs used seed 0, and
fewer epochs than the paper's 2,000. Batch-norm statistics are estimated again over the training set before a
measurement."""


class ResultsError(VqcodecError):
    """A result that is missing or of another form."""


@dataclass(frozen=True)
class Chapter:
    """A result of the page. source: JSON in the folder; command: that wrote it; tables: of the result; page: an HTML
    page of the folder with figures."""

    title: str
    source: str
    command: str
    tables: Callable[[dict[str, Any]], Sequence[Table]]
    page: str | None = None


CHAPTERS = (
    Chapter(
        "The five-layer Ladder VAE on MNIST", "lvae-mnist.json",
        "vqcodec eval lvae-mnist --data mnist-binary --samples 1 --samples 50 --samples 500 --samples 5000 "
        "--report docs/results/lvae-mnist.html --out docs/results/lvae-mnist.json",
        gaussian.tables, "lvae-mnist.html",
    ),
    Chapter(
        "The same, fine-tuned with five importance samples", "lvae-mnist-iw.json",
        "vqcodec eval lvae-mnist-iw --data mnist-binary --samples 1 --samples 50 --samples 500 --samples 5000 "
        "--out docs/results/lvae-mnist-iw.json",
        gaussian.tables,
    ),
    Chapter(
        "VAE, + BN, + warm-up, LVAE on MNIST", "experiments-mnist.json",
        "vqcodec experiments --data mnist --epochs 25 --report docs/results/experiments-mnist.html "
        "--out docs/results/experiments-mnist.json",
        experiments.tables, "experiments-mnist.html",
    ),
    Chapter(
        "VAE, + BN, + warm-up, LVAE on OMNIGLOT-28", "experiments-omniglot28.json",
        "vqcodec experiments --data omniglot28 --epochs 40 --limit 1000 "
        "--report docs/results/experiments-omniglot28.html --out docs/results/experiments-omniglot28.json",
        experiments.tables, "experiments-omniglot28.html",
    ),
    Chapter(
        "VQ-VAE on MNIST, with the bound of its likelihood", "vq-mnist-bound.json",
        "vqcodec eval vq-mnist --data mnist --limit 1000 --report docs/results/vq-mnist.html "
        "--out docs/results/vq-mnist-bound.json",
        vq.tables, "vq-mnist.html",
    ),
    Chapter(
        "The weight of the VQ-VAE's commitment term", "beta-mnist.json",
        "python -m vqcodec.eval.beta --data mnist --out docs/results/beta-mnist.json",
        beta.tables,
    ),
    *(
        Chapter(
            f"Archives: {data}", f"archive-{data}.json",
            f"vqcodec bench archive --data {data} --out docs/results/archive-{data}.json",
            archives.tables,
        )
        for data in ("mnist", "omniglot28", "mnist-binary", "omniglot28-binary")
    ),
    Chapter(
        "Photographs: Kodak's suite", "rd-kodak.json",
        "vqcodec bench rd ladder-photo vq-photo lossless-photo --data kodak --out docs/results/rd-kodak.json",
        photographs.tables, "crops-kodak.html",
    ),
)  # fmt: skip


def results(folder: Path) -> str:
    """The page of all chapters whose JSON is in the folder. Raises ResultsError for one that cannot be read."""
    found = [chapter for chapter in CHAPTERS if (folder / chapter.source).exists()]
    if not found:
        raise ResultsError(f"no result in {folder}")
    return "\n\n".join([_HEAD, *(_chapter(chapter, folder) for chapter in found)]) + "\n"


def _chapter(chapter: Chapter, folder: Path) -> str:
    try:
        result = json.loads((folder / chapter.source).read_text())
        tables = [markdown(table) for table in chapter.tables(result)]
        where = line(result["environment"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ResultsError(f"{folder / chapter.source} is no result of this chapter: {error!r}") from error
    links = [f"[JSON](results/{chapter.source})"]
    links += (
        [f"[page with figures](results/{chapter.page})"] if chapter.page and (folder / chapter.page).exists() else []
    )
    return "\n\n".join([f"## {chapter.title}", f"`{chapter.command}`", f"{', '.join(links)}. {where}.", *tables])


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Of the JSON files.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results.md"), show_default=True)
def main(folder: Path, out: Path) -> None:
    """Write the page of results."""
    try:
        files.write_bytes(out, results(folder).encode(), force=True)
    except (ResultsError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
