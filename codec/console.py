"""What commands share: options, printing, progress, and the check of --device. Heavy imports happen inside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..bitstream.archive_names import shown
from ..bitstream.errors import VqcodecError

_SMALL = 1 << 12  # bytes of a file

PATH = click.Path(path_type=Path)
LIMIT = click.option(
    "--max-pixels", type=click.IntRange(1), default=1 << 28, show_default=True, help="Refuse larger images."
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda, cuda:1, ...")
FORCE = click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")


def check_device(device: str) -> None:
    """Raises VqcodecError for a device that is not there, before any work is done; torch is loaded only if asked."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise VqcodecError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def use_one_thread(source: Path | None = None) -> None:
    """A single small image is done sooner on one thread, above all where others use the cores too.

    source: a file; if it is not small, neither may the image be, and it is left to torch."""
    if source is not None and source.stat().st_size >= _SMALL:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not loaded yet


def show(values: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result, as text or as one line of JSON."""
    click.echo(json.dumps(values) if as_json else text)


def note(text: str) -> None:
    """Print a line on stderr that is no error."""
    click.echo(f"note: {printable(' '.join(text.split()))}", err=True)


def printable(text: str) -> str:
    """Text in which control characters, odd bytes of names, and what stdout cannot print are escaped."""
    return shown(text, sys.stdout.encoding)


@contextmanager
def progress_bar(action: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how much is done, if that is a terminal. Gives a function to be told how much was done since."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(action, total=total)
        yield lambda done: progress.advance(task, done)
