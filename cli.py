"""The command line: `vqcodec compress`, `decompress`, `info`, `models`, `train`, `eval`, `bench`, `data`.

Results go to stdout, notes to stderr; an error is one line on stderr and exit code 1 (2 for wrong usage). Heavy imports
happen inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from . import __version__
from .bitstream.errors import VqcodecError

if TYPE_CHECKING:
    from .codec.api import Info

_PATH = click.Path(path_type=Path)
_LIMIT = click.option(
    "--max-pixels", type=click.IntRange(1), default=1 << 28, show_default=True, help="Refuse larger images."
)
_DEVICE = click.option("--device", default="cpu", show_default=True, help="Where networks run: cpu, cuda, cuda:1, ...")
_FORCE = click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
_PEER = click.option(
    "--peer",
    "others",
    multiple=True,
    metavar="compressai:ARCH:QUALITY:CHECKPOINT",
    help="Add a model of CompressAI (needs that package); checkpoint: a state dict, or random. May be repeated.",
)


class _Group(click.Group):
    """Turns our errors into one line on stderr, and a broken pipe or Ctrl-C into a quiet end."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VqcodecError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                sys.stderr.close()
                sys.exit(1)
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            raise click.ClickException("out of memory") from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vqcodec")
def main() -> None:
    """Compress images with learned models, decoded bit for bit the same on every machine.

    vqcodec compress digit.png digit.vqc

    vqcodec decompress digit.vqc digit.png
    """


@main.command()
@click.argument("source", metavar="IN.png", type=_PATH)
@click.argument("target", metavar="[OUT.vqc]", type=_PATH, required=False)
@click.option("--model", default="auto", show_default=True, help="auto, plain, a model's name, or a weights file.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="1 (smallest file) to 100 (best); default: 60, or a named model's best.",
)
@click.option("--lossless", is_flag=True, help="Keep every pixel.")
@_DEVICE
@_FORCE
@_LIMIT
@_JSON
def compress(
    source: Path,
    target: Path | None,
    model: str,
    quality: int | None,
    lossless: bool,
    device: str,
    force: bool,
    max_pixels: int,
    as_json: bool,
) -> None:
    """Compress an image file. The output's name defaults to the input's with .vqc in place of its suffix."""
    from .codec import api, files

    files.read_bytes(source)  # a missing input is the first thing to tell
    target = target or source.with_suffix(files.SUFFIX)
    files.check_target(target, force, source)
    _check_device(device)
    _use_one_thread()
    with files.naming(source):
        blob, image = files.compress(source, model, lossless, quality, device, max_pixels)
    files.write_bytes(target, blob, force)
    told = api.info(blob, max_pixels, model=model)
    if told.lossless and not lossless and model not in ("auto", "plain") and told.settings != 0:
        click.echo(f"note: {model} renders this image badly or no smaller; it was stored losslessly", err=True)
    if len(blob) > image.size:
        click.echo("note: the output is larger than the input, whose pixels were stored losslessly", err=True)
    values = {"input": str(source), "output": str(target), "bytes_in": image.size, "bytes_out": len(blob)}
    values |= {"method": told.method, "lossless": told.lossless}
    _print(
        values,
        as_json,
        f"{source} {image.size:,} bytes -> {target} {len(blob):,} bytes "
        f"({len(blob) / image.size:.1%}, {told.method}{_kept(told)})",
    )


@main.command()
@click.argument("source", metavar="IN.vqc", type=_PATH)
@click.argument("target", metavar="[OUT.png]", type=_PATH, required=False)
@click.option("--model", help="Weights file for a model that is not built in.")
@click.option("--preview", is_flag=True, help="A lossy preview from the start of the file, which may have been cut.")
@_DEVICE
@_FORCE
@_LIMIT
@_JSON
def decompress(
    source: Path,
    target: Path | None,
    model: str | None,
    preview: bool,
    device: str,
    force: bool,
    max_pixels: int,
    as_json: bool,
) -> None:
    """Decompress a file to an image: PNG, or BMP, TIFF, PPM or lossless WebP by the output's suffix."""
    from .codec import api, files

    blob = files.read_bytes(source)
    target = target or source.with_suffix(".png")
    files.check_target(target, force, source)
    _check_device(device)
    _use_one_thread()
    with files.naming(source):
        if preview:
            data, whole = files.preview_bytes(blob, target, model, device, max_pixels)
        else:
            data, whole = files.image_bytes(blob, target, model, device, max_pixels), True
    files.write_bytes(target, data, force)
    if not whole:
        click.echo("note: the file is cut or damaged; the preview shows what its start says, unchecked", err=True)
    told = api.info(blob, max_pixels, whole, model)
    values = {
        "input": str(source),
        "output": str(target),
        "mode": told.mode,
        "width": told.width,
        "height": told.height,
        "preview": preview,
    }
    shown = f"{told.width} x {told.height}, {told.mode}, {'preview of ' * preview}{told.method}"
    _print(values, as_json, f"{source} -> {target} ({shown})")


@main.command()
@click.argument("source", metavar="IN.vqc", type=_PATH)
@click.option("--model", help="Weights file for a model that is not built in.")
@_LIMIT
@_JSON
def info(source: Path, model: str | None, max_pixels: int, as_json: bool) -> None:
    """Tell what a vqcodec file holds, without decoding it."""
    from .codec import api, files

    with files.naming(source):
        known = api.info(files.read_bytes(source), max_pixels, model=model)
    told = {name: value for name, value in vars(known).items() if value is not None}
    _print(told, as_json, "\n".join(f"{name.replace('_', ' '):14} {value}" for name, value in told.items()))


@main.command()
@_JSON
def models(as_json: bool) -> None:
    """List the models of this build."""
    from .codec import models as registry

    found = [*registry.available().items(), *((None, d) for d in registry.for_measuring())]
    rows = [
        {"number": number, "name": d.name, "family": d.family, "note": d.recipe.get("note", ""), "results": d.results}
        for number, d in found
    ]
    lines = [_model_line(row["number"], row["name"], row["family"], row["note"].partition(";")[0]) for row in rows]
    _print(
        {"models": rows}, as_json, "\n".join([*lines, _model_line(None, "plain", "lossless", "any image, no model")])
    )


@main.command()
@click.argument("recipe", metavar="RECIPE.toml")
@click.option("--out", type=_PATH, help="Folder of the run (default runs/NAME).")
@click.option("--data-dir", type=_PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
@click.option("--device", help="cpu or cuda; default: cuda where there is one.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--max-seconds", type=float, help="Stop after a checkpoint when this time is over.")
@click.option("--limit", type=click.IntRange(1), help="Train on the first N images only (a dry run).")
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in the run's folder.")
@click.option("--init", type=_PATH, help="Folder of a run of the same model, to start from its weights (fine-tuning).")
def train(
    recipe: str,
    out: Path | None,
    data_dir: Path | None,
    device: str | None,
    threads: int,
    max_seconds: float | None,
    limit: int | None,
    resume: bool,
    init: Path | None,
) -> None:
    """Train a model from a recipe (a TOML file, or the name of one of the package's) and export its weights."""
    from .training.run import run

    path = run(recipe, out, data_dir, device, threads, max_seconds, limit, resume, init)
    click.echo(str(path) if path else "stopped before the end; continue with --resume")


_Option = Callable[[Callable[..., None]], Callable[..., None]]
_EVAL_OPTIONS: tuple[_Option, ...] = (
    click.option(
        "--report", metavar="OUT.html", type=_PATH, help="Also write the result, with figures, as one HTML page."
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
        help="Of matrix products in those bounds; default bf16 (for lvae-mnist, 0.003 nats from float32).",
    ),
)


def _model_line(number: int | None, name: str, family: str, note: str) -> str:
    return f"{number or '-':>3}  {name:24} {family:8}  {note}"


def _measurement(
    module: str,
    doc: str,
    models: bool = False,
    peers: bool = False,
    options: Sequence[_Option] = (),
) -> Callable[..., None]:
    """A command that runs `measure` of a module of `eval` and shows its `table`. models: whether it takes several.
    peers: whether learned peers can be added.  options: of this command alone; `measure` gets all but `report`."""

    @click.argument("model", metavar="MODEL...", nargs=-1, required=True) if models else click.argument("model")
    @click.option("--data", required=True, help="Data set: mnist, omniglot28, ...")
    @click.option("--split", default="test", show_default=True)
    @click.option("--data-dir", type=_PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
    @click.option("--limit", type=click.IntRange(1), help="Only the first N images.")
    @click.option("--out", type=_PATH, help="Also write the result as JSON to this file.")
    @_DEVICE
    @_JSON
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
        from .codec import files
        from .training.datasets import load

        measuring = import_module(module, __package__)
        _check_device(device)
        for target in filter(None, (out, report)):
            files.check_target(target, force=True)
        if out and report and os.path.realpath(out) == os.path.realpath(report):
            raise click.UsageError("--out and --report name the same file")
        more, images = (others,) if peers else (), load(data, split, data_dir)
        result = asdict(measuring.measure(model, images, limit, device, *more, **own))
        if out:
            files.write_bytes(out, (json.dumps(result, indent=2) + "\n").encode(), force=True)
        if report:
            page = import_module(".eval.report", __package__).report(result, model, images, device, _command_line())
            files.write_bytes(report, page.encode(), force=True)
        _print(result, as_json, measuring.table(result))

    command.__doc__ = doc
    decorated: Callable[..., None] = command
    for option in reversed((*options, *((_PEER,) if peers else ()))):
        decorated = option(decorated)
    return decorated


def _command_line() -> str:
    """The command that runs, as one would type it."""
    context = click.get_current_context()
    words = ["vqcodec", context.info_name or ""]
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


@main.group()
def bench() -> None:
    """Measure speed, and size, rate and distortion beside classical codecs."""


@bench.command()
@click.argument("source", metavar="RESULT.json", type=_PATH)
@click.argument("target", metavar="OUT.png", type=_PATH)
def plot(source: Path, target: Path) -> None:
    """Draw the rate-distortion curves of a result of `bench rd`; needs matplotlib."""
    from .eval.bench.rd import plot

    plot(source, target)


@bench.command()
@click.argument("source", metavar="RESULT.json", type=_PATH)
@click.argument("folder", metavar="FOLDER", type=_PATH)
@_FORCE
def convert(source: Path, folder: Path, force: bool) -> None:
    """Write a result of `bench rd` as CompressAI's JSON, a file per codec."""
    from .eval.bench.compressai_json import convert

    for target in convert(source, folder, force):
        click.echo(str(target))


@main.command()
@click.argument("cells", metavar="[CELL]...", nargs=-1)
@click.option(
    "--data", default="mnist", show_default=True, help="mnist or omniglot28: all its cells, if none is named."
)
@click.option("--epochs", type=click.IntRange(1), default=2000, show_default=True, help="Of every cell.")
@click.option("--folder", type=_PATH, default=Path("runs/experiments"), show_default=True, help="Of checkpoints.")
@click.option("--parallel", type=click.IntRange(1), default=1, show_default=True, help="Cells trained at a time.")
@click.option("--train/--no-train", default=True, show_default=True, help="Or only measure what is finished.")
@click.option("--data-dir", type=_PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
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
    help="Of matrix products in bounds.",
)
@click.option("--out", type=_PATH, help="Also write the result as JSON to this file.")
@click.option("--report", metavar="OUT.html", type=_PATH, help="Also write tables and training curves as a page.")
@_DEVICE
@_JSON
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
    from .codec import files
    from .eval import experiments as table
    from .training.experiments import Cell, table_cells

    _check_device(device)
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
    _print(result, as_json, table.table(result))


_EVAL_DOC = """Measure a model on a data set: real file sizes beside code lengths, distortion, speed.

Also, by family: codebook use; or KL, active units and -ELBO."""
_SPEED_DOC = "Time encoding and decoding of a data set; median of 5 runs."
_RD_DOC = "Compare rate and distortion of models on a data set with classical codecs, and learned ones that are named."
_LOSSLESS_DOC = "Compare the size of lossless files of models on a data set with classical codecs."
main.command("eval")(_measurement(".eval.model", _EVAL_DOC, options=_EVAL_OPTIONS))
bench.command("speed")(_measurement(".eval.bench.speed", _SPEED_DOC))
bench.command("rd")(_measurement(".eval.bench.rd", _RD_DOC, models=True, peers=True))
bench.command("lossless")(_measurement(".eval.bench.lossless", _LOSSLESS_DOC, models=True))


@main.group()
def data() -> None:
    """Get and check data sets."""


def _data_command(action: str, doc: str) -> Callable[[str, Path | None], None]:
    @click.argument("name")
    @click.option("--data-dir", type=_PATH, help="Folder of the data sets (default $VQCODEC_DATA).")
    def command(name: str, data_dir: Path | None) -> None:
        from .training import download

        getattr(download, action)(name, data_dir)
        click.echo(f"{name}: ok")

    command.__doc__ = doc
    return command


data.command("get")(_data_command("get", "Download a data set and check its SHA-256."))
data.command("verify")(_data_command("verify", "Check the files of a data set."))


def _use_one_thread() -> None:
    """A single small image is done sooner on one thread, above all where others use the cores too."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch is not loaded yet


def _check_device(device: str) -> None:
    """Raises VqcodecError for a device that is not there, before any work is done; torch is loaded only if asked."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise VqcodecError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _kept(told: Info) -> str:
    """Whether pixels were kept, unless the method says it."""
    kept = "lossless" if told.lossless else "lossy"
    return "" if kept in told.method else f", {kept}"


def _print(values: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(values) if as_json else text)


if __name__ == "__main__":
    main()
