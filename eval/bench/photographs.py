"""`vqcodec bench rd MODEL... --data kodak`: rate and distortion on photographs, as whole files; BD-rates.

Images are coded one at a time, since their sizes differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...bitstream.errors import UnsupportedImage, VqcodecError
from ...codec import api, models
from ...training.data.photo_sets import PhotoSet
from .. import compressai_peers
from ..bd_rate import DeltaRate, bd_rate
from ..environment import Environment, environment, line
from ..metrics import Distortion, Images, distortion, pooled
from ..peers import Peer
from ..photo_peers import lossless_photo_peers, photo_peers
from ..tables import Table, aligned, number
from .rd import RatePoint

QUALITIES = (1, 10, 25, 40, 55, 70, 85, 100)
"""Of models that have more rates than these."""
ANCHOR = "JPEG"


class AnchorError(VqcodecError):
    """An anchor that is none of the codecs to be measured, or has no rates."""


@dataclass(frozen=True)
class Saving:
    """How many bits more (in %) a codec needs than an anchor at equal PSNR (mean of the images), by Bjontegaard.

    low_db, high_db: the PSNRs over which that is the mean. None in all three: too few points, or none in common."""

    codec: str
    anchor: str
    percent: float | None
    low_db: float | None
    high_db: float | None


@dataclass(frozen=True)
class PhotoRates:
    """Points of all codecs on the same photographs, lossless ones included, and what the lossy ones save.

    savings: of each codec against the anchor, and of each model against every other codec."""

    models: list[str]
    data: str
    images: int
    environment: Environment
    points: list[RatePoint]
    anchor: str
    savings: list[Saving]


def measure(
    names: Sequence[str],
    data: PhotoSet,
    limit: int | None = None,
    device: str = "cpu",
    others: Sequence[str] = (),
    anchor: str = ANCHOR,
) -> PhotoRates:
    """Points of each model (name or weights file) and each classical codec on the first `limit` photographs.

    others: learned codecs to add, as `compressai_peers.parse` takes them.  anchor: name of a lossy codec.
    Raises ModelMismatch for an unknown model, UnsupportedImage for one of other images, AnchorError, and PeerError or
    FileError for a learned codec that cannot be had."""
    images, loaded = data.images[:limit], {name: load(name, device) for name in names}
    learned, classical = compressai_peers.peers(others), list(photo_peers().values())
    known = list(dict.fromkeys(model.name for model in loaded.values()))
    codecs = list(dict.fromkeys([*known, *(peer.name for peer in (*classical, *learned))]))
    if anchor not in codecs:
        raise AnchorError(f"no codec {anchor!r} to compare with: there are {', '.join(codecs)}")
    points = [point for name, model in loaded.items() for point in model_points(name, model, images, device)]
    for peer in (*classical, *lossless_photo_peers(), *learned):
        points += [peer_point(peer, quality, images) for quality in peer.qualities]
    where = replace(environment(device), batch=1)
    kept = {model.name for model in loaded.values() if qualities(model) == (None,)}
    lossy, against = ([name for name in found if name not in kept] for found in (known, codecs))
    saved = savings(points, lossy, against, anchor)
    return PhotoRates(known, f"{data.name} {data.split}", len(images), where, points, anchor, saved)


def load(name: str, device: str = "cpu") -> models.Model:
    """A model of photographs. Raises ModelMismatch, and UnsupportedImage for one of other images."""
    model = models.load(name, device)
    if not model.photographs:
        raise UnsupportedImage(f"{name} takes {model.codec.takes}, no photographs")
    return model


def qualities(model: models.Model) -> tuple[int | None, ...]:
    """One for each rate of a model, or `QUALITIES` if it has more; None for one that keeps every pixel."""
    if getattr(model.codec, "lossless", False):
        return (None,)
    rates: int = getattr(model.codec, "qualities", 0)  # which only those of photographs have
    return QUALITIES if rates > len(QUALITIES) else tuple(100 * rate // rates for rate in range(1, rates + 1))


def model_points(name: str, model: models.Model, images: Sequence[Images], device: str = "cpu") -> list[RatePoint]:
    """A point per quality of a model."""
    decode = partial(decoded, name=name, device=device)
    return [
        point(model.name, quality, images, partial(encoded, quality=quality, name=name, device=device), decode)
        for quality in qualities(model)
    ]


def encoded(image: Images, quality: int | None, name: str, device: str = "cpu") -> bytes:
    """The file of a photograph, as the public function makes it."""
    return api.encode(image, name, quality=quality, device=device)


def decoded(blob: bytes, name: str, device: str = "cpu") -> Images:
    """The photograph in a file, uint8 [H, W, 3]."""
    image: Images = api.decode(blob, "numpy", name, device)
    return image


def peer_point(peer: Peer, quality: int | None, images: Sequence[Images]) -> RatePoint:
    """Whole files of a peer at one quality."""
    return point(peer.name, quality, images, lambda image: peer.encode(image, quality), peer.decode)


@dataclass(frozen=True)
class _Shot:
    """One photograph through a codec. size: bytes."""

    size: int
    distortion: Distortion
    encode_s: float
    decode_s: float


def point(
    codec: str,
    quality: int | None,
    images: Sequence[Images],
    encode: Callable[[Images], bytes],
    decode: Callable[[bytes], Images],
) -> RatePoint:
    """A point of photographs [H, W, 3], each encoded and decoded once with the clock running, after one without."""
    decode(encode(images[0]))
    shots = [_shot(image, encode, decode) for image in images]
    bits = [8 * shot.size for shot in shots]
    return RatePoint(
        codec,
        quality,
        float(np.mean([shot.size for shot in shots])),
        float(np.mean([count / image.size for count, image in zip(bits, images, strict=True)])),
        pooled([shot.distortion for shot in shots], [image.size for image in images]),
        float(np.mean([3 * count / image.size for count, image in zip(bits, images, strict=True)])),
        float(np.mean([shot.encode_s for shot in shots])),
        float(np.mean([shot.decode_s for shot in shots])),
    )


def _shot(image: Images, encode: Callable[[Images], bytes], decode: Callable[[bytes], Images]) -> _Shot:
    start = time.perf_counter()
    blob = encode(image)
    between = time.perf_counter()
    x_hat = decode(blob)
    ended = time.perf_counter()
    return _Shot(len(blob), distortion(image[None], x_hat[None]), between - start, ended - between)


def savings(points: Sequence[RatePoint], known: Sequence[str], codecs: Sequence[str], anchor: str) -> list[Saving]:
    """Of each of the codecs against the anchor, then of each known model against every other codec."""
    pairs = [(codec, anchor) for codec in codecs] + [(model, codec) for model in known for codec in codecs]
    curves = {
        codec: [(p.bpp, p.distortion.psnr_db) for p in points if p.codec == codec and p.quality is not None and p.bpp]
        for codec in codecs
    }
    found = {pair: bd_rate(curves[pair[1]], curves[pair[0]]) for pair in pairs if pair[0] != pair[1]}
    return [_saving(codec, against, delta) for (codec, against), delta in found.items()]


def _saving(codec: str, anchor: str, delta: DeltaRate | None) -> Saving:
    return Saving(codec, anchor, *((delta.percent, delta.low, delta.high) if delta else (None, None, None)))


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text."""
    head = f"{', '.join(result['models'])} on {result['data']}, {result['images']:,} photographs"
    parts = [f"-- {one.title}\n{aligned([one.head, *one.rows])}\n{one.note}" for one in tables(result)]
    return "\n".join([head, *parts, line(result["environment"])])


def tables(result: dict[str, Any]) -> list[Table]:
    """What the codecs save, and their points."""
    columns = list(dict.fromkeys([result["anchor"], *(saving["anchor"] for saving in result["savings"])]))
    rows = list(dict.fromkeys(saving["codec"] for saving in result["savings"]))
    found = {(saving["codec"], saving["anchor"]): saving for saving in result["savings"]}
    cells = [[codec, *(_saved(found.get((codec, anchor))) for anchor in columns)] for codec in rows]
    head = ["codec", "quality", "bytes/image", "bits/pixel", "PSNR, dB", "PSNR, dB (of MSE)", "MS-SSIM"]
    head += ["encode, s", "decode, s"]
    return [
        Table(
            "Bits against other codecs at equal PSNR (BD-rate)", ["codec", *(f"against {name}" for name in columns)],
            cells,
            "Bjontegaard 2001: log bits per pixel over PSNR as piecewise cubics (PCHIP), over the range in brackets.",
        ),
        Table(
            "Whole files", head, [_row(one) for one in result["points"]],
            "Bits per pixel, PSNR (RGB) and MS-SSIM are means over the images, times those of one image by itself.",
        ),
    ]  # fmt: skip


def _saved(saving: dict[str, Any] | None) -> str:
    if saving is None or saving["percent"] is None:
        return "-"
    return f"{saving['percent']:+.1f} % ({saving['low_db']:.1f} to {saving['high_db']:.1f} dB)"


def _row(one: dict[str, Any]) -> list[str]:
    quality = "lossless" if one["quality"] is None else str(one["quality"])
    measured = one["distortion"]
    psnrs = [number(measured[key], 2) for key in ("psnr_db", "psnr_db_of_mse")]
    rates = [number(one["bytes_per_image"]), number(one["bpp"], 4)]
    times = [number(one[key], 3) for key in ("encode_s", "decode_s")]
    return [one["codec"], quality, *rates, *psnrs, number(measured["ms_ssim"], 4), *times]
