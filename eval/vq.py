"""What a VQ codec does on a data set: real file sizes, the prior's code length, distortion, codebook use, speed.

Also the paper's bound on log p(x), see `vq_bound`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec import models
from ..codec.vq.codec import VQCodec
from ..codec.vq.quantiser import usage
from ..training.data.datasets import Dataset
from . import files
from .dequantised import dequantised
from .files import FileNumbers, Subject, percent
from .metrics import Distortion, Images, bits_per_dim, distortion
from .prior import exact_bits, float_bits
from .tables import Cell, Table, cells
from .vq_bound import Bound, fitted


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
    """Everything at one number of levels, which `quality` asks for. bound: None without the training split."""

    levels: int
    quality: int
    files: FileNumbers
    model: ModelNumbers
    bound: Bound | None


@dataclass(frozen=True)
class Evaluation(Subject):
    """Every number of levels of a model, and its codebooks."""

    points: list[Point]
    codebooks: list[CodebookNumbers]


@dataclass(frozen=True)
class _Indices:
    """Sums over all images, per level, of code lengths in bits; indices int64 [N, P_level]."""

    indices: list[Tensor]
    exact: Tensor
    float64: Tensor


def measure(model: str, data: Dataset, limit: int | None = None, device: str = "cpu") -> Evaluation:
    """Measure a VQ model (name or weights file) on the first `limit` images of a data set, for every number of levels.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images of another size than its own."""
    loaded, images = models.load(model, device), data.images[:limit]
    codec = loaded.codec
    assert isinstance(codec, VQCodec)
    files.warm_up(model, loaded, images, device)
    seen = _indices(codec, files.upright_dark(images))
    codebooks, likelihoods, points = _codebooks(codec, seen, len(images)), fitted(loaded), []
    for levels in files.settings_of(codec):
        alone = files.payloads(codec, images, levels)
        whole = files.measure_files(model, loaded, images, alone.x_hat, levels, device)
        numbers = _numbers(alone, images, codebooks[:levels], float(seen.float64[:levels].sum()) / len(images))
        bound = likelihoods[levels - 1].bound(images, alone.x_hat, numbers.prior_bits) if likelihoods else None
        points.append(Point(levels, 100 * levels // codec.lossy_settings, whole, numbers, bound))
    return Evaluation(**vars(files.subject(loaded, data, images, device)), points=points, codebooks=codebooks)


def _indices(codec: VQCodec, images: Images) -> _Indices:
    net = dequantised(codec.prior.net)
    coded = [codec.encode(batch, codec.lossy_settings)[1] for batch in files.batches(images)]
    exact = torch.stack([exact_bits(codec, indices) for indices in coded]).sum(0)
    float64 = torch.stack([float_bits(net, indices) for indices in coded]).sum(0)
    return _Indices([torch.cat(level).cpu() for level in zip(*coded, strict=True)], exact, float64)


def _codebooks(codec: VQCodec, seen: _Indices, images: int) -> list[CodebookNumbers]:
    rows = []
    for level, (spec, indices) in enumerate(zip(codec.config.levels, seen.indices, strict=True)):
        used = usage(indices, spec.codes)
        order0, prior = indices.shape[1] * float(np.log2(used.perplexity)), float(seen.exact[level]) / images
        saved = percent(order0 - prior, order0)
        rows.append(CodebookNumbers(level + 1, spec.codes, used.used, used.perplexity, order0, prior, saved))
    return rows


def _numbers(
    alone: files.Payloads, images: Images, codebooks: Sequence[CodebookNumbers], float64: float
) -> ModelNumbers:
    """float64: mean code length of these levels in float64."""
    payload = float(np.mean(alone.sizes))
    prior, order0 = sum(row.prior_bits for row in codebooks), sum(row.order0_bits for row in codebooks)
    return ModelNumbers(
        bytes_payload=payload,
        payload_bpd=bits_per_dim(payload, images),
        prior_bits=prior,
        excess_bytes=payload - prior / 8,
        excess_percent=percent(8 * payload - prior, prior),
        order0_bits=order0,
        saved_percent=percent(order0 - prior, order0),
        fixed_point_percent=percent(prior - float64, float64),
        mismatches=alone.mismatches,
        distortion=distortion(images, alone.x_hat),
    )


_MODEL_ROWS: tuple[Cell, ...] = (
    ("payload, bytes/image", "bytes_payload", 2), ("prior's code length, bits/image", "prior_bits", 2),
    ("payload's excess over it, bytes", "excess_bytes", 3), ("payload's excess over it, %", "excess_percent", 3),
    ("order-0 entropy of indices, bits/image", "order0_bits", 2), ("saved by the prior, %", "saved_percent", 2),
    ("cost of fixed point, %", "fixed_point_percent", 4), ("wrongly decoded payloads", "mismatches", 0),
)  # fmt: skip
_BOUND_NOTE = "p(x | z_q) is a discretised Gaussian around decoded pixels; a dash: no training images to fit it on"
_BOUND_ROWS: tuple[Cell, ...] = (
    ("log p(x | z_q), nats/image", "likelihood_nats", 2), ("log p(z_q), nats/image", "prior_nats", 2),
    ("bound: their sum, nats/image", "nats", 2), ("bound, bits/dim", "bpd", 4),
    ("scale of p(x | z_q), grey levels", "scale", 2), ("training images it is fitted on", "fitted_on", 0),
)  # fmt: skip
_CODEBOOK_ROWS: tuple[Cell, ...] = (
    ("codes", "codes", 0), ("codes used, share", "used", 4), ("perplexity", "perplexity", 1),
    ("order-0 entropy, bits/image", "order0_bits", 2), ("prior's code length, bits/image", "prior_bits", 2),
    ("saved by the prior, %", "saved_percent", 2),
)  # fmt: skip


def tables(result: dict[str, Any]) -> list[Table]:
    """The result of `measure`, as it stands in JSON: files, the model alone, and its codebooks level by level."""
    points = result["points"]
    alone, head = [point["model"] for point in points], ["", *(f"{point['levels']} level(s)" for point in points)]
    quality = ["quality", *(str(point["quality"]) for point in points)]
    of_model = cells(_MODEL_ROWS, alone) + cells(files.DISTORTION_ROWS[:3], [values["distortion"] for values in alone])
    bounds = [point.get("bound") or dict.fromkeys(key for _, key, _ in _BOUND_ROWS) for point in points]
    by_level = ["", *(f"level {values['level']}" for values in result["codebooks"])]
    return [
        Table("whole files, fallback included", head, [quality, *files.file_cells(points)]),
        Table("model alone, no fallback", head, of_model),
        Table("bound log p(x | z_q) + log p(z_q)", head, cells(_BOUND_ROWS, bounds), _BOUND_NOTE),
        Table("each level by itself", by_level, cells(_CODEBOOK_ROWS, result["codebooks"])),
    ]


def table(result: dict[str, Any]) -> str:
    """The result of `measure`, as it stands in JSON, as text; a column per number of levels."""
    return files.page(result, tables(result))
