"""The commands that train and measure: `train`, `eval`, `experiments`, `bench`, `data`.

`main` loads them when asked for, so that decoding never does. Heavy imports happen inside the commands, so that
--help is quick."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .console import DEVICE, FORCE, JSON, PATH, check_device, show

_EVAL = __package__.rpartition(".")[0] + ".eval"
_PEER = click.option(
    "--peer",
    "others",
    multiple=True,
    metavar="compressai:ARCH:QUALITY:CHECKPOINT",
    help="Add a model of CompressAI (needs that package); checkpoint: a state dict, or random. May be repeated.",
)


@click.command()
@click.argument("recipe", metavar="RECIPE.toml")
@click.option("--out", type=PATH, help="Folder of the run (default runs/NAME).")
@click.option("--data-dir", type=PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--device", help="cpu or cuda; default: cuda where there is one.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--max-seconds", type=float, help="Stop after a checkpoint when this time is over.")
@click.option("--fit-seconds", type=float, help="Train for about this long, in fewer steps if needed.")
@click.option("--limit", type=click.IntRange(1), help="Train on the first N images only (a dry run).")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in the run's folder.")
@click.option("--init", type=PATH, help="Folder of a run of the same model, to start from its weights (fine-tuning).")
def train(
    recipe: str,
    out: Path | None,
    data_dir: Path | None,
    device: str | None,
    threads: int,
    max_seconds: float | None,
    fit_seconds: float | None,
    limit: int | None,
    resume: bool,
    init: Path | None,
) -> None:
    """Train a model from a recipe (a TOML file, or the name of one of the package's) and export its weights."""
    from ..training.run import run

    path = run(recipe, out, data_dir, device, threads, max_seconds, fit_seconds, limit, resume, init)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        click.echo(str(path) if path else "stopped before the end; continue with --resume")


_Option = Callable[[Callable[..., None]], Callable[..., None]]
_EVAL_OPTIONS: tuple[_Option, ...] = (
    click.option(
        "--report", metavar="OUT.html", type=PATH, help="Also write the result, with figures, as one HTML page."
    ),
    click.option(
        "--samples",
        metavar="K",
        type=click.IntRange(1),
        multiple=True,
        help="Also the bound of K importance samples, repeatable (Gaussian posteriors only; default 1, 50, 500).",
    ),
    click.option(
        "--precision",
        type=click.Choice(["bf16", "float32"]),
        help="Precision of matrix products in these bounds. Default: bf16 (for lvae-mnist, 0.003 nats from float32).",
    ),
)


_MODEL: _Option = click.argument("model")
_MODELS: _Option = click.argument("model", metavar="MODEL...", nargs=-1, required=True)
_ARCHIVE_MODEL: _Option = click.option(
    "--model", default="auto", show_default=True, help="auto, a model for archives, or its weights file."
)
_ANCHOR: _Option = click.option(
    "--anchor", metavar="CODEC", help="Of photographs: the codec that BD-rates are against (default JPEG)."
)
_JOBS: _Option = click.option(
    "--jobs", type=click.IntRange(0), default=0, show_default=True, help="Processes that code; 0: one per core."
)


def _no_photograph_models(names: Sequence[str]) -> None:
    """Raises UnsupportedImage if one of the models (names or weights files) is for photographs."""
    from ..bitstream.errors import UnsupportedImage
    from ..codec import models

    for name in names:
        if name != "auto" and models.named_takes_photographs(name):
            raise UnsupportedImage(f"{name} is for photographs: `vqcodec bench rd {name} --data kodak` measures it")


def _measurement(
    module: str,
    doc: str,
    model: _Option = _MODEL,
    peers: bool = False,
    options: Sequence[_Option] = (),
    photographs: str | None = None,
) -> Callable[..., None]:
    """A command that runs `measure` of a module of `eval` and shows its `table`. model: how it is told what to measure.
    peers: whether learned peers can be added.  options: of this command alone; `measure` gets all that are given, but
    `report`.  photographs: the module for sets of photographs, which alone gets `anchor`."""

    @model
    @click.option("--data", required=True, help="Data set: mnist, omniglot28, ...")
    @click.option("--split", default="test", show_default=True)
    @click.option("--data-dir", type=PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
    @click.option("--limit", type=click.IntRange(1), help="Use only the first N images.")
    @click.option("--out", type=PATH, help="Also write the result as JSON to this file.")
    @DEVICE
    @JSON
    def command(
        model: str | tuple[str, ...],
        data: str,
        split: str,
        data_dir: Path | None,
        limit: int | None,
        out: Path | None,
        device: str,
        as_json: bool,
        others: tuple[str, ...] = (),
        report: Path | None = None,
        **own: Any,
    ) -> None:
        from ..codec import files
        from ..training.data import datasets, photo_sets

        check_device(device)
        for target in filter(None, (out, report)):
            files.check_target(target, force=True)
        if out and report and os.path.realpath(out) == os.path.realpath(report):
            raise click.UsageError("--out and --report name the same file")
        more, load = (others,) if peers else (), photo_sets.load_any if photographs else datasets.load
        images = load(data, split, data_dir)
        of_photographs = photographs and isinstance(images, photo_sets.PhotoSet)
        measuring = import_module(photographs if photographs and of_photographs else module, _EVAL)
        if not of_photographs:
            _no_photograph_models([model] if isinstance(model, str) else model)
        given = {name: value for name, value in own.items() if value is not None}
        if "anchor" in given and not of_photographs:
            raise click.UsageError(f"--anchor is for photographs; {data} has none")
        result = asdict(measuring.measure(model, images, limit, device, *more, **given))
        if out:
            files.write_bytes(out, (json.dumps(result, indent=2) + "\n").encode(), force=True)
        if report:
            page = import_module(".report", _EVAL).report(result, model, images, device, _command_line())
            files.write_bytes(report, page.encode(), force=True)
        show(result, as_json, measuring.table(result))

    command.__doc__ = doc
    decorated: Callable[..., None] = command
    for option in reversed((*options, *((_PEER,) if peers else ()))):
        decorated = option(decorated)
    return decorated


def _command_line() -> str:
    """The command that runs, as one would type it."""
    context = click.get_current_context()
    words = ["vqcodec", *context.command_path.split()[1:]]
    for parameter in sorted(context.command.params, key=lambda one: isinstance(one, click.Option)):
        if context.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[parameter.name or ""]
        for one in value if isinstance(value, tuple) else (value,):
            words += _words(parameter, one)
    return shlex.join(words)


def _words(parameter: click.Parameter, value: Any) -> list[str]:
    """An argument or option with a value, as typed."""
    if isinstance(parameter, click.Argument):
        return [str(value)]
    if isinstance(value, bool):
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    return [parameter.opts[0], str(value)]


@click.group()
def bench() -> None:
    """Measure speed, size and quality against other codecs, and draw curves."""


@bench.command()
@click.argument("source", metavar="RESULT.json", type=PATH)
@click.argument("target", metavar="OUT.png", type=PATH)
@click.option("--published", is_flag=True, help="Add published curves of other codecs, dashed.")
def plot(source: Path, target: Path, published: bool) -> None:
    """Draw the rate-distortion curves of a result of `bench rd`; needs matplotlib."""
    from ..eval.bench.plots import plot

    plot(source, target, published)


@bench.command()
@click.argument("source", metavar="RESULT.json", type=PATH)
@click.argument("folder", metavar="FOLDER", type=PATH)
@FORCE
def convert(source: Path, folder: Path, force: bool) -> None:
    """Write a result of `bench rd` as CompressAI's JSON, a file per codec."""
    from ..eval.bench.compressai_json import convert

    for target in convert(source, folder, force):
        click.echo(str(target))


@bench.command()
@_MODELS
@click.option("--data", default="kodak", show_default=True, help="A set of photographs.")
@click.option("--split", default="test", show_default=True)
@click.option("--data-dir", type=PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option(
    "--bpp",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    show_default=True,
    help="Size of the first model's files, bits per pixel.",
)
@click.option(
    "--crop",
    "places",
    metavar="NAME:LEFT,TOP",
    multiple=True,
    help="What to show of which photograph; may be repeated.",
)
@click.option("--out", metavar="OUT.html", type=PATH, required=True, help="The page.")
@DEVICE
def crops(
    model: tuple[str, ...],
    data: str,
    split: str,
    data_dir: Path | None,
    bpp: float,
    places: tuple[str, ...],
    out: Path,
    device: str,
) -> None:
    """Write a page of crops of photographs, by models and classical codecs at equal size of their files."""
    from ..codec import files
    from ..eval.bench import crops
    from ..eval.report.crops import crops_page
    from ..training.data import photo_sets

    check_device(device)
    files.check_target(out, force=True)
    photos = photo_sets.load(data, split, data_dir)
    found = crops.measure(model, photos, bpp, places, device)
    files.write_bytes(out, crops_page(found, photos, _command_line()).encode(), force=True)
    click.echo(crops.table(found))


@click.command()
@click.argument("cells", metavar="[CELL]...", nargs=-1)
@click.option(
    "--data", default="mnist", show_default=True, help="mnist or omniglot28: all its cells, if none is named."
)
@click.option("--epochs", type=click.IntRange(1), default=2000, show_default=True, help="Of every cell.")
@click.option("--folder", type=PATH, default=Path("runs/experiments"), show_default=True, help="Of checkpoints.")
@click.option("--parallel", type=click.IntRange(1), default=1, show_default=True, help="Cells trained at a time.")
@click.option("--train/--no-train", default=True, show_default=True, help="Train cells, or only measure finished ones.")
@click.option("--data-dir", type=PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--limit", type=click.IntRange(1), help="Measure on the first N test images only.")
@click.option(
    "--samples",
    metavar="K",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 100),
    show_default=True,
    help="Importance samples of a bound; repeatable.",
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "float32"]),
    default="bf16",
    show_default=True,
    help="Precision of matrix products in bounds.",
)
@click.option("--out", type=PATH, help="Also write the result as JSON to this file.")
@click.option("--report", metavar="OUT.html", type=PATH, help="Also write tables and training curves as a page.")
@DEVICE
@JSON
def experiments(
    cells: tuple[str, ...],
    data: str,
    epochs: int,
    folder: Path,
    parallel: int,
    train: bool,
    data_dir: Path | None,
    limit: int | None,
    samples: tuple[int, ...],
    precision: str,
    out: Path | None,
    report: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Train and measure the comparisons of Sonderby et al. 2016, beside the paper's numbers.

    A CELL is KIND-LAYERS-DATA, such as lvae-5-mnist; kinds are vae, vae-bn, vae-bn-wu and lvae. What is trained
    or measured already is not done again, and what was begun goes on."""
    from ..codec import files
    from ..eval import experiments as table
    from ..training.experiments import Cell, table_cells

    check_device(device)
    for target in filter(None, (out, report)):
        files.check_target(target, force=True)
    chosen = [Cell.parse(cell) for cell in cells] or table_cells(data)
    result = asdict(table.measure(
        chosen, epochs, folder, data_dir=data_dir, limit=limit, device=device, parallel=parallel, samples=samples,
        precision=precision, train=train,
    ))  # fmt: skip
    if out:
        files.write_bytes(out, (json.dumps(result, indent=2) + "\n").encode(), force=True)
    if report:
        files.write_bytes(report, table.report(result, folder, _command_line()).encode(), force=True)
    show(result, as_json, table.table(result))


_EVAL_DOC = """Measure a model on a data set: real file sizes beside code lengths, distortion, speed.

Also, by family: codebook use; or KL, active units and -ELBO."""
_SPEED_DOC = "Time encoding and decoding of a data set; median of 5 runs."
_RD_DOC = """Compare rate and distortion of models on a data set with classical codecs, and learned ones that are named.

On photographs (--data kodak) with those of photographs, and by BD-rates too."""
_LOSSLESS_DOC = "Compare the size of lossless files of models on a data set with classical codecs."
_ARCHIVE_DOC = """Pack a data set into one archive and unpack it, by real processes: size, time, memory.

Beside it: -ELBO of the same model, initial bits, and classical codecs on the whole set."""
evaluate = click.command("eval")(_measurement(".model", _EVAL_DOC, options=_EVAL_OPTIONS))
bench.command("speed")(_measurement(".bench.speed", _SPEED_DOC, photographs=".bench.photo_speed"))
bench.command("rd")(
    _measurement(".bench.rd", _RD_DOC, model=_MODELS, peers=True, options=(_ANCHOR,), photographs=".bench.photographs")
)
bench.command("archive")(_measurement(".bench.archives", _ARCHIVE_DOC, _ARCHIVE_MODEL, options=(_JOBS,)))
bench.command("lossless")(_measurement(".bench.lossless", _LOSSLESS_DOC, model=_MODELS))


@click.group()
def data() -> None:
    """Get and check data sets."""


def _data_command(action: str, doc: str) -> Callable[[str, Path | None], None]:
    @click.argument("name")
    @click.option("--data-dir", type=PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
    def command(name: str, data_dir: Path | None) -> None:
        from ..training.data import download

        getattr(download, action)(name, data_dir)
        click.echo(f"{name}: ok")

    command.__doc__ = doc
    return command


data.command("get")(_data_command("get", "Download a data set and check its SHA-256."))
data.command("verify")(_data_command("verify", "Check the files of a data set."))


COMMANDS: dict[str, click.Command] = {
    "bench": bench, "data": data, "eval": evaluate, "experiments": experiments, "train": train
}  # fmt: skip
