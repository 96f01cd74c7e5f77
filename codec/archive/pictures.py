"""Images to pack: read as `vqcodec compress` reads them, and coded losslessly one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...bitstream.container import MAX_BYTES, MAX_PIXELS
from .. import api, files, plain
from ..files import Source
from ..images import grey_plane, to_pil

if TYPE_CHECKING:
    from .io.sources import Item

JPEG = b"\xff\xd8\xff"


def read_item(item: Item, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Source:
    """The image of an item. Raises UnsupportedImage or TooLarge."""
    if item.array is not None:
        return Source(to_pil(item.array), None, item.array.nbytes)
    assert item.file is not None
    source = files.image_of(item.name, item.file, max_pixels, max_bytes)
    source.check_whole()
    return source


def plane_of(source: Source) -> NDArray[np.uint8] | None:
    """Pixels uint8 [H, W] of an image that is nothing but grey, else None."""
    return grey_plane(source.picture) if _told_by_picture(source) else None


def codable(source: Source) -> Source:
    """The same, with all that PNG knows of it. Raises UnsupportedImage for what PNG cannot hold."""
    return replace(source, exact=source.exact or plain.from_pil(source.picture))


def encode(sources: Sequence[Source], model: str, device: str) -> list[bytes]:
    """The smallest lossless .vqc files, as `files.compress` makes them; model: "auto" or "plain".

    Raises UnsupportedImage for what PNG cannot hold."""

    @cache
    def stored(number: int) -> bytes:
        return api.encode_plain(sources[number].exact or plain.from_pil(sources[number].picture))

    told = [number for number, source in enumerate(sources) if _told_by_picture(source)]
    pictures = [sources[number].picture for number in told]
    coded = api.encode_with_models(
        pictures, model, lossless=True, device=device, plain_size=lambda k: len(stored(told[k]))
    )
    by_model = dict(zip(told, coded, strict=True))
    return [by_model.get(number) or stored(number) for number in range(len(sources))]


def _told_by_picture(source: Source) -> bool:
    """Whether Pillow's picture has all that the PNG has: its bit depth, and no transparency."""
    exact = source.exact
    return exact is None or (not exact.transparency and (exact.depth == 8 or source.picture.mode == "1"))
