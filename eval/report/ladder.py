"""Sections of ladder codecs: files, code length, KL and active units by level and unit, latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...codec import models
from ...codec.ladder.codec import LadderCodec
from ...codec.ladder.exact import FRAC_BITS
from ...codec.ladder.model import LatentStep, Step
from ...training.data.datasets import Dataset
from .. import files
from ..dequantised import dequantised
from ..elbo import float_lengths
from ..ladder import ACTIVE_NATS, tables
from ..metrics import Images
from . import shared
from .axes import Axis, tick_text
from .charts import Bars, Rule, Series, bar_chart, line_chart
from .page import Figure, Section
from .pca import pca_figure

_FAINT_NATS = 1e-5  # KL below which the curve of units is not followed


@dataclass(frozen=True)
class _Latents:
    """Of images at one setting, per level from the image up: z float64 [N, n], and mean KL of every unit [n], nats."""

    setting: str
    z: list[NDArray[np.float64]]
    nats: list[NDArray[np.float64]]


def sections(result: dict[str, Any], model: str, data: Dataset, device: str) -> list[Section]:
    """Of a result of `eval.ladder.measure`, as it stands in JSON."""
    codec, images = models.load(model, device).codec, data.images[: result["images"]]
    assert isinstance(codec, LadderCodec)
    points = result["points"]
    whole, alone, rendered, *levels = tables(result)
    latents = _latents(codec, images[: shared.LATENT_IMAGES], files.settings_of(codec)[0])
    return [
        Section("Size, rate and distortion", [*shared.rate_distortion(points, "rendered"), _parts(points), whole]),
        Section("Code length and ELBO", [alone, rendered]),
        Section("KL and active units", [*level_figures(points), unit_figure(latents.nats, latents.setting), *levels]),
        Section("Latents", _pca(latents, data)),
        shared.reconstructions(codec, images, points),
        shared.drawn(codec),
    ]


def _parts(points: Sequence[dict[str, Any]]) -> Figure:
    levels = range(len(points[0]["levels"]))
    bars = [Bars(f"z{n + 1}", [point["levels"][n]["bits"] for point in points]) for n in reversed(levels)]
    return shared.where_bits_go(points, [*bars, Bars("pixels", [point["model"]["pixel_bits"] for point in points])])


def level_figures(points: Sequence[dict[str, Any]]) -> list[Figure]:
    """KL and active units of every level, a bar per setting; points have a `label` and `levels` (`LevelNumbers`)."""
    kl = [Bars(point["label"], [level["kl_nats"] for level in point["levels"]]) for point in points]
    active = [Bars(point["label"], [level["active"] for level in point["levels"]]) for point in points]
    of = ", ".join(f"{level['latents']} of z{level['level']}" for level in points[0]["levels"])
    return [
        _by_level(points, kl, "KL by level", "nats per image",
                  "KL of the latents from their prior, mean over the images; z1 is next to the image."),
        _by_level(points, active, "Active units by level", "units",
                  f"Units (channel and position) whose mean KL is above {ACTIVE_NATS} nats; there are {of}."),
    ]  # fmt: skip


def _by_level(points: Sequence[dict[str, Any]], bars: Sequence[Bars], title: str, unit: str, caption: str) -> Figure:
    names = [f"z{level['level']}" for level in points[0]["levels"]]
    return Figure(title, caption, [bar_chart(names, bars, "level", unit, f"Bar chart: {title}", ordered=True)])


def unit_figure(nats: Sequence[NDArray[np.float64]], setting: str) -> Figure:
    """Mean KL of every unit, largest first; nats [n] per level from the image up."""
    series = [Series(f"z{number}", _ranked(level)) for number, level in enumerate(nats, 1)]
    rule = Rule("y", ACTIVE_NATS, f"active above {ACTIVE_NATS} nats")
    x, y = Axis("rank of the unit within its level", log=True), Axis("mean KL, nats", log=True)
    chart = line_chart(series, x, y, "Line chart of the mean KL of every unit, sorted, by level", [rule])
    caption = f"Sorted by size within each level; {setting}. Units below {tick_text(_FAINT_NATS)} nats are left out."
    return Figure("KL of every unit", caption, [chart])


def _ranked(nats: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Rank, from 1, and KL of the units that have any."""
    return [(float(rank), float(kl)) for rank, kl in enumerate(np.sort(nats)[::-1], 1) if kl > _FAINT_NATS]


def _pca(latents: _Latents, data: Dataset) -> list[Figure]:
    figures = []
    for number, z in reversed(list(enumerate(latents.z, 1))):
        labels = None if data.labels is None else data.labels[: len(z)]
        figures.append(pca_figure(f"PCA of z{number}", f"z{number}", z, labels))
    return figures


@torch.inference_mode()
def _latents(codec: LadderCodec, images: Images, setting: int) -> _Latents:
    net = dequantised(codec.generative)
    parts = [_batch(codec, batch, setting) for batch in files.batches(files.upright_dark(images))]
    nats = [float_lengths(net, [level for level, _ in reversed(part)], [0] * len(part), setting)[0] for part in parts]
    return _Latents(
        files.label(setting, codec.lossy_settings) + f", {len(images):,} images",
        [torch.cat([part[level][1] for part in parts]).cpu().numpy() for level in range(codec.config.levels)],
        [torch.stack(level).sum(0).div(len(images)).numpy() for level in zip(*nats, strict=True)],
    )


def _batch(codec: LadderCodec, images: Images, setting: int) -> list[tuple[Tensor, Tensor]]:
    """Distances k from the prior's mean, int64 [B, n], and latents z, float64 [B, n], per level from the image up."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(step: Step, symbols: Tensor, freq: Tensor) -> None:
        assert isinstance(step, LatentStep)
        k = symbols - codec.reach_of(step, setting)
        z = codec.place(step, k.double().view(step.mean.shape)).mul(2.0**-FRAC_BITS)
        found[step.level] = k, z.flatten(1)

    codec.drive(codec.values(images), setting, keep, pixels=False)
    return [found[level] for level in range(codec.config.levels)]
