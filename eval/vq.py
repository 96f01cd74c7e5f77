"""What a VQ codec does on a data set: real file sizes, the prior's code length, distortion, codebook use, speed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..codec import api, models
from ..codec.models import Model
from ..codec.vq.codec import VQCodec
from ..codec.vq.prior import StagedPrior
from ..codec.vq.quantiser import usage
from ..training.datasets import Dataset, load
from .environment import Environment, environment, line
from .metrics import Distortion, Images, bits_per_dim, distortion
from .prior import dequantised, exact_bits, float_bits
from .tables import aligned, number

_WARM_UP = 16  # images that go through the codec before the clock starts


@dataclass(frozen=True)
class FileNumbers:
    """Whole files as the public API makes them, images that fell back to plain included. Sizes are means per image.

    overhead_bytes: most bytes that a file of the model has besides its payload; None if there is none.
    plain_share: of the images that fell back, 0..1.  mismatches: files that do not decode to what the encoder saw.
    """

    bytes_total: float
    bpd: float
    bytes_payload: float
    payload_bpd: float
    overhead_bytes: int | None
    plain_share: float
    mismatches: int
    encode_images_per_s: float
    decode_images_per_s: float
    distortion: Distortion


@dataclass(frozen=True)
class ModelNumbers:
    """The model alone on every image, payloads without containers. Bits and bytes are means per image.

    prior_bits: code length under the exact tables.  excess: of the payload over it.
    order0_bits: entropy of the indices, each level by its own best fixed table.  saved_percent: of it, by the prior.
    fixed_point_percent: prior_bits over the code length of the same network in float64 (negative: shorter).
    """

    bytes_payload: float
    payload_bpd: float
    prior_bits: float
    excess_bytes: float
    excess_percent: float
    order0_bits: float
    saved_percent: float
    fixed_point_percent: float
    mismatches: int
    distortion: Distortion


@dataclass(frozen=True)
class CodebookNumbers:
    """One level alone: its codebook and indices. used: share of codes seen; bits are means per image."""

    level: int
    codes: int
    used: float
    perplexity: float
    order0_bits: float
    prior_bits: float
    saved_percent: float


@dataclass(frozen=True)
class Point:
    """Everything at one number of levels, which `quality` asks for."""

    levels: int
    quality: int
    files: FileNumbers
    model: ModelNumbers


@dataclass(frozen=True)
class Evaluation:
    """A model on the first `images` images of a split. weights, pixels: SHA-256 of the weights file, of the split."""

    model: str
    weights: str
    data: str
    split: str
    images: int
    pixels: str
    environment: Environment
    points: list[Point]
    codebooks: list[CodebookNumbers]


@dataclass(frozen=True)
class _Indices:
    """Sums over all images, per level, of code lengths in bits; indices int64 [N, P_level]."""

    indices: list[Tensor]
    exact: Tensor
    float64: Tensor


def evaluate(
    model: str,
    data: str,
    split: str = "test",
    data_dir: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """`measure` on a data set by name, as plain values for JSON. Raises ModelMismatch, DataError, UnsupportedImage."""
    return asdict(measure(model, load(data, split, data_dir), limit, device))


def measure(model: str, data: Dataset, limit: int | None = None, device: str = "cpu") -> Evaluation:
    """Measure a model (name or weights file) on the first `limit` images of a data set, for every number of levels.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images of another size than its own."""
    loaded, images = models.load(model, device), data.images[:limit]
    api.decode_batch(api.encode_batch(images[:_WARM_UP], model, device=device), "numpy", model, device)
    seen = _indices(loaded.codec, _as_coded(images))
    codebooks = _codebooks(loaded, seen, len(images))
    points = [_point(model, loaded, images, levels, codebooks, seen, device) for levels in range(1, loaded.levels + 1)]
    return Evaluation(
        loaded.name, loaded.sha256.hex(), data.name, data.split, len(images), data.sha256,
        environment(device), points, codebooks,
    )  # fmt: skip


def quality_of(levels: int, of: int) -> int:
    """The quality, 1..100, that asks for `levels` levels of a model that has `of`."""
    return 100 * levels // of


def _as_coded(images: Images) -> Images:
    """Images as the API gives them to a model: inverted where bright on the whole."""
    bright = images.mean((1, 2)) > 127.5
    return np.where(bright[:, None, None], 255 - images, images)


def _batches(images: Images) -> Iterator[Images]:
    return (images[start : start + api.BATCH] for start in range(0, len(images), api.BATCH))


def _indices(codec: VQCodec, images: Images) -> _Indices:
    net = cast(StagedPrior, dequantised(codec.prior.net))
    coded = [codec.encode(batch, len(codec.config.levels))[1] for batch in _batches(images)]
    exact = torch.stack([exact_bits(codec, indices) for indices in coded]).sum(0)
    float64 = torch.stack([float_bits(net, indices) for indices in coded]).sum(0)
    return _Indices([torch.cat(level).cpu() for level in zip(*coded, strict=True)], exact, float64)


def _codebooks(model: Model, seen: _Indices, images: int) -> list[CodebookNumbers]:
    rows = []
    for level, (spec, indices) in enumerate(zip(model.codec.config.levels, seen.indices, strict=True)):
        used = usage(indices, spec.codes)
        order0, prior = indices.shape[1] * float(np.log2(used.perplexity)), float(seen.exact[level]) / images
        saved = _percent(order0 - prior, order0)
        rows.append(CodebookNumbers(level + 1, spec.codes, used.used, used.perplexity, order0, prior, saved))
    return rows


def _point(
    name: str,
    model: Model,
    images: Images,
    levels: int,
    codebooks: Sequence[CodebookNumbers],
    seen: _Indices,
    device: str,
) -> Point:
    sizes, x_hat, mismatches = _code(model.codec, _as_coded(images), levels)
    expected = np.where(_as_coded(images) != images, 255 - x_hat, x_hat)
    files = _files(name, images, expected, quality_of(levels, model.levels), device)
    payload = float(np.mean(sizes))
    prior = sum(row.prior_bits for row in codebooks[:levels])
    order0 = sum(row.order0_bits for row in codebooks[:levels])
    float64 = float(seen.float64[:levels].sum()) / len(images)
    alone = ModelNumbers(
        bytes_payload=payload,
        payload_bpd=bits_per_dim(payload, images),
        prior_bits=prior,
        excess_bytes=payload - prior / 8,
        excess_percent=_percent(8 * payload - prior, prior),
        order0_bits=order0,
        saved_percent=_percent(order0 - prior, order0),
        fixed_point_percent=_percent(prior - float64, float64),
        mismatches=mismatches,
        distortion=distortion(images, expected),
    )
    return Point(levels, quality_of(levels, model.levels), files, alone)


def _code(codec: VQCodec, images: Images, levels: int) -> tuple[list[int], Images, int]:
    """Payload sizes, the encoder's reconstructions, and how many payloads decode to something else."""
    sizes: list[int] = []
    reconstructed, mismatches = [], 0
    for batch in _batches(images):
        payloads, indices = codec.encode(batch, levels)
        x_hat = codec.reconstruct(indices, levels)
        mismatches += _differing(codec.decode(payloads, levels), x_hat)
        sizes += map(len, payloads)
        reconstructed.append(x_hat)
    return sizes, np.concatenate(reconstructed), mismatches


def _files(model: str, images: Images, expected: Images, quality: int, device: str) -> FileNumbers:
    """Encode to real files and decode them. expected: what files of the model must decode to."""
    start = time.perf_counter()
    blobs = api.encode_batch(images, model, quality=quality, device=device)
    encoded = time.perf_counter() - start
    sizes, blobs = _through_disk(blobs)
    start = time.perf_counter()
    decoded = np.stack(api.decode_batch(blobs, "numpy", model, device))
    took = time.perf_counter() - start
    told = [api.info(blob) for blob in blobs]
    plain = np.array([info.kind == "plain" for info in told])
    overheads = [info.bytes_total - info.bytes_payload for info in told if info.kind != "plain"]
    total, payload = float(np.mean(sizes)), float(np.mean([info.bytes_payload for info in told]))
    return FileNumbers(
        bytes_total=total,
        bpd=bits_per_dim(total, images),
        bytes_payload=payload,
        payload_bpd=bits_per_dim(payload, images),
        overhead_bytes=max(overheads, default=None),
        plain_share=float(plain.mean()),
        mismatches=_differing(decoded, np.where(plain[:, None, None], images, expected)),
        encode_images_per_s=len(images) / encoded,
        decode_images_per_s=len(images) / took,
        distortion=distortion(images, decoded),
    )


def _through_disk(blobs: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
    """Write every file, and give back their sizes as the file system tells them and their contents."""
    with tempfile.TemporaryDirectory(prefix="vqcodec-eval-") as folder:
        paths = [Path(folder, f"{number:07}.vqc") for number in range(len(blobs))]
        for path, blob in zip(paths, blobs, strict=True):
            path.write_bytes(blob)
        return [path.stat().st_size for path in paths], [path.read_bytes() for path in paths]


def _differing(a: Images, b: Images) -> int:
    """How many images differ."""
    return int((a != b).any((1, 2)).sum())


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


_FILE_ROWS = (
    ("file, bytes/image", "bytes_total", 2), ("file, bits/dim", "bpd", 4), ("payload, bytes/image", "bytes_payload", 2),
    ("payload, bits/dim", "payload_bpd", 4), ("header and checksum, bytes (max)", "overhead_bytes", 0),
    ("stored plain, share", "plain_share", 4), ("encode, images/s", "encode_images_per_s", 0),
    ("decode, images/s", "decode_images_per_s", 0), ("wrongly decoded files", "mismatches", 0),
)  # fmt: skip
_DISTORTION_ROWS = (
    ("PSNR, dB (mean of images)", "psnr_db", 2), ("PSNR, dB (of the mean MSE)", "psnr_db_of_mse", 2),
    ("MSE", "mse", 2), ("SSIM", "ssim", 4), ("MS-SSIM", "ms_ssim", 4),
)  # fmt: skip
_MODEL_ROWS = (
    ("payload, bytes/image", "bytes_payload", 2), ("prior's code length, bits/image", "prior_bits", 2),
    ("payload's excess over it, bytes", "excess_bytes", 3), ("payload's excess over it, %", "excess_percent", 3),
    ("order-0 entropy of indices, bits/image", "order0_bits", 2), ("saved by the prior, %", "saved_percent", 2),
    ("cost of fixed point, %", "fixed_point_percent", 4), ("wrongly decoded payloads", "mismatches", 0),
)  # fmt: skip
_CODEBOOK_ROWS = (
    ("codes", "codes", 0), ("codes used, share", "used", 4), ("perplexity", "perplexity", 1),
    ("order-0 entropy, bits/image", "order0_bits", 2), ("prior's code length, bits/image", "prior_bits", 2),
    ("saved by the prior, %", "saved_percent", 2),
)  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as text; a column per number of levels."""
    points = result["points"]
    files, alone = [point["files"] for point in points], [point["model"] for point in points]
    sections = [
        [["", *(f"{point['levels']} level(s)" for point in points)]],
        [["quality", *(str(point["quality"]) for point in points)]],
        _rows(_FILE_ROWS, files) + _rows(_DISTORTION_ROWS, [values["distortion"] for values in files]),
        _heading("model alone, no fallback", points),
        _rows(_MODEL_ROWS, alone) + _rows(_DISTORTION_ROWS[:1], [values["distortion"] for values in alone]),
        _heading("each level by itself", points),
        _rows(_CODEBOOK_ROWS, result["codebooks"]),
    ]
    lines = aligned([row for section in sections for row in section])
    head = f"{result['model']} on {result['data']} {result['split']}, {result['images']:,} images\n"
    return f"{head}{lines}\n{line(result['environment'])}"


def _heading(text: str, points: Sequence[object]) -> list[list[str]]:
    return [[f"-- {text}", *("" for _ in points)]]


def _rows(rows: Sequence[tuple[str, str, int]], columns: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [[label, *(number(column[key], decimals) for column in columns)] for label, key, decimals in rows]
