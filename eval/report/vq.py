"""Sections of VQ codecs: files, the prior's code length, codebooks and how they are used, quantised vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...codec import models
from ...codec.vq.codec import FRAC_BITS, VQCodec
from ...training.data.datasets import Dataset
from .. import files
from ..metrics import Images
from ..vq import tables
from . import shared
from .axes import Axis
from .charts import Bars, Series, bar_chart, line_chart
from .page import Figure, Section
from .pca import pca_figure


def sections(result: dict[str, Any], model: str, data: Dataset, device: str) -> list[Section]:
    """Of a result of `eval.vq.measure`, as it stands in JSON."""
    codec, images = models.load(model, device).codec, data.images[: result["images"]]
    assert isinstance(codec, VQCodec)
    points = result["points"]
    whole, *alone, codebooks = tables(result)
    indices = _indices(codec, images[: shared.LATENT_IMAGES])
    return [
        Section("Size, rate and distortion", [*shared.rate_distortion(points, "distortion"), _parts(result), whole]),
        Section("Code length", alone),
        Section("Codebooks", [_use(result["codebooks"]), _frequencies(codec, indices), codebooks]),
        Section("Latents", _pca(codec, indices, data)),
        shared.reconstructions(codec, images, points),
        shared.drawn(codec),
    ]


def _parts(result: dict[str, Any]) -> Figure:
    """Level by level, under the prior; a point has the levels up to its number."""
    points = [point | {"label": f"{point['levels']} level(s)"} for point in result["points"]]
    bars = [
        Bars(f"level {level['level']}", [level["prior_bits"] * (level["level"] <= p["levels"]) for p in points])
        for level in result["codebooks"]
    ]
    return shared.where_bits_go(points, bars)


def _use(codebooks: Sequence[dict[str, Any]]) -> Figure:
    bars = [
        Bars("codes", [level["codes"] for level in codebooks]),
        Bars("codes used", [level["used"] * level["codes"] for level in codebooks]),
        Bars("perplexity", [level["perplexity"] for level in codebooks]),
    ]
    names = [f"level {level['level']}" for level in codebooks]
    chart = bar_chart(names, bars, "", "codes", "Bar chart of codebook size, codes used and perplexity by level")
    caption = "Codes seen at least once, and 2 to the power of the entropy of their frequencies (all images)."
    return Figure("Use of the codebooks", caption, [chart])


def _frequencies(codec: VQCodec, indices: Sequence[Tensor]) -> Figure:
    """Share of every code among the indices int64 [N, P_level], largest first."""
    series = []
    for number, (level, index) in enumerate(zip(codec.config.levels, indices, strict=True), 1):
        share = torch.bincount(index.flatten(), minlength=level.codes).sort(descending=True).values / index.numel()
        series.append(
            Series(f"level {number}", [(float(n), value) for n, value in enumerate(share.tolist(), 1) if value])
        )
    x, y = Axis("rank of the code within its level", log=True), Axis("share of the indices", log=True)
    chart = line_chart(series, x, y, "Line chart of the share of every code, sorted, by level")
    return Figure("Frequency of every code", f"Sorted within each level; {len(indices[0]):,} images.", [chart])


def _pca(codec: VQCodec, indices: Sequence[Tensor], data: Dataset) -> list[Figure]:
    labels = None if data.labels is None else data.labels[: len(indices[0])]
    figures = []
    for level, index in enumerate(indices):
        vectors = codec.quantiser.embed(level, index.to(codec.device)).flatten(1).cpu().numpy() * 2.0**-FRAC_BITS
        what = f"the quantised vectors of level {level + 1}, all positions together"
        figures.append(pca_figure(f"PCA of level {level + 1}", what, np.asarray(vectors, np.float64), labels))
    return figures


def _indices(codec: VQCodec, images: Images) -> list[Tensor]:
    """Indices int64 [N, P_level] of every level."""
    parts = [codec.encode(batch, codec.lossy_settings)[1] for batch in files.batches(files.upright_dark(images))]
    return [torch.cat(level).cpu() for level in zip(*parts, strict=True)]
