"""Files of the package's models, byte for byte, and the pixels they decode to. This command writes them anew:

PYTHONPATH=.links python tests/test_golden_models.py
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqcodec

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
IMAGES = {"vq-mnist": "mnist_test_8.npy", "vq-omniglot28": "omniglot28_test_8.npy"}
CASES = [(model, quality) for model in IMAGES for quality in (1, 50, 100)]


def original(model: str, quality: int) -> np.ndarray:
    """A real image per case; the best quality gets it on a bright background."""
    pixels = np.load(HERE / "images" / IMAGES[model])[quality % 7]
    return 255 - pixels if quality == 100 else pixels


def stem(model: str, quality: int) -> Path:
    return GOLDEN / f"good-{model}-q{quality}"


@pytest.mark.parametrize(("model", "quality"), CASES)
def test_the_file_decodes_to_the_pixels(model: str, quality: int) -> None:
    with Image.open(stem(model, quality).with_suffix(".png")) as expected:
        decoded = vqcodec.decode(stem(model, quality).with_suffix(".vqc").read_bytes())
        assert (decoded.mode, decoded.tobytes()) == (expected.mode, expected.tobytes())


@pytest.mark.parametrize(("model", "quality"), CASES)
def test_the_image_encodes_to_the_file(model: str, quality: int) -> None:
    blob = vqcodec.encode(original(model, quality), model, quality=quality)
    assert blob == stem(model, quality).with_suffix(".vqc").read_bytes()


if __name__ == "__main__":
    for name, level in CASES:
        content = vqcodec.encode(original(name, level), name, quality=level)
        stem(name, level).with_suffix(".vqc").write_bytes(content)
        vqcodec.decode(content).save(stem(name, level).with_suffix(".png"))
