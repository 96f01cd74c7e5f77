"""`vqcodec bench lossless MODEL... --data mnist`: mean file size of models and of lossless classical codecs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...bitstream.errors import UnsupportedImage
from ...codec import models
from ...codec.family import LOSSLESS
from ...training.data.datasets import Dataset
from .. import files
from ..environment import Environment, environment, line
from ..metrics import Images
from ..peers import lossless_peers
from ..tables import aligned, number
from .rd import RatePoint, model_point, peer_point


@dataclass(frozen=True)
class Row:
    """One codec. bytes_per_image: mean of whole files.  of_best: over the smallest classical codec.

    exact: whether every pixel of every image came back."""

    codec: str
    bytes_per_image: float
    bpd: float
    of_best: float
    exact: bool


@dataclass(frozen=True)
class Lossless:
    """Codecs on the same images, the models first. binary: whether these hold 0 and 255 only; peers then use a bit."""

    data: str
    images: int
    binary: bool
    environment: Environment
    rows: list[Row]


def measure(names: Sequence[str], data: Dataset, limit: int | None = None, device: str = "cpu") -> Lossless:
    """Files of models (names or weights files) and of peers, on the first `limit` images of a data set.

    Raises ModelMismatch for an unknown model, UnsupportedImage for one without lossless coding or for images that it
    does not take."""
    images = data.images[:limit]
    ours, binary = [_ours(name, images, device) for name in names], files.is_binary(images)
    theirs = [peer_point(peer, None, images) for peer in lossless_peers(binary)]
    best = min(point.bytes_per_image for point in theirs)
    rows = [_row(point, best) for point in ours + theirs]
    return Lossless(f"{data.name} {data.split}", len(images), binary, environment(device), rows)


def _ours(name: str, images: Images, device: str) -> RatePoint:
    model = models.load(name, device)
    if not model.codec.has_lossless:
        raise UnsupportedImage(f"{model.name} is lossy")
    return model_point(name, model, LOSSLESS, images, device)


def _row(point: RatePoint, best: float) -> Row:
    exact = point.distortion.mse == 0
    return Row(point.codec, point.bytes_per_image, point.bpd, point.bytes_per_image / best, exact)


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text, a row per codec."""
    head = ["codec", "bytes/image", "bits/dim", "of the best classical", "all exact"]
    rows = [
        [
            row["codec"],
            number(row["bytes_per_image"], 2),
            number(row["bpd"], 4),
            number(row["of_best"], 3),
            "yes" if row["exact"] else "NO",
        ]
        for row in result["rows"]
    ]
    kind = "black and white" if result["binary"] else "grey"
    title = f"lossless files of {result['data']}, {result['images']:,} {kind} images"
    return f"{title}\n{aligned([head, *rows])}\n{line(result['environment'])}"


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "lossless", *sys.argv[1:]])
