"""`vqcodec bench rd MODEL --data mnist`: rate and distortion of a model beside classical codecs, as whole files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bitstream.errors import VqcodecError
from ...codec import api, models
from ...training.datasets import load
from ..environment import Environment, environment
from ..metrics import Distortion, Images, bits_per_dim, distortion
from ..peers import Peer, peers
from ..tables import aligned, number
from ..vq import quality_of

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
class RateDistortion:
    """Points of all codecs on the same images."""

    model: str
    data: str
    images: int
    environment: Environment
    points: list[RatePoint]


def evaluate(
    model: str,
    data: str,
    split: str = "test",
    data_dir: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """`measure` on a data set by name, as plain values for JSON. Raises ModelMismatch, DataError, UnsupportedImage."""
    images = load(data, split, data_dir).images[:limit]
    return asdict(measure(model, images, f"{data} {split}", device))


def measure(model: str, images: Images, data: str, device: str = "cpu") -> RateDistortion:
    """A point per number of levels of a model and per quality of each peer, on images uint8 [N, S, S].

    Raises ModelMismatch for an unknown model, UnsupportedImage for images of another size than its own."""
    loaded = models.load(model, device)
    points = []
    for levels in range(1, loaded.levels + 1):
        quality = quality_of(levels, loaded.levels)
        blobs = api.encode_batch(images, model, quality=quality, device=device)
        decoded = np.stack(api.decode_batch(blobs, "numpy", model, device))
        points.append(_point(loaded.name, quality, images, blobs, decoded))
    points += [_peer_point(peer, quality, images) for peer in peers().values() for quality in peer.qualities]
    return RateDistortion(loaded.name, data, len(images), environment(device), points)


def _peer_point(peer: Peer, quality: int | None, images: Images) -> RatePoint:
    blobs = [peer.encode(image, quality) for image in images]
    return _point(peer.name, quality, images, blobs, np.stack([peer.decode(blob) for blob in blobs]))


def _point(codec: str, quality: int | None, images: Images, blobs: Sequence[bytes], decoded: Images) -> RatePoint:
    size = float(np.mean([len(blob) for blob in blobs]))
    return RatePoint(codec, quality, size, bits_per_dim(size, images), distortion(images, decoded))


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as text, a row per point."""
    head = ["codec", "quality", "bytes/image", "bits/dim", "PSNR, dB (mean)", "PSNR, dB (of MSE)", "SSIM"]
    rows = [
        [
            point["codec"],
            number(point["quality"]),
            number(point["bytes_per_image"], 2),
            number(point["bpd"], 4),
            number(point["distortion"]["psnr_db"], 2),
            number(point["distortion"]["psnr_db_of_mse"], 2),
            number(point["distortion"]["ssim"], 4),
        ]
        for point in result["points"]
    ]
    return f"{result['model']} on {result['data']}, {result['images']:,} images\n{aligned([head, *rows])}"


def plot(source: Path, target: Path) -> None:
    """Draw the lossy points of a result (JSON file) as curves of PSNR (of the mean MSE) over bytes.

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
    lossy = [point for point in result["points"] if point["quality"] is not None]
    for codec in dict.fromkeys(point["codec"] for point in lossy):
        points = [point for point in lossy if point["codec"] == codec]
        psnrs = [point["distortion"]["psnr_db_of_mse"] for point in points]
        axes.plot([point["bytes_per_image"] for point in points], psnrs, marker="o", label=codec)
    axes.set_xticks([size for size in _TICKS if axes.get_xlim()[0] <= size <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(title=f"{result['data']}, {result['images']:,} images")
    return figure


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "rd", *sys.argv[1:]])
