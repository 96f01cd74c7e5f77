"""The command line: `vqcodec compress`, `decompress`, `info`, `models`; archives and measuring lie in other modules.

Results go to stdout, notes to stderr; an error is one line on stderr and exit code 1 (2 for wrong usage). Heavy imports
happen inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .bitstream.errors import VqcodecError
from .codec.console import DEVICE, FORCE, JSON, LIMIT, PATH, check_device, note, printable, show, use_one_thread

if TYPE_CHECKING:
    from .codec.api import Info


_ELSEWHERE = dict.fromkeys(("pack", "unpack", "verify"), ".codec.archive.commands")
_ELSEWHERE |= dict.fromkeys(("bench", "data", "eval", "experiments", "train"), ".eval.commands")


class _Group(click.Group):
    """Turns our errors into one line on stderr, and a broken pipe or Ctrl-C into a quiet end.

    Commands of other modules are loaded when they are asked for: decoding loads nothing that trains or measures."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        found: click.Command = import_module(_ELSEWHERE[cmd_name], __package__).COMMANDS[cmd_name]
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VqcodecError as error:
            raise click.ClickException(printable(" ".join(str(error).split()))) from error
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

    vqcodec pack FOLDER images.vqa
    """


@main.command()
@click.argument("source", metavar="IN.png", type=PATH)
@click.argument("target", metavar="[OUT.vqc]", type=PATH, required=False)
@click.option("--model", default="auto", show_default=True, help="auto, plain, a model's name, or a weights file.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="1 (smallest file) to 100 (best); default: 60, or a named model's best.",
)
@click.option("--lossless", is_flag=True, help="Keep every pixel.")
@click.option(
    "--bpp",
    metavar="TARGET",
    type=click.FloatRange(0, min_open=True),
    help="Photographs: the best quality whose file takes at most this many bits per pixel.",
)
@click.option("--keep-metadata", is_flag=True, help="Photographs: keep colour profile and EXIF.")
@DEVICE
@FORCE
@LIMIT
@JSON
def compress(
    source: Path,
    target: Path | None,
    model: str,
    quality: int | None,
    lossless: bool,
    bpp: float | None,
    keep_metadata: bool,
    device: str,
    force: bool,
    max_pixels: int,
    as_json: bool,
) -> None:
    """Compress an image file. The output's name defaults to the input's with .vqc in place of its suffix."""
    from .codec import api, files

    if bpp is not None and not 0 < bpp < float("inf"):
        raise click.UsageError("--bpp has to be a number above 0")
    if bpp is not None and (lossless or quality is not None):
        raise click.UsageError("--bpp stands in place of --quality and --lossless")
    files.read_bytes(source)  # a missing input is the first thing to tell
    target = target or source.with_suffix(files.SUFFIX)
    files.check_target(target, force, source)
    check_device(device)
    use_one_thread(source)
    with files.naming(source):
        blob, image = files.compress(source, model, lossless, quality, device, max_pixels, bpp, keep_metadata)
    files.write_bytes(target, blob, force)
    told = api.info(blob, max_pixels, model=model)
    if told.lossless and not lossless and model not in ("auto", "plain") and told.settings != 0:
        note(f"{model} renders this image badly or no smaller; it was stored losslessly")
    found = 8 * len(blob) / (told.width * told.height)
    if bpp is not None and found > bpp:
        note(f"{found:.3f} bits per pixel is the least for this image")
    if keep_metadata and told.kind == "plain":
        note("stored losslessly without a model, which keeps no metadata")
    if len(blob) > image.size:
        note("the output is larger than the input, whose pixels were stored losslessly")
    values = {"input": str(source), "output": str(target), "bytes_in": image.size, "bytes_out": len(blob)}
    values |= {"method": told.method, "lossless": told.lossless}
    show(
        values,
        as_json,
        f"{source} {image.size:,} bytes -> {target} {len(blob):,} bytes "
        f"({len(blob) / image.size:.1%}, {told.method}{_kept(told)})",
    )


@main.command()
@click.argument("source", metavar="IN.vqc", type=PATH)
@click.argument("target", metavar="[OUT.png]", type=PATH, required=False)
@click.option("--model", help="Weights file for a model that is not built in.")
@click.option("--preview", is_flag=True, help="A lossy preview from the start of the file, which may have been cut.")
@DEVICE
@FORCE
@LIMIT
@JSON
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
    check_device(device)
    use_one_thread(source)
    with files.naming(source):
        if preview:
            data, whole = files.preview_bytes(blob, target, model, device, max_pixels)
        else:
            data, whole = files.image_bytes(blob, target, model, device, max_pixels), True
    files.write_bytes(target, data, force)
    if not whole:
        note("the file is cut or damaged; the preview shows what its start says, unchecked")
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
    show(values, as_json, f"{source} -> {target} ({shown})")


@main.command()
@click.argument("source", metavar="IN.vqc|IN.vqa")
@click.option("--model", help="Weights file for a model that is not built in.")
@click.option("--names", is_flag=True, help="Also list the names of an archive's images.")
@LIMIT
@JSON
def info(source: str, model: str | None, names: bool, max_pixels: int, as_json: bool) -> None:
    """Tell what a vqcodec file or archive holds, without decoding it."""
    from .codec import api, files
    from .codec.archive.api import is_archive

    if is_archive(source):
        from .codec.archive.commands import archive_info

        archive_info(source, names, as_json)
        return
    with files.naming(source):
        known = api.info(files.read_bytes(Path(source)), max_pixels, model=model)
    told = {name: value for name, value in vars(known).items() if value is not None}
    show(told, as_json, "\n".join(f"{name.replace('_', ' '):14} {value}" for name, value in told.items()))


@main.command()
@JSON
def models(as_json: bool) -> None:
    """List the models of this build."""
    from .codec import models as registry

    numbered = registry.available() | registry.for_archives() | registry.for_photographs()
    found = [*numbered.items(), *((None, description) for description in registry.for_measuring())]
    rows = [
        {"number": number, "name": d.name, "family": d.family, "note": d.recipe.get("note", ""), "results": d.results}
        for number, d in found
    ]
    lines = [_model_line(row["number"], row["name"], row["family"], row["note"].partition(";")[0]) for row in rows]
    show({"models": rows}, as_json, "\n".join([*lines, _model_line(None, "plain", "lossless", "any image, no model")]))


def _model_line(number: int | None, name: str, family: str, note: str) -> str:
    return f"{number or '-':>3}  {name:25} {family:14}  {note}"


def _kept(told: Info) -> str:
    """Whether pixels were kept, unless the method says it."""
    kept = "lossless" if told.lossless else "lossy"
    return "" if kept in told.method else f", {kept}"


if __name__ == "__main__":
    main()
