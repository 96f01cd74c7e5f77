"""What commands share: options, printing, and the check of --device. Heavy imports happen inside."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..bitstream.archive_names import shown

F = TypeVar("F", bound=Callable[..., Any])

_SMALL = 1 << 12  # bytes of a file

PATH = click.Path(path_type=Path)
_MAX_PIXELS = click.option(
    "--max-pixels", type=click.IntRange(1), default=1 << 28, show_default=True, help="Refuse images of more pixels."
)
_MAX_BYTES = click.option(
    "--max-bytes",
    type=click.IntRange(1),
    default=1 << 30,
    show_default=True,
    help="Refuse images that take more bytes once decoded.",
)
DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="Where to run the networks: cpu, cuda, cuda:1, ..."
)
FORCE = click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")


def LIMIT(command: F) -> F:
    """The options --max-pixels and --max-bytes."""
    return _MAX_PIXELS(_MAX_BYTES(command))


def check_device(device: str) -> None:
    """Raises BadArgument for a device that is not there, before any work is done; for the CPU nothing is loaded."""
    if device != "cpu":
        from ..codec.inputs import checked_device

        checked_device(device)


def use_one_thread(source: Path | None = None) -> None:
    """A single small image is done sooner on one thread, above all where others use the cores too.

    source: a file; if it is not small, neither may the image be, and torch takes as many threads as there are cores,
    which sleep while they wait for each other."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch is not loaded yet
    if source is None or source.stat().st_size < _SMALL:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def show(values: dict[str, Any], as_json: bool, text: str, err: bool = False) -> None:
    """Print a result, as lines of text or as one line of JSON. err: on stderr, where stdout takes data."""
    click.echo(json.dumps(values) if as_json else "\n".join(map(printable, text.split("\n"))), err=err)


def note(text: str) -> None:
    """Print a line on stderr that is no error."""
    click.echo(f"note: {printable(' '.join(text.split()))}", err=True)


def printable(text: str) -> str:
    """Text in which control characters, odd bytes of names, and what stdout cannot print are escaped."""
    return shown(text, sys.stdout.encoding)
