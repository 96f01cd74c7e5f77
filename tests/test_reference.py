"""Files of the package's models, decoded by a second decoder that was written from FORMAT.md."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import vqcodec
from vqcodec.codec import models

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_decoder", HERE / "reference_decoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "images"), [("vq-mnist", "mnist_test_8.npy"), ("vq-omniglot28", "omniglot28_test_8.npy")]
)
@pytest.mark.parametrize("quality", [1, 50, 100])
def test_the_second_decoder_agrees(name: str, images: str, quality: int, reference: ModuleType) -> None:
    pixels = np.load(HERE / "images" / images)[:2]
    for image in (pixels[0], 255 - pixels[1]):
        blob = vqcodec.encode(image, name, quality=quality)
        expected = vqcodec.decode(blob, "numpy")
        assert np.array_equal(reference.decode_compact(blob, models.find(name)), expected)
