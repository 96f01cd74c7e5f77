"""Files of the package's models, byte for byte, and the pixels they decode to. This command writes them anew:

PYTHONPATH=.links python tests/test_golden_models.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.codec import models
from vqcodec.training.datasets import binarise

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
QUALITIES = {"q1": 1, "q50": 50, "q100": 100}


def cases() -> list[tuple[str, str]]:
    """Models whose weights are there, and what is coded with each."""
    kinds = {"vq": ("q1", "q50", "q100"), "ladder": ("lossless", "q1", "q100"), "binary": ("lossless", "lossless-L")}
    return [
        (description.name, case)
        for description in models.available().values()
        for case in kinds["binary" if description.name.endswith("-binary") else description.family]
    ]


def original(model: str, case: str) -> NDArray[np.generic]:
    """A real image per case, the last one of every model on a bright background; bool for mode 1."""
    pixels = np.load(HERE / "images" / ("mnist_test_8.npy" if "mnist" in model else "omniglot28_test_8.npy"))
    image = pixels[QUALITIES.get(case, 3) % 7]
    if model.endswith("-binary"):
        image = binarise(image[None], case)[0]
    if case in ("q100", "lossless-L"):
        image = 255 - image
    return image > 0 if model.endswith("-binary") and case == "lossless" else image


def encoded(model: str, case: str) -> bytes:
    return vqcodec.encode(original(model, case), model, lossless=case not in QUALITIES, quality=QUALITIES.get(case))


def stem(model: str, case: str) -> Path:
    return GOLDEN / f"good-{model}-{case}"


@pytest.mark.parametrize(("model", "case"), cases())
def test_the_file_decodes_to_the_pixels(model: str, case: str) -> None:
    with Image.open(stem(model, case).with_suffix(".png")) as expected:
        decoded = vqcodec.decode(stem(model, case).with_suffix(".vqc").read_bytes())
        assert (decoded.mode, decoded.tobytes()) == (expected.mode, expected.tobytes())
        if case not in QUALITIES:
            assert np.array_equal(np.asarray(expected), original(model, case))


@pytest.mark.parametrize(("model", "case"), cases())
def test_the_image_encodes_to_the_file(model: str, case: str) -> None:
    blob = encoded(model, case)
    assert blob == stem(model, case).with_suffix(".vqc").read_bytes()
    assert vqcodec.info(blob).kind == "compact model"


def test_every_golden_file_of_a_model_has_its_case() -> None:
    """A model that is missing, whose golden files are there, would go untested."""
    named = {path.stem for path in GOLDEN.glob("good-*.png")}
    assert named == {stem(model, case).name for model, case in cases()}


if __name__ == "__main__":
    for name, kind in cases():
        content = encoded(name, kind)
        stem(name, kind).with_suffix(".vqc").write_bytes(content)
        vqcodec.decode(content).save(stem(name, kind).with_suffix(".png"))
