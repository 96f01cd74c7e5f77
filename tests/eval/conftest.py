"""The eight digits as data sets that the command line can name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.training import datasets
from vqcodec.training.datasets import Dataset


@pytest.fixture
def digits8(monkeypatch: pytest.MonkeyPatch, digit_set: Dataset) -> str:
    """Name of the data set of the eight digits."""
    monkeypatch.setitem(datasets._LOADERS, "digits8", lambda split, folder: digit_set)
    return "digits8"


@pytest.fixture(scope="session")
def binary_set(digit_set: Dataset, binary_digits: NDArray[np.uint8]) -> Dataset:
    """The eight digits in black and white."""
    return dataclasses.replace(digit_set, images=binary_digits)


@pytest.fixture
def binary8(monkeypatch: pytest.MonkeyPatch, binary_set: Dataset) -> str:
    """Name of the data set of the eight digits in black and white."""
    monkeypatch.setitem(datasets._LOADERS, "binary8", lambda split, folder: binary_set)
    return "binary8"
