"""The eight digits as a data set that the command line can name."""

from __future__ import annotations

import pytest

from vqcodec.training import datasets
from vqcodec.training.datasets import Dataset


@pytest.fixture
def digits8(monkeypatch: pytest.MonkeyPatch, digit_set: Dataset) -> str:
    """Name of the data set of the eight digits."""
    monkeypatch.setitem(datasets._LOADERS, "digits8", lambda split, folder: digit_set)
    return "digits8"
