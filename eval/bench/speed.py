"""`vqcodec bench speed MODEL --data mnist`: encode and decode images/s, beside PNG and WebP in the same run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...codec import models
from ...codec.models import Model
from ...training.data.datasets import Dataset
from .. import files
from ..environment import Environment, environment, line
from ..metrics import Images
from ..peers import Peer, peers
from ..tables import aligned, number

T = TypeVar("T")

REPEATS = 5
_PEERS = {"PNG": None, "WebP": 50}  # and the quality they are timed at


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat, for all images; the speed is that of the median. Files are decoded one after another."""

    name: str
    bytes_per_image: float
    encode_s: list[float]
    decode_s: list[float]
    encode_images_per_s: float
    decode_images_per_s: float


@dataclass(frozen=True)
class Speed:
    """Timings of a model at every setting, and of peers."""

    model: str
    data: str
    images: int
    environment: Environment
    timings: list[Timing]


def measure(model: str, data: Dataset, limit: int | None = None, device: str = "cpu", repeats: int = REPEATS) -> Speed:
    """Time a model's batches, and Pillow's codecs image by image, on the first `limit` images of a data set.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images of another size than its own."""
    loaded, images = models.load(model, device), data.images[:limit]
    timings = [
        _time_model(loaded, model, setting, images, device, repeats) for setting in files.settings_of(loaded.codec)
    ]
    known = peers()
    timings += [time_peer(known[name], quality, list(images), repeats) for name, quality in _PEERS.items()]
    return Speed(loaded.name, f"{data.name} {data.split}", len(images), environment(device), timings)


def _time_model(model: Model, name: str, setting: int, images: Images, device: str, repeats: int) -> Timing:
    of = model.codec.lossy_settings
    asked = files.ask(setting, of)
    return time_codec(
        files.label(setting, of),
        lambda: files.encode(images, name, model, asked, device),
        lambda blobs: files.decode(blobs, name, device),
        repeats,
    )


def time_peer(peer: Peer, quality: int | None, images: Sequence[Images], repeats: int) -> Timing:
    """Image by image."""
    name = peer.name if quality is None else f"{peer.name}, quality {quality}"
    return time_codec(
        name,
        lambda: [peer.encode(image, quality) for image in images],
        lambda blobs: [peer.decode(blob) for blob in blobs],
        repeats,
    )


def time_codec(
    name: str, encode: Callable[[], list[bytes]], decode: Callable[[list[bytes]], object], repeats: int
) -> Timing:
    """Of what encodes all images, and what decodes their files."""
    blobs, encode_s = _seconds(encode, repeats)
    _, decode_s = _seconds(lambda: decode(blobs), repeats)
    count = len(blobs)
    return Timing(
        name, sum(map(len, blobs)) / count, encode_s, decode_s,
        count / statistics.median(encode_s), count / statistics.median(decode_s),
    )  # fmt: skip


def _seconds(action: Callable[[], T], repeats: int) -> tuple[T, list[float]]:
    """The action's result, and its seconds over the repeats after a warm-up."""
    result, times = action(), []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return result, times


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text; speeds also as multiples of the last peer's."""
    last = result["timings"][-1]
    than = f"× {last['name']}"
    head = ["", "bytes/image", "encode, images/s", "decode, images/s", f"encode, {than}", f"decode, {than}"]
    rows = [
        [
            timing["name"],
            number(timing["bytes_per_image"], 2),
            *(
                number(each, 0 if each >= 100 else 1)
                for each in (timing["encode_images_per_s"], timing["decode_images_per_s"])
            ),
            number(timing["encode_images_per_s"] / last["encode_images_per_s"], 2),
            number(timing["decode_images_per_s"] / last["decode_images_per_s"], 2),
        ]
        for timing in result["timings"]
    ]
    title = (
        f"{result['model']} on {result['data']}, {result['images']:,} images, median of {len(last['encode_s'])} runs"
    )
    return f"{title}\n{aligned([head, *rows])}\n{line(result['environment'])}"


if __name__ == "__main__":
    from ...cli import main

    main(["bench", "speed", *sys.argv[1:]])
