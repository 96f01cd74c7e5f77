"""The command line: `vqcodec compress`, `decompress`, `info`, `models`; archives and measuring lie in other modules.

Results go to stdout, notes to stderr; an error is one line on stderr and exit code 1 (2 for wrong usage). Heavy imports
happen inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..bitstream.errors import VqcodecError
from ..codec.progress import Report, within
from .bar import Bar, progress_bar
from .console import DEVICE, FORCE, JSON, LIMIT, check_device, note, printable, show, use_one_thread
from .signals import ending_cleanly

if TYPE_CHECKING:
    from ..codec.api import Info
    from .routes import Route


_ELSEWHERE = dict.fromkeys(("pack", "unpack", "verify"), ".archives")
_ELSEWHERE |= dict.fromkeys(("bench", "data", "eval", "experiments", "train"), ".measuring")


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
            with ending_cleanly():
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
    """Compress images with learned models. Files decode the same on every machine.

    vqcodec compress digit.png digit.vqc

    vqcodec decompress digit.vqc digit.png

    vqcodec pack FOLDER images.vqa
    """


_OUTPUT = click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="The output file of one input, or a folder. A name that ends with / makes it.",
)


@dataclass(frozen=True)
class _Done:
    """What is told of a file that was written. values: for --json."""

    text: str
    values: dict[str, Any]
    notes: tuple[str, ...] = ()


_COMPRESS = """Compress image files.

\b
vqcodec compress a.png              writes a.vqc beside it
vqcodec compress a.png small.vqc    writes small.vqc
vqcodec compress a.png -o x.bin     the same, whatever the name
vqcodec compress a.png b.jpg c.jpg  writes a.vqc, b.vqc and c.vqc
vqcodec compress *.jpg -o small/    writes into the folder small
vqcodec compress - < a.png > a.vqc  reads stdin, writes stdout

Two names are an input and its output, so use -o if a pattern such as *.jpg may match two files. Only --force
overwrites a file, and it overwrites the second of two names only if that is a vqcodec file.

- stands for stdin or stdout; you can name pipes and /dev/stdin, too. A file called - is ./- . If the file goes
to stdout, the line about it goes to stderr.

If some of several inputs cannot be compressed, the command names them, compresses the others, and exits with
code 1."""


@main.command(help=_COMPRESS)
@click.argument("names", metavar="IN [OUT] | IN...", nargs=-1, required=True)
@_OUTPUT
@click.option("--model", default="auto", show_default=True, help="auto, plain, a model's name, or a weights file.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="1 (smallest file) to 100 (best). Default: 60, or the best rate of a named model.",
)
@click.option("--lossless", is_flag=True, help="Keep every pixel.")
@click.option(
    "--bpp",
    metavar="TARGET",
    type=click.FloatRange(0, min_open=True),
    help="For photographs: the best quality that fits into this many bits per pixel.",
)
@click.option("--keep-metadata", is_flag=True, help="For photographs: keep the colour profile and EXIF.")
@DEVICE
@FORCE
@LIMIT
@JSON
def compress(
    names: tuple[str, ...],
    output: str | None,
    model: str,
    quality: int | None,
    lossless: bool,
    bpp: float | None,
    keep_metadata: bool,
    device: str,
    force: bool,
    max_pixels: int,
    max_bytes: int,
    as_json: bool,
) -> None:
    """Compress image files."""
    if bpp is not None and not 0 < bpp < float("inf"):
        raise click.UsageError("--bpp must be a number above 0")
    if bpp is not None and (lossless or quality is not None):
        raise click.UsageError("--bpp cannot be combined with --quality or --lossless")
    with progress_bar("compressing", _inputs(names, output)) as bar:
        from ..codec import api, files
        from . import routes, streams

        def one(route: Route, progress: Report) -> _Done:
            data, target = streams.contents(route.source), route.target
            streams.check_target(target, force, route.source)
            name = streams.in_words(route.source)
            with files.naming(name):
                blob, image = files.compress(
                    name, data, model, lossless, quality, device, max_pixels, bpp, keep_metadata, max_bytes, progress
                )
            streams.put(target, blob, force)
            told = api.info(blob, max_pixels, model=model, max_bytes=max_bytes)
            notes = _notes(told, len(blob), image.size, model, lossless, bpp, keep_metadata)
            values = {"input": route.source, "output": target, "bytes_in": image.size, "bytes_out": len(blob)}
            values |= {"method": told.method, "lossless": told.lossless}
            text = (
                f"{name} {image.size:,} bytes -> {streams.in_words(target, True)} {len(blob):,} bytes "
                f"({len(blob) / image.size:.1%}, {told.method}{_kept(told)})"
            )
            return _Done(text, values, notes)

        found = routes.routes(names, output, routes.COMPRESS)
        _begin(found, output, device)
        _each(found, one, bar, as_json, "compressed")


def _notes(
    told: Info, bytes_out: int, bytes_in: int, model: str, lossless: bool, bpp: float | None, keep_metadata: bool
) -> tuple[str, ...]:
    """What a user may not expect of a file that was made with these options."""
    notes = []
    if told.lossless and not lossless and model not in ("auto", "plain") and told.settings != 0:
        badly = f"{model} renders this image badly, or in no fewer bytes than a lossless file"
        notes.append(f"{badly}; it was stored losslessly")
    rate = 8 * bytes_out / (told.width * told.height)
    if bpp is not None and rate > bpp:
        notes.append(f"this image needs at least {rate:.3f} bits per pixel")
    if keep_metadata and told.kind == "plain":
        notes.append("stored losslessly without a model, so colour profile and EXIF are lost")
    if bytes_out > bytes_in:
        notes.append("the output is larger than the input, because its pixels were stored losslessly")
    return tuple(notes)


_DECOMPRESS = """Decompress files to images: PNG, or BMP, TIFF, PPM or lossless WebP by the output's suffix.

\b
vqcodec decompress a.vqc              writes a.png beside it
vqcodec decompress a.vqc b.tiff       writes b.tiff
vqcodec decompress a.vqc -o b.png     the same, whatever the name
vqcodec decompress a.vqc b.vqc c.vqc  writes a.png, b.png and c.png
vqcodec decompress *.vqc -o images/   writes into the folder images
vqcodec decompress - < a.vqc > a.png  reads stdin, writes a PNG file to stdout

Two names are an input and its output, so use -o if a pattern such as *.vqc may match two files. Only --force
overwrites a file, and it overwrites the second of two names only if that is an image.

- stands for stdin or stdout; you can name pipes and /dev/stdin, too. A file called - is ./- . If the image goes
to stdout, the line about it goes to stderr.

If some of several inputs cannot be decompressed, the command names them, decompresses the others, and exits with
code 1."""


@main.command(help=_DECOMPRESS)
@click.argument("names", metavar="IN [OUT] | IN...", nargs=-1, required=True)
@_OUTPUT
@click.option("--model", help="The weights file of a model that is not built in.")
@click.option("--preview", is_flag=True, help="Write a lossy preview from the start of the file, which may be cut.")
@DEVICE
@FORCE
@LIMIT
@JSON
def decompress(
    names: tuple[str, ...],
    output: str | None,
    model: str | None,
    preview: bool,
    device: str,
    force: bool,
    max_pixels: int,
    max_bytes: int,
    as_json: bool,
) -> None:
    """Decompress files to images."""
    with progress_bar("decompressing", _inputs(names, output)) as bar:
        from ..codec import api, files
        from . import routes, streams

        def one(route: Route, progress: Report) -> _Done:
            blob, path = streams.contents(route.source), Path(route.target)
            streams.check_target(route.target, force, route.source)
            name, whole = streams.in_words(route.source), True
            with files.naming(name):
                if preview:
                    data, whole = files.preview_bytes(blob, path, model, device, max_pixels, max_bytes)
                else:
                    data = files.image_bytes(blob, path, model, device, max_pixels, max_bytes, progress)
            streams.put(route.target, data, force)
            cut = "the file is cut or damaged; the preview is what its start says, without a checksum"
            told = api.info(blob, max_pixels, whole, model, max_bytes=max_bytes)
            values: dict[str, Any] = {"input": route.source, "output": route.target, "mode": told.mode}
            values |= {"width": told.width, "height": told.height, "preview": preview}
            shown = f"{told.width} x {told.height}, {told.mode}, {'preview of ' * preview}{told.method}"
            return _Done(f"{name} -> {streams.in_words(route.target, True)} ({shown})", values, () if whole else (cut,))

        found = routes.routes(names, output, routes.DECOMPRESS)
        _begin(found, output, device)
        _each(found, one, bar, as_json, "decompressed")


def _inputs(names: Sequence[str], output: str | None) -> int:
    """How many of the names are inputs."""
    return len(names) if output is not None or len(names) != 2 else 1


def _begin(found: Sequence[Route], output: str | None, device: str) -> None:
    """What can be checked and made before the first file is read. Raises VqcodecError."""
    from . import routes, streams

    check_device(device)
    paths = [Path(route.source) for route in found if not streams.is_stream(route.source)]
    there = [path for path in paths if path.is_file()]
    if there and len(there) == len(found):
        use_one_thread(max(there, key=lambda path: path.stat().st_size))
    routes.make_folder(output)


def _each(found: Sequence[Route], work: Callable[[Route, Report], _Done], bar: Bar, as_json: bool, done: str) -> None:
    """Do the work of every route, and print what came of it. Raises what the work raises if there is one; of several,
    prints what went wrong with each, goes on, and raises ClickException in the end."""
    from . import streams

    failed = 0
    for number, route in enumerate(found):
        bar.reach(number)
        try:
            result = work(route, within(bar.reach, number, number + 1))
        except (VqcodecError, OSError, MemoryError) as error:
            if len(found) == 1:
                raise
            failed += 1
            message = _in_words(error)
            message = message if route.source in message else f"{route.source}: {message}"
            with bar.aside():
                click.echo(f"Error: {printable(message)}", err=True)
                if as_json:
                    show({"input": route.source, "error": message}, True, "")
            continue
        with bar.aside():
            for text in result.notes:
                note(text if len(found) == 1 else f"{route.source}: {text}")
            show(result.values, as_json, printable(result.text), err=streams.is_stdout(route.target))
    if failed:
        raise click.ClickException(f"{failed} of {len(found)} files could not be {done}")


def _in_words(error: BaseException) -> str:
    return "out of memory" if isinstance(error, MemoryError) else " ".join(str(error).split())


@main.command()
@click.argument("source", metavar="IN.vqc|IN.vqa|-")
@click.option("--model", help="The weights file of a model that is not built in.")
@click.option("--names", is_flag=True, help="Also list the names of an archive's images.")
@LIMIT
@JSON
def info(source: str, model: str | None, names: bool, max_pixels: int, max_bytes: int, as_json: bool) -> None:
    """Show what a vqcodec file or archive holds, without decoding it. - stands for stdin."""
    from ..codec import api, files
    from ..codec.archive.api import is_archive
    from . import streams

    with streams.opened(source) as place, files.naming(streams.in_words(source)):
        if is_archive(place):
            from .archives import archive_info

            archive_info(place, names, as_json)
            return
        blob = streams.contents(source) if isinstance(place, str) else place.read(files.MAX_FILE)
        known = api.info(blob, max_pixels, model=model, max_bytes=max_bytes)
    told = {name: value for name, value in vars(known).items() if value is not None}
    show(told, as_json, "\n".join(f"{name.replace('_', ' '):14} {value}" for name, value in told.items()))


@main.command()
@JSON
def models(as_json: bool) -> None:
    """List the models of this build."""
    from ..codec import models as registry

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
