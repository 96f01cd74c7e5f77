"""Sections of ladders with a Gaussian posterior: bounds, KL and active units, posterior means, what levels hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...codec.ladder.model import LadderModel
from ...codec.ladder.posterior import Latents
from ...training.data.datasets import Dataset
from ..gaussian import drawn, load, tables, values_of
from ..metrics import Images
from ..samples import GaussianSamples, gaussian_samples
from .axes import Axis
from .charts import Rule, Series, line_chart
from .ladder import level_figures, unit_figure
from .page import Figure, Section
from .pca import pca_figure
from .pictures import COLUMNS, Strip, image_grid
from .shared import LATENT_IMAGES

_SEED = 0
_SAMPLES = 3 * COLUMNS


def sections(result: dict[str, Any], model: str, data: Dataset, device: str) -> list[Section]:
    """Of a result of `eval.gaussian.measure`, as it stands in JSON."""
    net = load(model, device).model
    elbo, bounds, levels = tables(result)
    point = {"label": result["model"], "levels": result["levels"]}
    nats = [np.array(level["unit_kl_nats"]) for level in result["levels"]]
    latents = _latents(net, values_of(net, data, min(result["images"], LATENT_IMAGES)))
    units = unit_figure(nats, f"{result['images']:,} images")
    return [
        Section("Bounds on the likelihood", [*_bounds(result), elbo, bounds]),
        Section("KL and active units", [*level_figures([point]), units, levels]),
        Section("Latents", _pca(latents, data)),
        Section("Reconstructions", [_reconstructions(net, data.images, latents[0], result)]),
        Section("Samples", [*_samples(net)]),
    ]


def _bounds(result: dict[str, Any]) -> list[Figure]:
    """-L_k over k; nothing for a single k."""
    points = [(bound["samples"], bound["nats"]) for bound in result["bounds"]]
    if len(points) < 2:
        return []
    rule = Rule("y", result["elbo_nats"], f"-ELBO, {result['elbo_nats']:,.3f} nats")
    names = [f"{nats:,.2f}" for _, nats in points]
    x, y = Axis("samples k", log=True), Axis("nats per image")
    alt = "Line chart of the importance-weighted bound over the number of samples"
    chart = line_chart([Series("-L_k", points, names)], x, y, alt, [rule])
    caption = (
        "Upper bounds on -log p(x), mean over the images: they fall with k towards it (Burda et al. 2016). The ELBO is "
        "the mean of the same log weights."
    )
    return [Figure("Importance-weighted bounds", caption, [chart])]


@torch.inference_mode()
def _latents(model: LadderModel, values: Tensor) -> list[list[Latents]]:
    """One draw from the posterior by batch, per level from the image up; the random state is restored."""
    device = model.generative.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_SEED)
        return [latents for latents, _ in drawn(model, values)]


def _pca(batches: Sequence[Sequence[Latents]], data: Dataset) -> list[Figure]:
    figures = []
    for number in reversed(range(len(batches[0]))):
        means = _rows(batch[number].mean for batch in batches)
        labels = None if data.labels is None else data.labels[: len(means)]
        what = f"the posterior means of z{number + 1}"
        figures.append(pca_figure(f"PCA of z{number + 1}", what, means, labels))
    return figures


def _rows(parts: Iterable[Tensor]) -> NDArray[np.float64]:
    """Parts [B, C, side, side] as rows, [N, n]."""
    return torch.cat([part.flatten(1) for part in parts]).double().cpu().numpy()


def _reconstructions(model: LadderModel, images: Images, batch: Sequence[Latents], result: dict[str, Any]) -> Figure:
    """The first images; with z of all levels from the posterior, then of ever fewer upper ones and the rest redrawn."""
    latents = [level.z[:COLUMNS] for level in reversed(batch)]
    count, levels = len(latents[0]), result["levels"][::-1]
    strips = [Strip("original", images[:count], f"The first {count} images of the data set")]
    for kept in range(len(levels), 0, -1):
        nats = sum(level["kl_nats"] for level in levels[:kept])
        found = gaussian_samples(model, count, _SEED, given=latents[:kept])
        strips.append(Strip(_kept(kept, len(levels)), _grey(found), _alt(kept, len(levels)), f"KL {nats:,.1f} nats"))
    caption = (
        f"The first {count} images of the data set, not chosen, and the mean of p(x | z) as grey levels. The upper "
        "levels named at the side are drawn from the posterior of the image, the others from the prior given those: a "
        "row shows what these levels know of the images above. KL is theirs together, the mean of all images."
    )
    return Figure("Originals, and what the levels hold of them", caption, image_grid(strips), wide=True)


def _kept(kept: int, of: int) -> str:
    """The upper `kept` levels of `of`, by name."""
    names = f"z{of}" if kept == 1 else f"z{of} to z{of - kept + 1}"
    return names if kept == of else f"{names}, rest redrawn"


def _alt(kept: int, of: int) -> str:
    rest = "" if kept == of else " and the levels below from the prior"
    return f"The same images, rendered with {_kept(kept, of).partition(',')[0]} from the posterior{rest}"


def _samples(model: LadderModel) -> list[Figure]:
    found = gaussian_samples(model, _SAMPLES, _SEED)
    strips = [Strip("pixels drawn", found.images, f"{_SAMPLES} samples")]
    caption = f"Latents drawn from the prior from the top down (seed {_SEED}), not chosen."
    if found.mean is not None:
        strips.insert(0, Strip("mean of p(x | z)", _grey(found), f"The mean images of the same {_SAMPLES} latents"))
        caption += " Pixels are drawn from the means above them."
    figures = [Figure("Samples from the prior", caption, image_grid(strips), wide=True)]
    return figures if model.config.levels == 1 else [*figures, _variations(model, found.latents)]


def _variations(model: LadderModel, latents: Sequence[Tensor]) -> Figure:
    """Of the first sample: upper levels as they are, lower ones drawn again and again."""
    levels, strips = len(latents), []
    for kept in range(1, levels):
        given = [z[:1].expand(2 * COLUMNS, *z.shape[1:]) for z in latents[:kept]]
        found = gaussian_samples(model, len(given[0]), _SEED + 1, given=given)
        alt = f"{len(given[0])} samples that share {_kept(kept, levels).partition(',')[0]}"
        strips.append(Strip(_kept(kept, levels), _grey(found), alt))
    caption = (
        "The first sample above. Its upper levels, named at the side, stay as they are; the levels below are drawn "
        "anew for every image. What changes within a row is decided below the levels that stay."
    )
    return Figure("One sample, its lower levels redrawn", caption, image_grid(strips), wide=True)


def _grey(found: GaussianSamples) -> Images:
    """The mean as grey levels; pixels as drawn where there is no mean."""
    if found.mean is None:
        return found.images
    grey: Images = np.rint(255 * found.mean).astype(np.uint8)
    return grey
