"""Images into an archive, as a stream: blocks are written as they are done, the index comes last."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from ...bitstream.archive import Block, Writer, checked_name
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import UnsupportedImage
from ..files import FileError
from .blocks import kind_of
from .io.outputs import whole_file
from .io.places import place_of
from .io.sources import Item, Sources
from .io.workers import in_order
from .library import AUTO, BUILT_IN, PLAIN, Library
from .plan import plan
from .settle import settled
from .tasks import Done, Settings, run

Target = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class Share:
    """What a way of coding made. kind: "files", "bits-back" or "solid"; model: its name; bytes: of payloads."""

    kind: str
    model: str | None
    images: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """An archive that was written.

    bytes_total: all of it; kinds: in the order of their first blocks. as_they_came: images that cannot be decoded,
    whose files were stored byte for byte. skipped: files of the sources that were left out; images_skipped: those of
    them that are images, or may be as they cannot be read."""

    images: int
    bytes_total: int
    blocks: int
    kinds: tuple[Share, ...]
    as_they_came: int = 0
    skipped: int = 0
    images_skipped: int = 0


def pack(
    items: Iterable[Item],
    target: Target,
    *,
    model: str = AUTO,
    jobs: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    force: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int], None] = lambda images: None,
    note: Callable[[str, str], None] = lambda name, reason: None,
    library: Library = BUILT_IN,
) -> Summary:
    """Write an archive of images, which come one by one and are never all held. Equal images give equal bytes, also
    with other jobs.

    target: a path or URL, where the archive appears whole or not at all; or a stream, of which only `write` is used.
    model: "auto", "plain" (no model), or a name or weights file of a ladder or a model for archives. jobs, ray: see
    `workers.in_order`. force: overwrite the target. progress: called with how many images were finished since.
    note: told the name of a file that was stored as it came although it cannot be decoded, and why.
    Raises FileError for a target that cannot be written and for names that are bad or there twice, UnsupportedImage for
    pixels that cannot be stored and for no images at all, ModelMismatch for an unknown model."""
    candidates = library.candidates(model)
    settings = Settings(PLAIN if model == PLAIN else AUTO, device, max_pixels, library, max_bytes)
    names = _Names()
    tasks = plan(names.of(items), candidates, max_pixels, max_bytes)
    done = partial(in_order, partial(run, settings), tasks, jobs, ray)
    if not isinstance(target, str | os.PathLike):
        try:
            summary = _write(done, names, target, progress, note)
        except OSError as error:
            raise FileError(f"cannot write the archive: {error.strerror or error}") from error
    else:
        with whole_file(place_of(target), force) as stream:
            summary = _write(done, names, stream, progress, note)
    if not isinstance(items, Sources):
        return summary
    return replace(summary, skipped=items.left_out.files, images_skipped=items.left_out.images)


def _write(
    done: Callable[[], Generator[Done, None, None]],
    names: _Names,
    stream: BinaryIO,
    progress: Callable[[int], None],
    note: Callable[[str, str], None],
) -> Summary:
    counted = _Counted(stream)
    writer, tally, as_they_came = Writer(counted), _Tally(), 0
    with closing(done()) as parts:
        for part in settled(parts):
            for block in part.blocks:
                writer.add(block)
                tally.add(block)
            for name, reason in part.notes:
                note(name, reason)
            as_they_came += len(part.notes)
            progress(part.images)
    if not names.found:
        raise UnsupportedImage("no images to pack")
    writer.finish(names.found)
    return replace(tally.summary(len(names.found), counted.written), as_they_came=as_they_came)


class _Names:
    """The names of the images that have come."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; raises FileError for a name that is bad or there twice."""
        seen: set[str] = set()
        for item in items:
            try:
                checked_name(item.name)
            except ValueError as error:
                raise FileError(f"{item.name!r} cannot be stored as a name: {error}") from error
            if item.name in seen:
                raise FileError(f"two images are called {item.name!r}; names in an archive must be unique")
            seen.add(item.name)
            self.found.append(item.name)
            yield item


class _Counted:
    """A stream that knows how much was written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.written = 0

    def write(self, data: bytes, /) -> None:
        try:
            self._stream.write(data)
        except (TypeError, ValueError) as error:  # a text stream, or one that is closed
            raise FileError(f"cannot write the archive: {error}; give it a binary stream that is open") from error
        self.written += len(data)


class _Tally:
    """Blocks, images and bytes by kind and model."""

    def __init__(self) -> None:
        self._shares: dict[tuple[str, str | None], Share] = {}
        self._blocks = 0

    def add(self, block: Block) -> None:
        told = kind_of(block.kind, block.extra)[:2]
        before = self._shares.get(told, Share(*told, 0, 0))
        self._shares[told] = Share(*told, before.images + len(block.numbers), before.bytes + len(block.payload))
        self._blocks += 1

    def summary(self, images: int, written: int) -> Summary:
        return Summary(images, written, self._blocks, tuple(self._shares.values()))
