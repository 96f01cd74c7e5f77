"""`vqcodec bench rd MODEL... --data mnist`: rate and distortion of models beside other codecs, as whole files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...codec import models
from ...training.data.datasets import Dataset
from .. import compressai_peers, files
from ..environment import Environment, environment, line
from ..metrics import Distortion, Images, bits_per_dim, bits_per_pixel, distortion
from ..peers import Peer, peers
from ..tables import aligned, number


@dataclass(frozen=True)
class RatePoint:
    """One codec at one setting: mean size of whole files, and how the images come back. quality: None if lossless.

    bpp: bits per pixel, of all channels.  encode_s, decode_s: seconds per image, all of them once, models in batches.
    None in these: not measured."""

    codec: str
    quality: int | None
    bytes_per_image: float
    bpd: float
    distortion: Distortion
    bpp: float | None = None
    encode_s: float | None = None
    decode_s: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A lossy point of ours beside the classical codec that needs the fewest bytes for at least its PSNR.

    best_bytes: between the points of the codec's curve, log bytes are linear in the PSNR.  ratio: ours over best."""

    model: str
    quality: int
    psnr_db_of_mse: float
    bytes_per_image: float
    best: str
    best_bytes: float
    ratio: float


@dataclass(frozen=True)
class RateDistortion:
    """Points of all codecs on the same images: of the models, the classical codecs, and the peers that were asked for.

    comparisons: with the classical codecs alone."""

    models: list[str]
    data: str
    images: int
    environment: Environment
    points: list[RatePoint]
    comparisons: list[Comparison]


def measure(
    names: Sequence[str], data: Dataset, limit: int | None = None, device: str = "cpu", others: Sequence[str] = ()
) -> RateDistortion:
    """A point per setting of each model (name or weights file) and per quality of each classical codec, on the first
    `limit` images of a data set. others: learned codecs to add, as `compressai_peers.parse` takes them; on the CPU.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images that a model does not take, and PeerError or
    FileError for a learned codec that cannot be had."""
    images, learned = data.images[:limit], compressai_peers.peers(others)
    ours = [point for name in names for point in model_points(name, images, device)]
    theirs = peer_points(peers().values(), images)
    comparisons = [compare(point, theirs) for point in ours if point.quality is not None]
    known = list(dict.fromkeys(point.codec for point in ours))
    where = environment(device)
    points = [*ours, *theirs, *peer_points(learned, images)]
    return RateDistortion(known, f"{data.name} {data.split}", len(images), where, points, comparisons)


def model_points(name: str, images: Images, device: str = "cpu") -> list[RatePoint]:
    """A point per setting of a model, lossless first. Raises as `measure` does."""
    model = models.load(name, device)
    files.warm_up(name, model, images, device)
    return [model_point(name, model, setting, images, device) for setting in files.settings_of(model.codec)]


def model_point(name: str, model: models.Model, setting: int, images: Images, device: str = "cpu") -> RatePoint:
    """Whole files of a model at one setting. Raises UnsupportedImage."""
    asked = files.ask(setting, model.codec.lossy_settings)
    encode = partial(files.encode, images, name, model, asked, device)
    return _point(model.name, asked.quality, images, encode, partial(files.decode, name=name, device=device))


def peer_points(found: Iterable[Peer], images: Images) -> list[RatePoint]:
    """A point per quality of each peer."""
    return [peer_point(peer, quality, images) for peer in found for quality in peer.qualities]


def peer_point(peer: Peer, quality: int | None, images: Images) -> RatePoint:
    """Whole files of a peer at one quality."""
    peer.decode(peer.encode(images[0], quality))  # before the clock starts
    return _point(
        peer.name,
        quality,
        images,
        lambda: [peer.encode(image, quality) for image in images],
        lambda blobs: np.stack([peer.decode(blob) for blob in blobs]),
    )


def _point(
    codec: str,
    quality: int | None,
    images: Images,
    encode: Callable[[], Sequence[bytes]],
    decode: Callable[[Sequence[bytes]], Images],
) -> RatePoint:
    """A point of all images together, encoded and decoded once with the clock running."""
    start = time.perf_counter()
    blobs = encode()
    encoded = time.perf_counter()
    decoded = decode(blobs)
    ended = time.perf_counter()
    size, count = float(np.mean([len(blob) for blob in blobs])), len(images)
    return RatePoint(
        codec,
        quality,
        size,
        bits_per_dim(size, images),
        distortion(images, decoded),
        bits_per_pixel(size, images),
        (encoded - start) / count,
        (ended - encoded) / count,
    )


def compare(ours: RatePoint, theirs: Sequence[RatePoint]) -> Comparison:
    """One of our lossy points beside the best of the peers' points, of which at least one is lossless."""
    assert ours.quality is not None
    psnr = ours.distortion.psnr_db_of_mse
    curves = {codec: [p for p in theirs if p.codec == codec] for codec in dict.fromkeys(p.codec for p in theirs)}
    needed = {codec: bytes_at(psnr, curve) for codec, curve in curves.items()}
    size, best = min((size, codec) for codec, size in needed.items() if size is not None)
    return Comparison(ours.codec, ours.quality, psnr, ours.bytes_per_image, best, size, ours.bytes_per_image / size)


def bytes_at(psnr: float, curve: Sequence[RatePoint]) -> float | None:
    """Bytes that a codec needs for at least a PSNR (of the mean MSE); None if its best point falls short of it.

    Below its worst point, that point's bytes. A point that another one beats in both bytes and PSNR does not count."""
    best: list[tuple[float, float]] = []  # PSNR and bytes, both falling
    for point in sorted(curve, key=lambda point: (-point.distortion.psnr_db_of_mse, point.bytes_per_image)):
        if not best or point.bytes_per_image < best[-1][1]:
            best.append((point.distortion.psnr_db_of_mse, point.bytes_per_image))
    psnrs, sizes = zip(*reversed(best), strict=True)
    return None if psnr > psnrs[-1] else float(np.exp(np.interp(psnr, psnrs, np.log(sizes))))


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text: a row per point, then one per comparison."""
    head = f"{', '.join(result['models'])} on {result['data']}, {result['images']:,} images"
    parts = [head, points_table(result["points"])]
    if result["comparisons"]:
        parts += ["\nthe best classical codec at equal PSNR (of the mean MSE)", _comparisons(result["comparisons"])]
    return "\n".join([*parts, line(result["environment"])])


def points_table(points: Sequence[dict[str, Any]]) -> str:
    """A row per point."""
    head = ["codec", "quality", "bytes/image", "bits/dim", "PSNR, dB (mean)", "PSNR, dB (of MSE)", "SSIM"]
    return aligned([head, *map(_point_row, points)])


def _point_row(point: dict[str, Any]) -> list[str]:
    rates = [number(point["bytes_per_image"], 2), number(point["bpd"], 4)]
    numbers = [number(point["distortion"][key], 2) for key in ("psnr_db", "psnr_db_of_mse")]
    return [point["codec"], number(point["quality"]), *rates, *numbers, number(point["distortion"]["ssim"], 4)]


def _comparisons(comparisons: Sequence[dict[str, Any]]) -> str:
    head = ["model", "quality", "PSNR, dB (of MSE)", "bytes/image", "best", "its bytes/image", "ours/best"]
    return aligned([head, *map(_comparison_row, comparisons)])


def _comparison_row(row: dict[str, Any]) -> list[str]:
    ours = [number(row[key], 2) for key in ("psnr_db_of_mse", "bytes_per_image")]
    return [
        row["model"],
        str(row["quality"]),
        *ours,
        row["best"],
        number(row["best_bytes"], 2),
        number(row["ratio"], 3),
    ]


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "rd", *sys.argv[1:]])
