"""What worker processes do: a task holds the images of a block or two, and comes back as those blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...bitstream.archive import Block
from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from ...bitstream.errors import TooLarge, UnsupportedImage
from ..files import Source
from ..images import from_grey_plane
from .blocks import CODED, ORIGINAL, Form, bits_back_block, files_block
from .library import AUTO, BUILT_IN, Library, Packer
from .pictures import JPEG, codable, encode, read_item
from .sources import Item

_FEW = 256  # images of which a FILES block is made too: bits-back coding starts with bits that only many images repay
_SAMPLE = 64
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
class Done:
    """What became of a task of so many images."""

    images: int
    blocks: tuple[Block, ...]
    notes: tuple[Note, ...] = ()


def run(settings: Settings, task: Task) -> Done:
    """The blocks of a task. Raises UnsupportedImage for pixels that cannot be stored, ModelMismatch."""
    if isinstance(task, Group):
        return Done(len(task.numbers), tuple(_group_blocks(task, settings)))
    notes: list[Note] = []
    forms = _forms(task.items, settings, notes)
    return Done(len(task.numbers), (files_block(task.numbers, forms),), tuple(notes))


def _group_blocks(task: Group, settings: Settings) -> Iterator[Block]:
    """A block per model that is best for some of the images."""
    packers = [settings.library.load(source, settings.device) for source in task.models]
    chosen = _assigned(packers, task.pixels)
    for number in np.unique(chosen):
        part = np.flatnonzero(chosen == number)
        yield _smallest([task.numbers[n] for n in part], task.mode, task.pixels[part], packers[number], settings)


def _smallest(
    numbers: Sequence[int], mode: str, pixels: NDArray[np.uint8], packer: Packer, settings: Settings
) -> Block:
    """The images in one stream, or as files if they are few and that is smaller."""
    together = bits_back_block(numbers, mode, pixels, packer)
    if len(numbers) > _FEW:
        return together
    sources = [Source(from_grey_plane(plane, mode), None, plane.nbytes) for plane in pixels]
    single = files_block(numbers, [Form(CODED, blob) for blob in encode(sources, settings.model, settings.device)])
    return min(together, single, key=lambda block: len(block.extra) + len(block.payload))


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


def _forms(items: Sequence[Item], settings: Settings, notes: list[Note]) -> list[Form]:
    """The form that every image takes in a FILES block; notes: of those that cannot be read."""
    forms: dict[int, Form] = {}
    small: dict[int, Source] = {}
    for number, item in enumerate(items):
        try:
            form = _form(item, settings)
        except (UnsupportedImage, TooLarge) as error:
            form = _as_it_came(item, error, notes)
        if isinstance(form, Form):
            forms[number] = form
        else:
            small[number] = form
    blobs = encode(list(small.values()), settings.model, settings.device)
    forms |= {number: _smaller(items[number], blob) for number, blob in zip(small, blobs, strict=True)}
    return [forms[number] for number in range(len(items))]


def _form(item: Item, settings: Settings) -> Form | Source:
    """The form of an image, or the image if it is small: models code them together.

    Raises UnsupportedImage or TooLarge if it cannot be read or coded."""
    source = read_item(item, settings.max_pixels, settings.max_bytes)
    if item.file is not None and item.file.startswith(JPEG):
        # Its pixels, stored losslessly, take several times as much and seconds to code.
        return Form(ORIGINAL, item.file)
    source = codable(source)
    if source.picture.width * source.picture.height <= _SMALL:
        return source
    return _smaller(item, encode([source], settings.model, settings.device)[0])


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
