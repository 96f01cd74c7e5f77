"""Rows of small images as one PNG each, inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .page import Html, escaped

COLUMNS = 12
"""Images of a row."""
_ZOOM = 4  # a pixel becomes so many, so that a browser's smoothing does not blur it
_GAP = 2  # pixels between images, transparent


@dataclass(frozen=True)
class Strip:
    """Images uint8 [N, H, W], `COLUMNS` beside each other. label, note: what they are; alt: what there is to see."""

    label: str
    images: NDArray[np.uint8]
    alt: str
    note: str = ""


def image_grid(strips: Sequence[Strip]) -> list[Html]:
    """The strips below each other, as the parts of a figure; their columns match."""
    return [_strip(strip) for strip in strips]


def _strip(strip: Strip) -> Html:
    picture = _picture(strip.images)
    note = f"<small>{escaped(strip.note)}</small>" if strip.note else ""
    return Html(
        f'<div class="strip"><div>{escaped(strip.label)}{note}</div>'
        f'<img src="data:image/png;base64,{base64.b64encode(_png(picture)).decode()}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escaped(strip.alt)}"></div>'
    )


def _picture(images: NDArray[np.uint8]) -> Image.Image:
    """Rows of opaque images with gaps, grey with alpha; what a last row lacks is transparent."""
    opaque = np.stack([images, np.full_like(images, 255)], -1)
    tiles = np.pad(opaque, ((0, -len(images) % COLUMNS), (0, _GAP), (0, _GAP), (0, 0)))
    rows = [np.concatenate(list(tiles[start : start + COLUMNS]), 1) for start in range(0, len(tiles), COLUMNS)]
    pixels = np.concatenate(rows)[:-_GAP, :-_GAP]
    return Image.fromarray(pixels).resize((pixels.shape[1] * _ZOOM, pixels.shape[0] * _ZOOM), Image.Resampling.NEAREST)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
