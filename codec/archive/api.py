"""Packing and unpacking of archives: the public functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import BinaryIO, cast

import numpy as np

from ...bitstream.archive import MAGIC, Names
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import BadArgument, Corrupt
from .. import files, inputs
from ..files import FileError
from . import pack as packing
from .io.places import Local, Skip, place_of
from .io.sinks import open_sink
from .io.sources import Item, Sources, open_sources
from .pack import Summary
from .reader import Archive, Damage

AnyPath = str | os.PathLike[str]
_SEARCHED = 20_000  # names that are compared with one that is not there


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked.

    damaged: blocks that could not be read, and the images lost with them. renamed: images whose files are not called as
    they are, by name and file; numbers from an array, 0017 to 0017.png, are left out."""

    images: int
    damaged: tuple[Damage, ...]
    renamed: tuple[tuple[str, str], ...] = ()


def pack(
    sources: AnyPath | Sequence[AnyPath] | Iterable[Item],
    target: packing.Target,
    *,
    model: str = "auto",
    jobs: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    force: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] = lambda images: None,
    skip: Skip = lambda name, reason: None,
    note: Skip = lambda name, reason: None,
) -> Summary:
    """Pack images into a lossless archive, one by one, so that they need not fit into memory; returns a Summary.

    Equal images give equal bytes, whatever `jobs` is. The Summary counts images, bytes, ways of storing, and what was
    left out.

    sources: a path or URL, or several: folders (with all below them), image files, "@list.txt" (a path or URL per
        line), IDX files (or .gz), .npy and .npz files with arrays, uint8 or bool, [N, H, W], [N, H, W, C] with C in
        1..4, or [N, 1, H, W]; or Items (a name with the bytes of an image file or with an array).
    target: the path or URL of the archive, which appears whole or not at all; or a stream, which only needs `write`.
    model: "auto" (the best of the built-in models), "plain" (no model), the name of a ladder-* or archive-* model, or
        the path of a weights file.
    jobs: processes that work on it; 0 for one per core.
    ray: pack on a Ray cluster: "local", "auto", or its address, "ray://HOST:PORT".
    device: where the networks run: "cpu", "cuda", "cuda:1", ...
    force: overwrite the target.
    max_pixels, max_bytes: the most pixels (width x height) of an image, and the most bytes of its samples once decoded
        (one for each of up to 8 bits, two above). Larger images of folders and lists are left out.
    progress: called with the number of images finished since the last call.
    skip: called with the name of each file of a folder or list that is left out, and the reason; it may raise.
    note: called with the name of each file that is stored as it came although it cannot be decoded, and the reason.

    Raises FileError for a source that cannot be read, a target that cannot be written or is a source, and names that
    cannot be stored or are not unique; UnsupportedImage for arrays that are not images, and if there are no images;
    TooLarge for arrays beyond the limits; ModelMismatch for a model that is unknown or cannot pack; BadArgument for
    other wrong arguments; VqcodecError if a worker process dies or Ray cannot be used."""
    model, device = inputs.checked_model(model), inputs.checked_device(device)
    jobs, max_pixels = inputs.checked_count("jobs", jobs, 0), inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    force = inputs.checked_flag("force", force)
    for name, function in (("progress", progress), ("skip", skip), ("note", note)):
        inputs.check_callable(name, function)
    if not callable(getattr(target, "write", None)):
        _check_path("target", target)
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if not isinstance(sources, Iterable) or isinstance(sources, bytes | bytearray | memoryview):
        raise BadArgument(f"sources: expected paths, or Items, found {type(sources).__name__}")
    if isinstance(sources, Sequence) and sources and all(isinstance(one, str | os.PathLike) for one in sources):
        for one in sources:
            _check_path("sources", one)
        sources = open_for(target, cast(Sequence[AnyPath], sources), skip, max_pixels, max_bytes)
    items = sources if isinstance(sources, Sources) else _checked_items(sources)
    return packing.pack(
        items, target, model=model, jobs=jobs, ray=ray, device=device, force=force,
        max_pixels=max_pixels, max_bytes=max_bytes, progress=progress, note=note,
    )  # fmt: skip


def _checked_items(items: Iterable[object]) -> Iterator[Item]:
    """The same, if they are Items of a file or an array. Raises BadArgument."""
    for item in items:
        if not isinstance(item, Item) or not isinstance(item.name, str):
            raise BadArgument(f"sources: expected paths, or Items with names, found {item!r:.100}")
        if isinstance(item.file, bytes) == isinstance(item.array, np.ndarray):
            raise BadArgument(f"{item.name}: expected an Item with the bytes of a file, or an array")
        yield item


def _check_path(name: str, path: object) -> None:
    """Raises BadArgument."""
    if not isinstance(path, str | os.PathLike) or not isinstance(text := os.fspath(path), str) or "\0" in text:
        raise BadArgument(f"{name}: expected a path or URL, found {path!r}")
    inputs.checked_path(path)


def _checked_names(names: object) -> list[str]:
    """Raises BadArgument."""
    found = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [None]
    if not all(isinstance(name, str) for name in found):
        raise BadArgument(f"only: expected a list of names, found {names!r}")
    return cast(list[str], found)


def open_for(
    target: packing.Target,
    paths: Sequence[AnyPath],
    skip: Skip,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Sources:
    """The images of sources that are to be packed into `target`. Raises what `open_sources` raises, and FileError if
    the target is one of the sources."""
    if not isinstance(target, str | os.PathLike):
        return open_sources(paths, skip, max_pixels, max_bytes=max_bytes)
    for path in paths:
        text = os.fspath(path)
        if _same_file(text.removeprefix("@"), target):
            raise FileError(f"{text} is both an input and the output; name another output")
    return open_sources(paths, skip, max_pixels, leave_out=target, max_bytes=max_bytes)


def _same_file(one: AnyPath, other: AnyPath) -> bool:
    places = place_of(one), place_of(other)
    if isinstance(places[0], Local) and isinstance(places[1], Local):
        return places[0].path.resolve() == places[1].path.resolve()
    return str(places[0]) == str(places[1])


def unpack(
    source: AnyPath | Archive,
    target: AnyPath,
    only: Sequence[str] | None = None,
    *,
    model: str | None = None,
    device: str = "cpu",
    force: bool = False,
    keep_going: bool = False,
    jobs: int = 1,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] = lambda images: None,
) -> Unpacked:
    """Unpack an archive into a folder of image files, or into one array file; returns what was unpacked.

    The target appears whole or not at all. The result counts the images, and lists damaged blocks and images whose
    files have other names.

    source: the path or URL of the archive; or an open Archive, whose own model, device and limits then hold.
    target: a folder, or an array file if its name ends in .npy, .npz, .idx or -ubyte.
    only: the names of the images to unpack; None for all.
    model: the weights file of a model that is not built in.
    device: where the networks run: "cpu", "cuda", "cuda:1", ...
    force: overwrite files of the same names.
    keep_going: leave damaged blocks out and return them, instead of raising.
    jobs: processes that decode blocks; 0 for one per core.
    max_pixels, max_bytes: the most pixels (width x height) of an image, and the most bytes of its samples once decoded
        (one for each of up to 8 bits, two above).
    progress: called with the number of images finished since the last call.

    Raises FileError for an archive that cannot be read, a target that cannot be written, and names that are not in the
    archive; a BitstreamError (Corrupt, Truncated, TooLarge, ...) for a damaged, foreign or too large archive;
    ModelMismatch for a model that this build lacks; UnsupportedImage for images that do not fit into one array;
    BadArgument for other wrong arguments."""
    model, device = inputs.checked_weights(model), inputs.checked_device(device)
    jobs, max_pixels = inputs.checked_count("jobs", jobs, 0), inputs.checked_count("max_pixels", max_pixels)
    max_bytes = inputs.checked_count("max_bytes", max_bytes)
    force, keep_going = inputs.checked_flag("force", force), inputs.checked_flag("keep_going", keep_going)
    inputs.check_callable("progress", progress)
    only = None if only is None else _checked_names(only)
    _check_path("target", target)
    if isinstance(source, Archive):
        return _unpack(source, target, only, force, keep_going, jobs, progress)
    _check_path("source", source)
    if _same_file(source, target):
        raise FileError(f"{os.fspath(target)} is the archive itself; name another output")
    with files.naming(source), Archive(source, model, device, max_pixels=max_pixels, max_bytes=max_bytes) as archive:
        return _unpack(archive, target, only, force, keep_going, jobs, progress)


def _unpack(
    archive: Archive,
    target: AnyPath,
    only: Sequence[str] | None,
    force: bool,
    keep_going: bool,
    jobs: int,
    progress: Callable[[int], None],
) -> Unpacked:
    damaged: list[Damage] = []
    renamed: list[tuple[str, str]] = []
    names, done = archive.names, 0
    numbers = range(len(names)) if only is None else sorted({number_of(names, name) for name in only})
    with open_sink(target, numbers, names.__getitem__, force, names, lambda *one: renamed.append(one)) as put:
        for number, stored in archive.stored(numbers, damaged.append if keep_going else None, progress, jobs):
            put(number, names[number], stored)
            done += 1
        if damaged and not done:
            raise Corrupt(f"no image can be read; {damaged[0].reason}")
    return Unpacked(done, tuple(damaged), tuple(sorted(renamed, key=lambda one: names.number(one[0]))))


def number_of(names: Names, name: str) -> int:
    """Number of an image. Raises FileError, with names that are close to one that is not there."""
    try:
        return names.number(name)
    except KeyError as error:
        close = get_close_matches(name, list(islice(names, _SEARCHED)))
        advice = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise FileError(f"the archive holds no image {name!r}{advice}") from error


def is_archive(path: AnyPath | BinaryIO) -> bool:
    """Whether a file, or a stream at its start, begins as archives do; False also for what cannot be read."""
    if not isinstance(path, str | os.PathLike):
        start = path.read(len(MAGIC))
        path.seek(0)
        return start == MAGIC
    try:
        place = place_of(path)
        if place.kind() != "file":
            return False
        with place.open() as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (FileError, OSError):
        return False
