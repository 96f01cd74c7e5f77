"""Fixtures shared by all tests."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream import ModelHeader, write
from vqcodec.codec import models, weights_file
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.photo.config import Level as PhotoLevel
from vqcodec.codec.photo.config import PhotoConfig
from vqcodec.codec.vq.config import Level, VQConfig
from vqcodec.training.config import LadderRecipe, LadderTrain, PhotoRecipe, PhotoTrain, Recipe, VQRecipe, VQTrain
from vqcodec.training.data.datasets import Dataset, binarise
from vqcodec.training.data.photos import Photos
from vqcodec.training.export import export
from vqcodec.training.ladder import LadderTask
from vqcodec.training.loop import train

IMAGES = Path(__file__).parent / "images"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Also of the processes that tests start: others run beside them."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    """Real digits, uint8 [8, 28, 28]: MNIST test images 0 to 7."""
    return np.load(IMAGES / "mnist_test_8.npy")


@pytest.fixture(scope="session")
def characters() -> NDArray[np.uint8]:
    """Real characters, uint8 [8, 28, 28]: omniglot28 test images 0 to 7."""
    return np.load(IMAGES / "omniglot28_test_8.npy")


@pytest.fixture(scope="session")
def digit_set(digits: NDArray[np.uint8]) -> Dataset:
    """The real digits as a data set."""
    return Dataset("mnist", "test", digits, None, "0 = background", "eight digits", "CC BY-SA 3.0",
                   hashlib.sha256(digits.tobytes()).hexdigest())  # fmt: skip


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """40 steps of all eight digits on a network of two levels of 16 codes."""
    levels = (Level(codes=16, stages=(8, 64)), Level(codes=16, stages=(64,)))
    model = VQConfig(width=16, latent_dim=4, prior_width=16, prior_embed=4, prior_head=8, levels=levels)
    schedule = VQTrain(
        epochs=40, batch_size=8, learning_rate=1e-2, warmup_steps=5, rate_bits=(120.0, 150.0), precision="float32"
    )
    return VQRecipe("tiny", "mnist", "for tests", model, schedule)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, digit_set: Dataset) -> Path:
    """Weights file of a small VQ model of two levels, trained on the eight digits here and now.

    Its name is "tiny"; it is not built in, so pass the path as the model. It renders
    the eight digits above its PSNR floor.
    """
    folder = tmp_path_factory.mktemp("tiny")
    task = train(tiny_recipe, torch.from_numpy(digit_set.images), folder)
    assert task is not None
    return export(task, tiny_recipe, digit_set, folder, steps=tiny_recipe.train.epochs)


def _tiny_ladder(name: str, **model: object) -> LadderRecipe:
    """100 steps of all eight digits on three small levels of latents."""
    config = LadderConfig(
        latents=(2, 2, 4), widths=(16, 16, 16), grids=(7, 7, 1), blocks=1, pixel_embed=2, pixel_features=8,
        stages=(Stage(4, 8, 1), Stage(16, 8, 1)), **model,
    )  # fmt: skip
    weights = (0.001, 0.01) if config.qualities > 1 else ()
    schedule = LadderTrain(
        epochs=100, batch_size=8, learning_rate=2e-2, warmup_steps=5, rd_weights=weights, precision="float32"
    )
    return LadderRecipe(name, "mnist", "for tests", config, schedule)


def _trained(recipe: LadderRecipe, images: NDArray[np.uint8], data: Dataset, folder: Path) -> Path:
    task = train(recipe, torch.from_numpy(images), folder)
    assert task is not None
    return export(task, recipe, data, folder, steps=recipe.train.epochs)


@pytest.fixture(scope="session")
def tiny_ladder_recipe() -> LadderRecipe:
    """A Ladder VAE of 8-bit pixels with a lossless and two lossy qualities."""
    return _tiny_ladder("tiny-ladder", qualities=3, likelihood="categorical")


@pytest.fixture(scope="session")
def tiny_binary_recipe() -> LadderRecipe:
    """A Ladder VAE of binary pixels."""
    return _tiny_ladder("tiny-binary")


@pytest.fixture(scope="session")
def tiny_ladder(tmp_path_factory: pytest.TempPathFactory, tiny_ladder_recipe: LadderRecipe, digit_set: Dataset) -> Path:
    """Weights file of a small Ladder VAE of 8-bit digits; not built in, so pass the path as the model."""
    return _trained(tiny_ladder_recipe, digit_set.images, digit_set, tmp_path_factory.mktemp("tiny-ladder"))


@pytest.fixture(scope="session")
def tiny_binary(tmp_path_factory: pytest.TempPathFactory, tiny_binary_recipe: LadderRecipe, digit_set: Dataset) -> Path:
    """Weights file of a small Ladder VAE of binary digits (pixels 0 and 255)."""
    return _trained(tiny_binary_recipe, digit_set.images, digit_set, tmp_path_factory.mktemp("tiny-binary"))


@pytest.fixture(scope="session")
def tiny_gaussian_recipe() -> LadderRecipe:
    """60 steps of all eight digits on the paper's kind of model: dense, Gaussian, batch-normalised, three levels."""
    config = LadderConfig(
        form="mlp", latents=(6, 4, 2), widths=(32, 16, 8), grids=(1, 1, 1), posterior="gaussian", skip=False,
        batch_norm=True, leak=3, stages=(Stage(784, 0),), pixel_features=1,
    )  # fmt: skip
    schedule = LadderTrain(
        epochs=60, batch_size=8, learning_rate=2e-2, ladder_rate=1.0, warmup_steps=5, kl_warmup=0.5, precision="float32"
    )
    return LadderRecipe("tiny-gaussian", "mnist", "for tests", config, schedule)


@pytest.fixture(scope="session")
def tiny_gaussian(
    tmp_path_factory: pytest.TempPathFactory, tiny_gaussian_recipe: LadderRecipe, digit_set: Dataset
) -> Path:
    """Weights file of a small Ladder VAE with a Gaussian posterior, which can be measured only; its run's checkpoint
    lies beside it."""
    return _trained(tiny_gaussian_recipe, digit_set.images, digit_set, tmp_path_factory.mktemp("tiny-gaussian"))


def _tiny_archive(name: str, **model: object) -> LadderRecipe:
    """40 steps of all eight digits on two small dense levels and pixels in raster order."""
    config = LadderConfig(
        form="mlp", latents=(6, 4), widths=(24, 16), grids=(1, 1), posterior="gaussian", skip=False, batch_norm=True,
        leak=3, context=2, stages=(Stage(784, 12, 1),), pixel_features=3, **model,
    )  # fmt: skip
    schedule = LadderTrain(
        epochs=40, batch_size=8, learning_rate=2e-2, ladder_rate=1.0, warmup_steps=5, kl_warmup=0.5, precision="float32"
    )
    return LadderRecipe(name, "mnist", "for tests", config, schedule)


@pytest.fixture(scope="session")
def tiny_archive_recipe() -> LadderRecipe:
    """A Ladder VAE for archives of 8-bit pixels."""
    return _tiny_archive("tiny-archive", likelihood="categorical")


@pytest.fixture(scope="session")
def tiny_archive(
    tmp_path_factory: pytest.TempPathFactory, tiny_archive_recipe: LadderRecipe, digit_set: Dataset
) -> Path:
    """Weights file of a small model for archives of 8-bit digits; its run's checkpoint lies beside it."""
    return _trained(tiny_archive_recipe, digit_set.images, digit_set, tmp_path_factory.mktemp("tiny-archive"))


@pytest.fixture(scope="session")
def tiny_archive_binary(tmp_path_factory: pytest.TempPathFactory, digit_set: Dataset) -> Path:
    """Weights file of a small model for archives of binary digits (pixels 0 and 255)."""
    recipe = _tiny_archive("tiny-archive-binary")
    return _trained(recipe, digit_set.images, digit_set, tmp_path_factory.mktemp("tiny-archive-binary"))


@pytest.fixture(scope="session")
def binary_digits(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The real digits, every pixel sampled once: uint8 [8, 28, 28] of 0 and 255."""
    return binarise(digits, "tests")


@pytest.fixture(scope="session")
def edited() -> Callable[..., Path]:
    """edited(weights, path, family="...", key=value, ...): the same tensors under another description, at `path`."""

    def edit(weights: Path, path: Path, family: str | None = None, **config: object) -> Path:
        told = weights_file.describe(weights)
        told = dataclasses.replace(told, family=family or told.family, config=told.config | config)
        weights_file.write(path, told, weights_file.read_tensors(weights))
        return path

    return edit


@pytest.fixture(scope="session")
def file_of() -> Callable[..., bytes]:
    """file_of(weights, image, setting): the general file of an image uint8 [28, 28], whatever its size."""

    def make(weights: Path, image: NDArray[np.uint8], setting: int, mode: str = "L") -> bytes:
        model = models.load(str(weights))
        (coded,) = model.codec.encode_images(image[None], setting)
        header = ModelHeader(coded.parameter, mode, 28, 28, 0, model.sha256[:8], model.name)
        return write(header, coded.payload)

    return make


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, digit_set: Dataset) -> Callable[..., Path]:
    """untrained(stages=[[until, width, blocks], ...], **config): weights file of a ladder with random weights."""

    def make(stages: Sequence[Sequence[int]], **config: Any) -> Path:
        torch.manual_seed(0)
        small = {"latents": (2, 2, 4), "widths": (8, 8, 16), "grids": (7, 7, 1), "blocks": 1, "pixel_features": 4}
        model = LadderConfig(**small | config, stages=tuple(Stage(*stage) for stage in stages))
        recipe = LadderRecipe("random", "mnist", "", model, LadderTrain(rd_weights=(0.01,) * (model.qualities - 1)))
        task = LadderTask(model, recipe.train)
        with torch.no_grad():
            for tensor in task.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor).sub(0.4).mul(0.5))  # running variances stay positive
        return export(task, recipe, digit_set, tmp_path_factory.mktemp("random"), steps=0)

    return make


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch, tiny_ladder: Path, tiny_binary: Path, tmp_path: Path) -> None:
    """The tiny models as built-in models 3 and 5, so that their files are compact."""
    for weights in (tiny_ladder, tiny_binary):
        (tmp_path / weights.name).write_bytes(weights.read_bytes())
    monkeypatch.setattr(models, "_FOLDER", tmp_path)
    monkeypatch.setattr(models, "BUILT_IN", {3: "tiny-ladder", 5: "tiny-binary"})


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """A real photograph, uint8 [96, 128, 3]: part of the example that the package carries."""
    with Image.open(Path(vqcodec.__file__).parent / "codec" / "examples" / "photo.png") as image:
        return np.array(image.convert("RGB"))[:96, :128].copy()


@pytest.fixture(scope="session")
def tiny_photo_recipe() -> PhotoRecipe:
    """30 steps on crops of a photograph, three small levels."""
    levels = (PhotoLevel(16, 4, 8, 1), PhotoLevel(8, 8, 8, 0), PhotoLevel(8, 24, 8, 1))
    model = PhotoConfig(levels, width=8, analysis_blocks=1, synthesis_blocks=1, fine_width=8, fine_blocks=1)
    schedule = PhotoTrain(epochs=30, batch_size=4, learning_rate=1e-2, warmup_steps=5, crop=64, precision="float32")
    return PhotoRecipe("tiny-photo", "photos", "for tests", model, schedule)


@pytest.fixture(scope="session")
def tiny_photo(
    tmp_path_factory: pytest.TempPathFactory, tiny_photo_recipe: PhotoRecipe, photo: NDArray[np.uint8]
) -> Path:
    """Weights file of a small photograph model; not built in, so pass the path as the model."""
    folder = tmp_path_factory.mktemp("tiny-photo")
    photos = Photos([torch.from_numpy(photo).permute(2, 0, 1)] * 4, 64)
    task = train(tiny_photo_recipe, photos, folder)
    assert task is not None
    return export(task, tiny_photo_recipe, photos, folder, steps=30)
