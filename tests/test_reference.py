"""Real files, decoded by a second decoder that was written from FORMAT.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.codec import models
from vqcodec.tests.reference import decoder as reference
from vqcodec.tests.reference import photo as reference_photo
from vqcodec.training.data.datasets import binarise

HERE = Path(__file__).parent
Images = NDArray[np.uint8]


def check(blob: bytes, weights: Path) -> None:
    """The second decoder sees what vqcodec sees, in the file and in its preview."""
    built_in = vqcodec.info(blob).model in models.BUILT_IN.values()
    given = None if built_in else str(weights)
    decoded = np.asarray(vqcodec.decode(blob, "pil", given).convert("L"))
    assert np.array_equal(reference.decode_file(blob, weights), decoded)
    preview, whole = vqcodec.preview(blob, "pil", given)
    assert whole
    assert np.array_equal(reference.decode_file(blob, weights, preview=True), np.asarray(preview.convert("L")))


def images_of(name: str) -> Images:
    """Two real images of the kind a model was made for, the second on a bright background."""
    pixels = np.load(HERE / "images" / ("mnist_test_8.npy" if "mnist" in name else "omniglot28_test_8.npy"))[:2]
    pixels = binarise(pixels, name) if name.endswith("binary") else pixels
    return np.stack([pixels[0], 255 - pixels[1]])


@pytest.mark.parametrize("name", [description.name for description in models.available().values()])
def test_files_of_the_models_of_the_package(name: str) -> None:
    codec = models.load(name).codec
    images = images_of(name)
    binary = [image > 127 for image in images] if name.endswith("binary") else []  # mode 1, beside mode L
    for image in (*images, *binary):
        settings = codec.lossy_settings
        for setting in {1, (settings + 1) // 2, settings} if settings else ():
            blob = vqcodec.encode(image, name, quality=100 * setting // settings)
            assert vqcodec.info(blob).setting == setting
            check(blob, models.find(name))
        if codec.has_lossless:
            blob = vqcodec.encode(image, name, lossless=True)
            assert vqcodec.info(blob).kind == "compact model"
            check(blob, models.find(name))


@pytest.mark.parametrize("setting", [0, 1, 2])
def test_files_of_a_ladder(setting: int, tiny_ladder: Path, digits: Images, file_of: Callable[..., bytes]) -> None:
    for image in (digits[0], 255 - digits[1], np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)):
        blob = file_of(tiny_ladder, image, setting)
        check(blob, tiny_ladder)
        assert np.array_equal(reference.decode_file(blob, tiny_ladder), image) == (setting == 0)


def test_files_of_a_binary_ladder(tiny_binary: Path, binary_digits: Images, file_of: Callable[..., bytes]) -> None:
    for image in (binary_digits[0], 255 - binary_digits[1]):
        for mode in ("L", "1"):
            blob = file_of(tiny_binary, image, 0, mode)
            check(blob, tiny_binary)
            assert np.array_equal(reference.decode_file(blob, tiny_binary), image)


def test_files_of_other_architectures(
    digits: Images, untrained: Callable[..., Path], file_of: Callable[..., bytes]
) -> None:
    """Leaky rectifiers, batch norm, levels on other grids, linear stages, more blocks."""
    for values in (
        {"leak": 2, "batch_norm": True, "blocks": 2, "stages": [[5, 0, 0], [16, 8, 2]]},
        {"latents": (1, 2, 3, 4), "widths": (8, 4, 6, 8), "grids": (14, 14, 2, 1), "stages": [[1, 4, 0], [4, 0, 0]]},
        {"latents": (3,), "widths": (8,), "grids": (28,), "stages": [[1, 4, 1]], "likelihood": "categorical",
         "qualities": 2},
    ):  # fmt: skip
        weights = untrained(**values)
        image = digits[0] if values.get("likelihood") else np.where(digits[0] > 100, 255, 0).astype(np.uint8)
        for setting in range(values.get("qualities", 1)):
            check(file_of(weights, image, setting), weights)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
@pytest.mark.parametrize("quality", [3, 100])
def test_photographs(tiny_photo: Path, photo: Images, mode: str, quality: int) -> None:
    image = Image.fromarray(photo[:40, :56]).convert(mode)
    image.info["exif"] = b"Exif of some length" * 3
    blob = vqcodec.encode(image, str(tiny_photo), quality=quality, metadata=mode == "RGBA")
    decoded = vqcodec.decode(blob, model=str(tiny_photo))
    pixels, profile, exif = reference_photo.decode_file(blob, tiny_photo)
    assert np.abs(pixels.astype(int) - np.asarray(decoded)).max() <= 1
    assert (profile, exif) == (b"", image.info["exif"] if mode == "RGBA" else b"")


def test_large_photographs_are_tiles(tiny_photo: Path, photo: Images) -> None:
    """Two tiles beside each other, whose columns of 64 pixels fade into each other."""
    image = np.concatenate([photo[5 * n : 5 * n + 9] for n in range(17)], 1)[:, :2113]
    blob = vqcodec.encode(Image.fromarray(image), str(tiny_photo), quality=30)
    assert not vqcodec.info(blob).lossless
    decoded = vqcodec.decode(blob, "numpy", str(tiny_photo))
    pixels, _, _ = reference_photo.decode_file(blob, tiny_photo)
    assert np.abs(pixels.astype(int) - decoded).max() <= 1
