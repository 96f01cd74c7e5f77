"""`vqcodec bench speed MODEL --data kodak`: encode and decode photographs/s, one at a time, beside JPEG and WebP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ...training.data.photo_sets import PhotoSet
from ..environment import environment
from ..photo_peers import photo_peers
from .photographs import decoded, encoded, load, qualities
from .speed import REPEATS, Speed, table, time_codec, time_peer

__all__ = ["measure", "table"]

A = TypeVar("A")
B = TypeVar("B")

_PEERS = {"JPEG": 75, "WebP": 75}  # and the quality they are timed at


def measure(name: str, data: PhotoSet, limit: int | None = None, device: str = "cpu", repeats: int = REPEATS) -> Speed:
    """Time a model at some qualities, and Pillow's codecs, on the first `limit` photographs.

    Raises ModelMismatch for an unknown model, UnsupportedImage for one of other images."""
    model, images, timings = load(name, device), data.images[:limit], []
    decode = partial(decoded, name=name, device=device)
    for quality in qualities(model)[1::2] or qualities(model):
        encode = partial(encoded, quality=quality, name=name, device=device)
        title = "lossless" if quality is None else f"quality {quality}"
        timings.append(time_codec(title, partial(_each, encode, images), partial(_each, decode), repeats))
    known = photo_peers()
    timings += [time_peer(known[peer], quality, images, repeats) for peer, quality in _PEERS.items()]
    return Speed(model.name, f"{data.name} {data.split}", len(images), environment(device), timings)


def _each(action: Callable[[A], B], values: Sequence[A]) -> list[B]:
    return [action(value) for value in values]
