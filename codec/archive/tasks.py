"""What worker processes do: a task holds the images of a block or two, and comes back as those blocks."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ...bitstream.archive import Block
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import TooLarge, UnsupportedImage
from ..files import Source
from ..images import from_grey_plane
from ..png import GREY, RGB, PlainImage
from .blocks import CODED, ORIGINAL, Form, bits_back_block, files_block, is_by_model, join_files
from .io.sources import Item
from .library import AUTO, BUILT_IN, Library, Packer
from .pictures import JPEG, codable, encode, read_item
from .solid import MAX_PIXEL_BYTES, Look, Run
from .solid_search import Family

_FEW = 256  # images of which a FILES block is made too: bits-back coding starts with bits that only many images repay
_SAMPLE = 64
_WELL = 0.8  # of what deflate makes of the pixels: below, files are not tried for many images
_FILES_SAMPLE = 32  # images that are coded as files to see what all would take
_MANY = 100  # images of one colour type and depth from which on a sample may say that they are better coded together
_PLAINLY = 0.9  # of what files would take; estimates of what images take together are rather high
_WORTH = 0.03  # of the bits: what choosing image by image must save, as it takes a pass of every model over all images
_SWITCH_BITS = 16  # what the index takes, about, where neighbours lie in different blocks
_SMALL = 1 << 14  # pixels of images that are held, to be coded together

Note = tuple[str, str]
"""An image's name, and why it was stored as it came."""


@dataclass(frozen=True)
class Settings:
    """model: "auto" or "plain", for images coded one by one."""

    model: str = AUTO
    device: str = "cpu"
    max_pixels: int = MAX_PIXELS
    library: Library = BUILT_IN
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Files:
    """Images for a FILES block. numbers: of the images in the archive."""

    numbers: tuple[int, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Group:
    """Images of one mode that all of the models may take. models: sources of candidates; pixels uint8 [N, S, S]."""

    numbers: tuple[int, ...]
    mode: str
    pixels: NDArray[np.uint8]
    models: tuple[str, ...]


Task = Files | Group


@dataclass(frozen=True)
class Part:
    """A block, and the pixels of its images that a solid block may hold as well; without a block, images that are to go
    to a solid block.

    forms: of all of a FILES block's images, else None; runs: the images that models coded well, one by one, and the
    others lie in different ones."""

    block: Block | None
    forms: tuple[Form, ...] | None
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Done:
    """What became of a task of so many images."""

    images: int
    parts: tuple[Part, ...]
    notes: tuple[Note, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the parts."""
        return tuple(part.block for part in self.parts if part.block is not None)


def run(settings: Settings, task: Task) -> Done:
    """The blocks of a task. Raises UnsupportedImage for pixels that cannot be stored, ModelMismatch."""
    if isinstance(task, Group):
        return Done(len(task.numbers), tuple(_group_parts(task, settings)))
    notes: list[Note] = []
    forms, pixels = _forms(task.items, settings, notes)
    return Done(len(task.numbers), tuple(_parts(task.numbers, forms, pixels)), tuple(notes))


def _parts(numbers: Sequence[int], forms: Sequence[Form | None], pixels: Sequence[PlainImage | None]) -> Iterator[Part]:
    """Of the images that have forms, and of those that have none."""
    members = list(zip(numbers, forms, pixels, strict=True))
    coded = [(number, form, image) for number, form, image in members if form is not None]
    if coded:
        runs = tuple(_runs([(number, is_by_model(form), image) for number, form, image in coded]))
        block = files_block([number for number, _, _ in coded], [form for _, form, _ in coded])
        yield Part(block, tuple(form for _, form, _ in coded), runs)
    rest = tuple(_runs([(number, False, image) for number, form, image in members if form is None]))
    if rest:
        yield Part(None, None, rest)


def _runs(members: Sequence[tuple[int, bool, PlainImage | None]]) -> Iterator[Run]:
    """The images whose pixels are at hand, given by number and whether a model coded them."""
    there = [(number, image, by_model) for number, by_model, image in members if image is not None]
    for _, alike in groupby(there, lambda each: (Look.of(each[1]), each[1].pixels.shape, each[2])):
        found = list(alike)
        yield Run.of([number for number, _, _ in found], [image for _, image, _ in found])


def _group_parts(task: Group, settings: Settings) -> Iterator[Part]:
    """A block per model that is best for some of the images."""
    packers = [settings.library.load(source, settings.device) for source in task.models]
    chosen = _assigned(packers, task.pixels)
    for number in np.unique(chosen):
        part = np.flatnonzero(chosen == number)
        yield _smallest([task.numbers[n] for n in part], task.mode, task.pixels[part], packers[number], settings)


def _smallest(numbers: Sequence[int], mode: str, pixels: NDArray[np.uint8], packer: Packer, settings: Settings) -> Part:
    """The images in one stream; or as files if that is smaller, as it may be for few and for those that the model does
    not know."""
    together = bits_back_block(numbers, mode, pixels, packer)
    if len(numbers) <= _FEW or _files_may_be_smaller(len(together.payload), mode, pixels, settings):
        forms = _coded(mode, pixels, settings)
        single = files_block(numbers, forms)
        if len(single.payload) < len(together.extra) + len(together.payload):
            return next(_parts(numbers, forms, [_exact(plane, mode) for plane in pixels]))
    return Part(together, None, (_run_of(numbers, pixels, mode),))


def _files_may_be_smaller(size: int, mode: str, pixels: NDArray[np.uint8], settings: Settings) -> bool:
    """Whether some of many images say that files may take less than `size`; not asked where the model does well."""
    if size < _WELL * len(zlib.compress(pixels.tobytes(), 1)):
        return False
    sample = pixels[np.unique(np.linspace(0, len(pixels) - 1, _FILES_SAMPLE).astype(np.int64))]
    return len(join_files(_coded(mode, sample, settings))) * len(pixels) < size * len(sample)


def _coded(mode: str, pixels: NDArray[np.uint8], settings: Settings) -> list[Form]:
    """A file of each of the images uint8 [N, S, S]."""
    sources = [Source(from_grey_plane(plane, mode), None, plane.nbytes) for plane in pixels]
    return [Form(CODED, blob) for blob in encode(sources, settings.model, settings.device)]


def _exact(plane: NDArray[np.uint8], mode: str) -> PlainImage:
    """Grey pixels uint8 [S, S] as PNG holds an image of the mode."""
    if mode == "1":
        return PlainImage((plane[:, :, None] >= 128).astype(np.uint8), 1, GREY)
    return (
        PlainImage(np.repeat(plane[:, :, None], 3, 2), 8, RGB)
        if mode == "RGB"
        else PlainImage(plane[:, :, None], 8, GREY)
    )


def _run_of(numbers: Sequence[int], pixels: NDArray[np.uint8], mode: str) -> Run:
    return Run.of(numbers, [_exact(plane, mode) for plane in pixels])


def _assigned(packers: Sequence[Packer], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which of the models takes each of the images uint8 [N, S, S]: int64 [N].

    The best for an evenly spaced sample takes all, unless choosing image by image saves much of the sample's bits;
    then those choose that are the best for some of it."""
    if len(packers) == 1:
        return np.zeros(len(pixels), np.int64)
    sample = np.unique(np.linspace(0, len(pixels) - 1, _SAMPLE).astype(np.int64))
    costs = _costs(packers, pixels[sample])
    one, each = costs.sum(1), costs.min(0).sum()
    if each >= (1 - _WORTH) * one.min():
        return np.full(len(pixels), one.argmin())
    some = np.unique(costs.argmin(0))
    return some[_cheapest_path(_costs([packers[number] for number in some], pixels))]


def _costs(packers: Sequence[Packer], pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.stack([packer.codec.cost_bits(pixels) for packer in packers])


def _cheapest_path(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The row for every column of costs [M, N] so that the sum, with _SWITCH_BITS for every change of row, is least."""
    total, back = costs[:, 0].copy(), np.zeros(costs.shape, np.int64)
    for n in range(1, costs.shape[1]):
        cheapest = int(total.argmin())
        switch = total[cheapest] + _SWITCH_BITS < total
        back[:, n] = np.where(switch, cheapest, np.arange(len(costs)))
        total = np.where(switch, total[cheapest] + _SWITCH_BITS, total) + costs[:, n]
    path = np.full(costs.shape[1], total.argmin(), np.int64)
    for n in range(costs.shape[1] - 1, 0, -1):
        path[n - 1] = back[path[n], n]
    return path


def _forms(
    items: Sequence[Item], settings: Settings, notes: list[Note]
) -> tuple[list[Form | None], list[PlainImage | None]]:
    """The form that every image takes in a FILES block, None for those that are plainly better coded together; and the
    pixels of those that may be stored otherwise.

    notes: of those that cannot be read."""
    forms: dict[int, Form] = {}
    small: dict[int, Source] = {}
    pixels: list[PlainImage | None] = [None] * len(items)
    held = 0
    for number, item in enumerate(items):
        try:
            form, source = _form(item, settings)
        except (UnsupportedImage, TooLarge) as error:
            forms[number] = _as_it_came(item, error, notes)
            continue
        kept = None if source is None or source.exact is None else replace(source.exact, stream=b"")
        if kept is not None and held + kept.pixels.nbytes <= MAX_PIXEL_BYTES:
            held += kept.pixels.nbytes
            pixels[number] = kept
        if form is not None:
            forms[number] = form
        elif source is not None:
            small[number] = source
    small = {number: small[number] for number in _alone(small, pixels, settings)}
    blobs = encode(list(small.values()), settings.model, settings.device)
    forms |= {number: _smaller(items[number], blob) for number, blob in zip(small, blobs, strict=True)}
    return [forms.get(number) for number in range(len(items))], pixels


def _alone(small: dict[int, Source], pixels: Sequence[PlainImage | None], settings: Settings) -> Iterator[int]:
    """The small images but those that are plainly better coded together, as a sample of many tells."""
    kinds: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in small:
        image = pixels[number]
        if image is None:
            yield number
        else:
            kinds[image.colour, image.depth].append(number)
    for numbers in kinds.values():
        if len(numbers) < _MANY or not _plainly_together([small[number] for number in numbers], settings):
            yield from numbers


def _plainly_together(sources: Sequence[Source], settings: Settings) -> bool:
    together = Family(_runs([(number, False, source.exact) for number, source in enumerate(sources)])).sampled
    sample = [sources[n] for n in np.unique(np.linspace(0, len(sources) - 1, _FILES_SAMPLE).astype(np.int64))]
    blobs = encode(sample, settings.model, settings.device)
    alone = sum(min(len(blob), source.size) for blob, source in zip(blobs, sample, strict=True))
    return bool(together < _PLAINLY * alone * len(sources) / len(sample))


def _form(item: Item, settings: Settings) -> tuple[Form | None, Source | None]:
    """The form of an image, None if it is small, as models code those together; and the image, unless it is kept as it
    came in any case.

    Raises UnsupportedImage or TooLarge if it cannot be read or coded."""
    source = read_item(item, settings.max_pixels, settings.max_bytes)
    if item.file is not None and item.file.startswith(JPEG):
        # Its pixels, stored losslessly, take several times as much and seconds to code.
        return Form(ORIGINAL, item.file), None
    source = codable(source)
    if source.picture.width * source.picture.height <= _SMALL:
        return None, source
    return _smaller(item, encode([source], settings.model, settings.device)[0]), source


def _smaller(item: Item, blob: bytes) -> Form:
    """The original if it is not larger than the .vqc file."""
    keep = item.file is not None and len(item.file) <= len(blob)
    return Form(ORIGINAL, item.file) if keep and item.file is not None else Form(CODED, blob)


def _as_it_came(item: Item, error: UnsupportedImage | TooLarge, notes: list[Note]) -> Form:
    """The original file of an image that cannot be read or coded; raises the error for pixels."""
    if item.file is None:
        raise type(error)(f"{item.name}: {error}") from error
    notes.append((item.name, str(error)))
    return Form(ORIGINAL, item.file)
