"""The report of a measurement as one HTML page, and the blocks that pages are built of.

    page("Title", "subtitle", [Section("Heading", ["a paragraph", Table(...), Figure("Title", "caption", [chart])])])

`line_chart`, `scatter_chart`, `bar_chart` and `image_grid` give the parts of figures. A new kind of result gets its own
`sections(result, model, data, device)` in a module of this folder and an entry in `_SECTIONS`. `training_figures` and
`comparison_figures` are of runs, for pages of other results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...training.data.datasets import Dataset
from ..model import kind
from ..tables import Table
from . import gaussian, ladder, vq
from .axes import Axis
from .charts import Bars, Rule, Series, bar_chart, line_chart, scatter_chart
from .page import Facts, Figure, Html, Section, code, page
from .pca import pca_figure
from .pictures import Strip, image_grid
from .shared import measured
from .training import MetricsError, comparison_figures, training_figures

__all__ = [
    "Axis", "Bars", "Facts", "Figure", "Html", "MetricsError", "Rule", "Section", "Series", "Strip", "Table",
    "bar_chart", "code", "comparison_figures", "image_grid", "line_chart", "measured", "page", "pca_figure", "report",
    "scatter_chart", "training_figures",
]  # fmt: skip

_SECTIONS: dict[str, Callable[[dict[str, Any], str, Dataset, str], list[Section]]] = {
    "vq": vq.sections,
    "ladder": ladder.sections,
    "gaussian": gaussian.sections,
}


def report(result: dict[str, Any], model: str, data: Dataset, device: str, command: str) -> str:
    """The page of a result of `eval.model.measure`, as it stands in JSON.

    model: name or weights file, and data: what was measured; command: how, as one would type it. Latents,
    reconstructions and samples are computed anew, from the first images."""
    subtitle = (
        f"{result['images']:,} images of the {result['split']} split, measured {result['environment']['date'][:10]}"
    )
    own = _SECTIONS[kind(result)](result, model, data, device)
    return page(f"{result['model']} on {result['data']}", subtitle, [measured(result, data, command), *own])
