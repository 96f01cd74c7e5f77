"""`vqcodec eval MODEL --data SET`: measures a model by its family's own numbers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..codec import models
from ..training.datasets import load
from . import ladder, vq

_MEASURE = {"vq": vq.measure, "ladder": ladder.measure}
_TABLE = {"vq": vq.table, "ladder": ladder.table}


def evaluate(
    model: str,
    data: str,
    split: str = "test",
    data_dir: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """`measure` on a data set by name, as plain values for JSON. Raises ModelMismatch, DataError, UnsupportedImage."""
    family = models.load(model, device).description.family
    return asdict(_MEASURE[family](model, load(data, split, data_dir), limit, device))


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as text."""
    return _TABLE[result["family"]](result)
