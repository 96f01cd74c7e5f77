"""`vqcodec eval MODEL --data SET`: measures a model by its family's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..codec import models, weights_file
from ..training.data.datasets import Dataset
from . import gaussian, ladder, vq
from .files import Subject

_MEASURE = {"vq": vq.measure, "ladder": ladder.measure}
_TABLE = {"vq": vq.table, "ladder": ladder.table, "gaussian": gaussian.table}


def measure(
    model: str,
    data: Dataset,
    limit: int | None = None,
    device: str = "cpu",
    samples: Sequence[int] = (),
    precision: str | None = None,
) -> Subject:
    """What `measure` of the model's family gives (name or weights file), on the first `limit` images of a data set.

    samples, precision: of importance-weighted bounds, for ladders with a Gaussian posterior alone. Raises ModelMismatch
    for an unknown model, UnsupportedImage for images that it does not take, BoundsError."""
    told = weights_file.describe(models.find(model))
    if told.config.get("posterior") == "gaussian" or samples or precision:
        return gaussian.measure(
            model, data, limit, device, samples or gaussian.SAMPLES, precision or gaussian.PRECISIONS[0]
        )
    return _MEASURE[models.load(model, device).description.family](model, data, limit, device)


def kind(result: dict[str, Any]) -> str:
    """What a result, as it stands in JSON, is of: "vq", "ladder" or, with importance-weighted bounds, "gaussian"."""
    return "gaussian" if "bounds" in result else str(result["family"])


def table(result: dict[str, Any]) -> str:
    """A result, as it stands in JSON, as text."""
    return _TABLE[kind(result)](result)
