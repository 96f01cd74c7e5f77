"""The commands for archives: `pack`, `unpack`, `verify`, and what `info` says of them. `main` loads them when asked.

Heavy imports happen inside the commands, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, BinaryIO

import click

from ..bitstream.errors import VqcodecError
from .bar import progress_bar
from .console import DEVICE, FORCE, JSON, LIMIT, check_device, note, printable, show, use_one_thread

if TYPE_CHECKING:
    from ..codec.archive.pack import Summary
    from ..codec.archive.reader import BlockTold, Damage


_TOLD = 20  # names of files that are told
_JOBS = click.option("--jobs", type=click.IntRange(0), default=0, show_default=True, help="Processes; 0: one per core.")


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.argument("target", metavar="OUT.vqa")
@click.option("--model", default="auto", show_default=True, help="auto, plain, a model's name, or a weights file.")
@_JOBS
@click.option("--ray", metavar="ADDRESS", help="Pack on a Ray cluster: local, auto, or ray://HOST:PORT.")
@click.option("--strict", is_flag=True, help="Stop at the first file that is damaged or not an image.")
@DEVICE
@FORCE
@LIMIT
@JSON
@click.pass_context
def pack(
    context: click.Context,
    sources: tuple[str, ...],
    target: str,
    model: str,
    jobs: int,
    ray: str | None,
    strict: bool,
    device: str,
    force: bool,
    max_pixels: int,
    max_bytes: int,
    as_json: bool,
) -> None:
    """Pack images into an archive, losslessly.

    A SOURCE is a folder (with all below it), an image file, @list.txt (a path per line), an IDX file (or .gz), a .npy
    or .npz file, or a URL of one of these. OUT.vqa may be - for stdout, or a pipe.

    The command names the files that it cannot pack on stderr and counts them. The exit code is 1 if they include
    images, or files and folders that it cannot read; other files (texts, pipes, links to folders) leave it at 0."""
    from ..codec.archive import api
    from . import streams

    piped = streams.is_stream(target)
    if not (piped or target.endswith(".vqa")):
        raise click.UsageError(f"name the archive to write last, ending in .vqa; found {target}")
    left_out = _refuse if strict else _note_skipped
    kept = _refuse if strict else _note_as_it_is
    check_device(device)
    use_one_thread()
    with progress_bar("packing") as progress, streams.output(target) if piped else nullcontext(target) as place:
        found = api.open_for(place, sources, left_out, max_pixels, max_bytes)
        progress.expect(found.total)
        told = api.pack(
            found, place, model=model, jobs=jobs, ray=ray, device=device, force=force, max_pixels=max_pixels,
            max_bytes=max_bytes, progress=progress, note=kept,
        )  # fmt: skip
    text = f"{printable(streams.in_words(target, True))}: {_in_words(told)}"
    show({"output": target} | asdict(told), as_json, text, err=streams.is_stdout(target))
    context.exit(bool(told.images_skipped))


def _in_words(told: Summary) -> str:
    ways = "; ".join(f"{share.images:,} {share.kind} {share.model or ''}".strip() for share in told.kinds)
    each = told.bytes_total / told.images
    text = f"{_count(told.images)}, {told.bytes_total:,} bytes, {each:,.2f} each ({ways})"
    text += f", {told.as_they_came:,} stored as they came" if told.as_they_came else ""
    text += f", {told.skipped:,} skipped" if told.skipped else ""
    return text + (f" ({told.images_skipped:,} of them images or unreadable)" if told.images_skipped else "")


def _count(images: int) -> str:
    return f"{images:,} image{'s' * (images != 1)}"


def _note_skipped(name: str, reason: str) -> None:
    if name not in reason:
        note(f"skipped {name}: {reason}")
    else:
        note(f"skipped {reason}" if reason.startswith(name) else f"skipped: {reason}")


def _note_as_it_is(name: str, reason: str) -> None:
    note(f"{name} was stored as it is: {reason}")


def _refuse(name: str, reason: str) -> None:
    raise VqcodecError(reason if name in reason else f"{name}: {reason}")


@click.command()
@click.argument("source", metavar="IN.vqa")
@click.argument("target", metavar="OUT")
@click.option("--only", metavar="NAME", multiple=True, help="Unpack only the image of this name. May be repeated.")
@click.option("--keep-going", is_flag=True, help="Unpack what can be read, and name the rest.")
@click.option("--model", help="The weights file of a model that is not built in.")
@_JOBS
@DEVICE
@FORCE
@LIMIT
@JSON
@click.pass_context
def unpack(
    context: click.Context,
    source: str,
    target: str,
    only: tuple[str, ...],
    keep_going: bool,
    model: str | None,
    jobs: int,
    device: str,
    force: bool,
    max_pixels: int,
    max_bytes: int,
    as_json: bool,
) -> None:
    """Unpack an archive into a folder of image files, or into one .npy, .npz or IDX (-ubyte, .idx) file.

    An image gets the file of its own name, unless the file system cannot have that name or its format cannot hold the
    image; notes on stderr say which files have other names. - stands for stdin."""
    from ..codec import files
    from ..codec.archive import api
    from ..codec.archive.reader import Archive
    from . import streams

    if streams.is_stream(target):
        raise click.UsageError(f"{target} is a stream, expected a folder or a file to unpack into; one called - is ./-")
    check_device(device)
    use_one_thread()
    with (
        files.naming(streams.in_words(source)),
        progress_bar("unpacking") as progress,
        streams.opened(source) as place,
        Archive(place, model, device, max_pixels=max_pixels, max_bytes=max_bytes) as archive,
    ):
        progress.expect(len(only) or len(archive))
        told = api.unpack(
            archive, target, only or None, force=force, keep_going=keep_going, jobs=jobs, progress=progress
        )
    _report(told.damaged)
    _report_renamed(told.renamed)
    values = {"input": source, "output": target} | asdict(told)
    others = f", {len(told.renamed):,} under other names" if told.renamed else ""
    name = printable(streams.in_words(source))
    show(values, as_json, f"{name} -> {printable(target)} ({_count(told.images)}{others})")
    context.exit(bool(told.damaged))


@click.command()
@click.argument("source", metavar="IN.vqa")
@click.option("--model", help="The weights file of a model that is not built in.")
@_JOBS
@DEVICE
@LIMIT
@JSON
@click.pass_context
def verify(
    context: click.Context,
    source: str,
    model: str | None,
    jobs: int,
    device: str,
    max_pixels: int,
    max_bytes: int,
    as_json: bool,
) -> None:
    """Decode every block of an archive, and name the damaged ones. - stands for stdin."""
    from ..codec import files
    from ..codec.archive.reader import Archive
    from . import streams

    check_device(device)
    use_one_thread()
    with (
        files.naming(streams.in_words(source)),
        progress_bar("verifying") as progress,
        streams.opened(source) as place,
        Archive(place, model, device, max_pixels=max_pixels, max_bytes=max_bytes) as archive,
    ):
        progress.expect(len(archive))
        damaged = archive.verify(progress, jobs)
        images, blocks = len(archive), len(archive.info().blocks)
    _report(damaged)
    values = {"input": source, "images": images, "blocks": blocks, "damaged": [asdict(one) for one in damaged]}
    state = f"{len(damaged)} damaged" if damaged else "all sound"
    text = f"{printable(streams.in_words(source))}: {_count(images)} in {blocks} block{'s' * (blocks != 1)}, {state}"
    show(values, as_json, text)
    context.exit(bool(damaged))


def _report(damaged: Sequence[Damage]) -> None:
    """The damaged blocks and the names lost with them, on stderr."""
    from ..bitstream.archive_names import Names, runs_of

    for one in damaged:
        click.echo(f"damaged: {printable(one.reason)}", err=True)
        for names in (Names([run]) for run in runs_of(one.names)):
            last = f" to {printable(names[-1])}" if len(names) > 1 else ""
            click.echo(f"lost: {printable(names[0])}{last}", err=True)


def _report_renamed(renamed: Sequence[tuple[str, str]]) -> None:
    """The first images whose files have other names, on stderr."""
    for name, file in renamed[:_TOLD]:
        note(f"{printable(name)} was unpacked as {printable(file)}")
    if len(renamed) > _TOLD:
        note(f"{len(renamed) - _TOLD:,} more images were unpacked under other names; --json lists all")


def archive_info(source: str | BinaryIO, names: bool, as_json: bool) -> None:
    """What `vqcodec info` prints of an archive, named or open. names: also those of the images."""
    from ..codec.archive.reader import Archive

    with Archive(source) as archive:
        told, listed = archive.info(), list(archive.names) if names else []
    values = {"kind": "archive"} | asdict(told) | ({"names": listed} if names else {})
    lines = [f"{'kind':14} archive", f"{'images':14} {told.images}", f"{'bytes total':14} {told.bytes_total}"]
    lines += [f"{f'block {block.number}':14} {_block_in_words(block)}" for block in told.blocks]
    show(values, as_json, "\n".join([*lines, *map(printable, listed)]))


def _block_in_words(block: BlockTold) -> str:
    way = " ".join(filter(None, (block.kind, block.model, block.mode)))
    return f"{_count(block.images)}, {block.bytes:,} bytes at {block.offset}: {way}"


COMMANDS: dict[str, click.Command] = {"pack": pack, "unpack": unpack, "verify": verify}
