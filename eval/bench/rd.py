"""`vqcodec bench rd MODEL... --data mnist`: rate and distortion of models beside classical codecs, as whole files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bitstream.errors import VqcodecError
from ...codec import models
from ...codec.images import psnr_db
from ...training.datasets import Dataset
from .. import files
from ..environment import Environment, environment, line
from ..metrics import Distortion, Images, bits_per_dim, distortion
from ..peers import Peer, peers
from ..tables import aligned, number

_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]  # bytes, on a logarithmic axis


class PlotError(VqcodecError):
    """A plot that cannot be drawn: matplotlib is missing, or the file is no result."""


@dataclass(frozen=True)
class RatePoint:
    """One codec at one setting: mean size of whole files, and how the images come back. quality: None if lossless."""

    codec: str
    quality: int | None
    bytes_per_image: float
    bpd: float
    distortion: Distortion


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
    """Points of all codecs on the same images, those of the models first."""

    models: list[str]
    data: str
    images: int
    environment: Environment
    points: list[RatePoint]
    comparisons: list[Comparison]


def measure(names: Sequence[str], data: Dataset, limit: int | None = None, device: str = "cpu") -> RateDistortion:
    """A point per setting of each model (name or weights file) and per quality of each peer, on the first `limit`
    images of a data set.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images that a model does not take."""
    images = data.images[:limit]
    ours = [point for name in names for point in model_points(name, images, device)]
    theirs = [peer_point(peer, quality, images) for peer in peers().values() for quality in peer.qualities]
    comparisons = [compare(point, theirs) for point in ours if point.quality is not None]
    known = list(dict.fromkeys(point.codec for point in ours))
    where = environment(device)
    return RateDistortion(known, f"{data.name} {data.split}", len(images), where, ours + theirs, comparisons)


def model_points(name: str, images: Images, device: str = "cpu") -> list[RatePoint]:
    """A point per setting of a model, lossless first. Raises as `measure` does."""
    model = models.load(name, device)
    return [model_point(name, model, setting, images, device) for setting in files.settings_of(model.codec)]


def model_point(name: str, model: models.Model, setting: int, images: Images, device: str = "cpu") -> RatePoint:
    """Whole files of a model at one setting. Raises UnsupportedImage."""
    asked = files.ask(setting, model.codec.lossy_settings)
    blobs = files.encode(images, name, model, asked, device)
    return _point(model.name, asked.quality, images, blobs, files.decode(blobs, name, device))


def peer_point(peer: Peer, quality: int | None, images: Images) -> RatePoint:
    """Whole files of a peer at one quality."""
    blobs = [peer.encode(image, quality) for image in images]
    return _point(peer.name, quality, images, blobs, np.stack([peer.decode(blob) for blob in blobs]))


def _point(codec: str, quality: int | None, images: Images, blobs: Sequence[bytes], decoded: Images) -> RatePoint:
    size = float(np.mean([len(blob) for blob in blobs]))
    return RatePoint(codec, quality, size, bits_per_dim(size, images), distortion(images, decoded))


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


def plot(source: Path, target: Path) -> None:
    """Draw the lossy points of a result (JSON file) as curves of PSNR (of the mean MSE) over bytes.

    Lossless sizes of our models, and of the best peer, are dashed lines.
    Raises PlotError without matplotlib, for a file that is no such result, or one that cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("a plot needs matplotlib: pip install matplotlib") from error
    try:
        _draw(json.loads(source.read_text()), Figure(figsize=(7, 4.5), layout="constrained")).savefig(target, dpi=150)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlotError(f"cannot draw {source} as {target}: {error!r}") from error


def _draw(result: dict[str, Any], figure: Any) -> Any:
    axes = figure.add_subplot(xscale="log", xlabel="bytes per image, whole file", ylabel="PSNR, dB (of the mean MSE)")
    lossy, colours = [point for point in result["points"] if _drawn(point)], {}
    for codec in dict.fromkeys(point["codec"] for point in lossy):
        points = [point for point in lossy if point["codec"] == codec]
        psnrs = [point["distortion"]["psnr_db_of_mse"] for point in points]
        (curve,) = axes.plot([point["bytes_per_image"] for point in points], psnrs, marker="o", label=codec)
        colours[codec] = curve.get_color()
    for point in _lossless(result):
        size, name = point["bytes_per_image"], point["codec"].removesuffix(" lossless")
        axes.axvline(size, color=colours.get(name, "grey"), linestyle="--", label=f"{name}, lossless")
    axes.set_xticks([size for size in _TICKS if axes.get_xlim()[0] <= size <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(title=f"{result['data']}, {result['images']:,} images")
    return figure


def _drawn(point: dict[str, Any]) -> bool:
    """Whether a point belongs on a curve: lossy, and not so good that every pixel came back."""
    return point["quality"] is not None and float(point["distortion"]["psnr_db_of_mse"]) < psnr_db(0, 1)


def _lossless(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Lossless points of the models, and the smallest of the others."""
    points = [point for point in result["points"] if point["quality"] is None]
    ours = [point for point in points if point["codec"] in result["models"]]
    theirs = [point for point in points if point not in ours]
    return ours + sorted(theirs, key=lambda point: float(point["bytes_per_image"]))[:1]


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "rd", *sys.argv[1:]])
