"""`vqcodec eval MODEL --data SET`: measures a model by its family's own numbers."""

from __future__ import annotations

from typing import Any

from ..codec import models
from ..training.datasets import Dataset
from . import ladder, vq
from .files import Subject

_MEASURE = {"vq": vq.measure, "ladder": ladder.measure}
_TABLE = {"vq": vq.table, "ladder": ladder.table}


def measure(model: str, data: Dataset, limit: int | None = None, device: str = "cpu") -> Subject:
    """What `measure` of the model's family gives (name or weights file), on the first `limit` images of a data set.

    Raises ModelMismatch for an unknown model, UnsupportedImage for images that it does not take."""
    return _MEASURE[models.load(model, device).description.family](model, data, limit, device)


def table(result: dict[str, Any]) -> str:
    """A result, as it stands in JSON, as text."""
    return _TABLE[result["family"]](result)
