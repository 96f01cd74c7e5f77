"""`vqcodec bench crops MODEL... --data kodak --bpp 0.25 --out PAGE.html`: crops of photographs side by side.

The first model's quality is the one whose file is nearest to the asked bits per pixel, that of every other codec the
one whose file is nearest to the first model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from ...bitstream.errors import VqcodecError
from ...codec.images import psnr_db
from ...training.data.photo_sets import PhotoSet
from ..environment import Environment, environment
from ..metrics import Images, squared_errors
from ..photo_peers import photo_peers
from ..tables import aligned, number
from . import photographs

SIDE = 176
"""Of a crop, in pixels: six of them stand side by side on a page."""
PEERS = ("JPEG", "WebP", "AVIF")
ORIGINAL = "original"


class CropError(VqcodecError):
    """A crop that is not told as NAME:LEFT,TOP, or lies outside its image."""


@dataclass(frozen=True)
class Place:
    """Where a crop is taken. left, top: pixels."""

    name: str
    left: int
    top: int


# A face, lettering, paint on skin, a fence and feathers.
PLACES = {
    "kodak": (
        Place("kodim04", 150, 290), Place("kodim08", 560, 230), Place("kodim15", 390, 60), Place("kodim19", 70, 460),
        Place("kodim23", 400, 100),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A crop uint8 [S, S, 3] of what a codec makes of a whole photograph, and what that takes.

    quality: None for the original.  bytes_total, bpp: of the whole file.  psnr_db: of the whole image."""

    codec: str
    quality: int | None
    bytes_total: int | None
    bpp: float | None
    psnr_db: float | None
    crop: Images


@dataclass(frozen=True)
class Row:
    """A crop of one photograph as every codec gives it, the original first. width, height: of the photograph."""

    place: Place
    width: int
    height: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True)
class Crops:
    """Rows of crops, at files of about `bpp` bits per pixel."""

    models: list[str]
    data: str
    bpp: float
    environment: Environment
    rows: tuple[Row, ...]


def measure(names: Sequence[str], data: PhotoSet, bpp: float, places: Sequence[str] = (), device: str = "cpu") -> Crops:
    """Crops of photographs by models (names or weights files) and the classical codecs.

    places: NAME:LEFT,TOP of each crop; if none, those of `PLACES`, or the middle of the first five photographs.
    Raises CropError, and ModelMismatch or UnsupportedImage as `photographs.load`."""
    codecs = _models(names, device)
    codecs |= {name: (peer.encode, peer.decode, range(1, 100)) for name, peer in photo_peers().items() if name in PEERS}
    found = [parse(place, data) for place in places] or _default(data)
    rows = [_row(place, data, bpp, codecs) for place in found]
    where = replace(environment(device), batch=1)
    return Crops(list(codecs)[: len(names)], f"{data.name} {data.split}", bpp, where, tuple(rows))


_Codec = tuple[Callable[[Images, int], bytes], Callable[[bytes], Images], Sequence[int]]  # and its qualities, rising


def _models(names: Sequence[str], device: str) -> dict[str, _Codec]:
    codecs: dict[str, _Codec] = {}
    for name in names:
        model = photographs.load(name, device)
        few = [quality for quality in photographs.qualities(model) if quality is not None]
        if not few:
            raise CropError(f"{name} keeps every pixel: its crops are those of the photographs")
        qualities = range(1, 101) if tuple(few) == photographs.QUALITIES else few
        encode = partial(photographs.encoded, name=name, device=device)
        codecs[model.name] = encode, partial(photographs.decoded, name=name, device=device), qualities
    return codecs


def parse(text: str, data: PhotoSet) -> Place:
    """NAME:LEFT,TOP of a photograph of the set. Raises CropError."""
    name, _, corner = text.partition(":")
    numbers = corner.split(",")
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise CropError(f"crop {text!r}: expected NAME:LEFT,TOP, in pixels")
    if name not in data.names:
        raise CropError(f"crop {text!r}: {data.name} has {', '.join(data.names)}")
    return _checked(Place(name, *map(int, numbers)), data)


def _default(data: PhotoSet) -> list[Place]:
    middles = [
        Place(name, max(0, (image.shape[1] - SIDE) // 2), max(0, (image.shape[0] - SIDE) // 2))
        for name, image in zip(data.names[:5], data.images[:5], strict=True)
    ]
    return [_checked(place, data) for place in PLACES.get(data.name, middles)]


def _checked(place: Place, data: PhotoSet) -> Place:
    height, width, _ = data.images[data.names.index(place.name)].shape
    if place.left + SIDE > width or place.top + SIDE > height:
        raise CropError(
            f"crop {place.name}:{place.left},{place.top}: its {SIDE} x {SIDE} pixels lie outside {width} x {height}"
        )
    return place


def _row(place: Place, data: PhotoSet, bpp: float, codecs: dict[str, _Codec]) -> Row:
    image = data.images[data.names.index(place.name)]
    height, width, _ = image.shape
    shown, target = [Shown(ORIGINAL, None, None, None, None, _crop(image, place))], bpp * height * width / 8
    for name, (encode, decode, qualities) in codecs.items():
        quality, blob = nearest(partial(encode, image), qualities, target)
        if len(shown) == 1:
            target = len(blob)
        x_hat = decode(blob)
        psnr = psnr_db(int(squared_errors(image[None], x_hat[None])[0]), image.size)
        bits = 8 * len(blob) / (height * width)
        shown.append(Shown(name, quality, len(blob), bits, psnr, _crop(x_hat, place)))
    return Row(place, width, height, tuple(shown))


def nearest(encode: Callable[[int], bytes], qualities: Sequence[int], target: float) -> tuple[int, bytes]:
    """The quality whose file is nearest in size to the target (bytes), and that file; sizes rise with the quality."""
    made = cache(encode)
    low, high = 0, len(qualities) - 1  # where the first size of at least the target is, if there is one
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(made(qualities[middle])) >= target else (middle + 1, high)
    best = min(qualities[max(low - 1, 0) : low + 1], key=lambda quality: abs(len(made(quality)) - target))
    return best, made(best)


def _crop(image: Images, place: Place) -> Images:
    return np.ascontiguousarray(image[place.top : place.top + SIDE, place.left : place.left + SIDE])


def table(crops: Crops) -> str:
    """What is shown, as text."""
    head = ["photograph", "codec", "quality", "bytes", "bits/pixel", "PSNR, dB"]
    return aligned([head, *(_cells(row, shown) for row in crops.rows for shown in row.shown)])


def _cells(row: Row, shown: Shown) -> list[str]:
    numbers: list[tuple[Any, int]] = [(shown.quality, 0), (shown.bytes_total, 0), (shown.bpp, 3), (shown.psnr_db, 2)]
    return [row.place.name, shown.codec, *(number(value, decimals) for value, decimals in numbers)]
