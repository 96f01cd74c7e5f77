"""The eight digits, and parts of a photograph, as data sets that the command line can name; models of photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vqcodec.codec import api, models
from vqcodec.eval import photo_peers
from vqcodec.training.data import datasets, photo_sets
from vqcodec.training.data.datasets import Dataset
from vqcodec.training.data.photo_sets import PhotoSet

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"


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


@dataclasses.dataclass(frozen=True)
class FakePhotoModel:
    """A model of photographs with as many rates, whose files are WebP's."""

    name: str
    rates: int
    photographs: bool = True

    @property
    def codec(self) -> SimpleNamespace:
        return SimpleNamespace(qualities=self.rates)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of photographs "ours" (100 rates) and "few" (3), whose files are WebP's with 3 bytes in front."""
    known = {"ours": FakePhotoModel("ours", 100), "few": FakePhotoModel("few", 3)}
    webp = photo_peers.photo_peers()["WebP"]

    def load(name: str, device: str = "cpu") -> object:
        return known[name] if name in known else real_load(name, device)

    def encode(image: NDArray[np.uint8], model: str, *, quality: int, device: str) -> bytes:
        assert model in known
        return b"VQ!" + webp.encode(image, quality)

    def decode(blob: bytes, output: str, model: str, device: str) -> NDArray[np.uint8]:
        assert (blob[:3], output) == (b"VQ!", "numpy")
        return webp.decode(blob[3:])

    real_load = models.load
    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(api, "encode", encode)
    monkeypatch.setattr(api, "decode", decode)


@pytest.fixture(scope="session")
def photos() -> PhotoSet:
    """Three parts of a real photograph at twice its size, of different sizes."""
    with Image.open(PHOTO) as photo:
        pixels = np.asarray(photo.resize((2 * photo.width, 2 * photo.height)))
    parts = tuple(np.ascontiguousarray(part) for part in (pixels[:192, :224], pixels[-208:, :192], pixels[:200, -208:]))
    return PhotoSet("parts", "test", ("a", "b", "c"), parts, "parts of a photograph", "CC0")


@pytest.fixture
def photos3(monkeypatch: pytest.MonkeyPatch, photos: PhotoSet) -> str:
    """Name of the set of these photographs."""
    monkeypatch.setitem(photo_sets._LOADERS, "photos3", lambda split, folder: photos)
    return "photos3"
