"""Training of lossless photograph models, on crops of a real one: code length, grey crops, resuming, export."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import vqcodec
from vqcodec.codec import models, photographs
from vqcodec.codec.config import ConfigError
from vqcodec.codec.pixels.codec import PhotoLosslessCodec
from vqcodec.codec.pixels.config import PhotoLosslessConfig
from vqcodec.training.config import PhotoLosslessRecipe, PhotoLosslessTrain, read_recipe
from vqcodec.training.data.photos import Photos
from vqcodec.training.export import export
from vqcodec.training.loop import build_task, load_task, train
from vqcodec.training.photo_lossless import PhotoLosslessTask

PHOTO = Path(__file__).parents[2] / "codec" / "examples" / "photo.png"
RECIPE = PhotoLosslessRecipe(
    "tiny", "photos", "for tests", PhotoLosslessConfig(width=16, blocks=1, hidden=6),
    PhotoLosslessTrain(epochs=50, batch_size=4, learning_rate=1e-2, warmup_steps=5, crop=32, pixels=400, grey=0.25,
                       precision="float32"),
)  # fmt: skip
Array = NDArray[np.float64]


def task_of(recipe: PhotoLosslessRecipe) -> PhotoLosslessTask:
    torch.manual_seed(recipe.train.seed)
    task = build_task(recipe)
    assert isinstance(task, PhotoLosslessTask)
    return task


def changed(**values: object) -> PhotoLosslessRecipe:
    return dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, **values))


@pytest.fixture(scope="module")
def photos() -> Photos:
    """Four parts of the photograph, 64 x 96 pixels each."""
    with Image.open(PHOTO) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return Photos([part for half in pixels.split(64, 1) for part in half.split(96, 2)], 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: Photos) -> Path:
    """Of a finished run of 50 steps."""
    folder = tmp_path_factory.mktemp("photo-lossless")
    assert train(RECIPE, photos, folder, validation=photos.centres()) is not None
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> PhotoLosslessTask:
    task, steps = load_task(RECIPE, folder)
    assert isinstance(task, PhotoLosslessTask)
    assert steps == 50
    return task


def test_packaged_recipe() -> None:
    recipe = read_recipe("lossless-photo")
    assert isinstance(recipe, PhotoLosslessRecipe)
    assert (recipe.name, recipe.family, recipe.data) == ("lossless-photo", "photo-lossless", "photos")


@pytest.mark.parametrize(
    "values", [{"grey": 1.1}, {"grey": -0.1}, {"pixels": 0}, {"crop": 16, "pixels": 257}, {"epochs": 0}]
)
def test_impossible_training_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PhotoLosslessTrain(**values)  # type: ignore[arg-type]


def test_only_photographs_are_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="photographs"):
        train(RECIPE, torch.zeros(4, 32, 32, dtype=torch.uint8), tmp_path)


def test_the_code_length_falls(trained: PhotoLosslessTask, photos: Photos) -> None:
    crops = photos.centres()
    before, after = task_of(RECIPE).evaluate(crops)["bpp"], trained.evaluate(crops)["bpp"]
    assert after < 0.8 * before
    assert after < 20


def test_training_in_pieces_is_training_in_one(photos: Photos, tmp_path: Path) -> None:
    recipe = changed(epochs=5)
    whole = train(recipe, photos, tmp_path / "whole")
    while (task := train(recipe, photos, tmp_path / "pieces", resume=True, max_seconds=0)) is None:
        pass
    assert whole is not None
    for a, b in zip(whole.parameters(), task.parameters(), strict=True):
        assert torch.equal(a, b)
    start = task_of(recipe)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), whole.parameters(), strict=True))


def test_all_weights_are_trained(trained: PhotoLosslessTask, photos: Photos) -> None:
    trained = copy.deepcopy(trained)
    (group,) = trained.parameter_groups()
    assert len(group.parameters) == len(list(trained.parameters()))
    assert group.clip == RECIPE.train.grad_clip
    trained.loss(photos.centres(), 0, 0.0)[0].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in group.parameters)


def direct(task: PhotoLosslessTask, crop: NDArray[np.uint8], row: int, column: int) -> float:
    """Bits of a pixel of a crop uint8 [3, S, S], in NumPy float64, sample by sample."""
    w = {name: tensor.double().numpy() for name, tensor in task.model.state_dict().items()}
    side = crop.shape[1]

    def linear(name: str, x: Array) -> Array:
        return w[f"perceptron.{name}.weight"] @ x + w.get(f"perceptron.{name}.bias", 0)

    def at(i: int, j: int) -> Array:
        if i < 0 or (i == 0 and j < 0):
            return np.zeros(3)
        i, j = (i - 1, 0) if j < 0 else (i, min(j, side - 1))
        return (crop[[1, 0, 2], i, j].astype(float) - 128) / 16

    def logistic(x: float) -> float:
        return 0.5 * (1 + math.tanh(x / 2))

    places = [(a, b) for a, b in itertools.product(range(-3, 1), range(-3, 4)) if b < (0, 2, 4, 4)[-a]]
    reference = (at(row, column - 1) + at(row - 1, column)) / 2
    differences = np.concatenate([at(row + a, column + b) - reference for a, b in places])
    h = linear("entry", np.concatenate([differences, reference]))
    for block in range(task.model.config.blocks):
        inner = linear(f"blocks.{block}.body.1", np.maximum(h, 0))
        h = h + linear(f"blocks.{block}.body.3", np.maximum(inner, 0))
    features = np.split(linear("project.1", np.maximum(h, 0)), 3)
    means = reference + linear("linear", differences)
    errors, bits = np.zeros(0), 0.0
    for channel, x in enumerate(at(row, column)):
        mean, own = means[channel], features[channel]
        if channel:
            own = own + linear(f"known.{channel - 1}", errors)
            mean = mean + linear(f"direct.{channel - 1}", errors)[0]
        more, log_scale = linear(f"heads.{channel}", np.maximum(own, 0))
        mean = min(127 / 16, max(-8, mean + more))
        log_scale = min(4, max(-3, log_scale))
        logit, ratio, wider = (np.interp(log_scale, np.linspace(-3, 4, 15), knots) for knots in w["shape.knots"].T)
        share, scale, ratio = logistic(logit), math.exp(log_scale + wider), math.exp(ratio)
        errors = np.append(errors, x - mean)
        ends = [16 * (x - mean) + half for half in (0.5, -0.5)]
        masses = [logistic(ends[0] / s) - logistic(ends[1] / s) for s in (scale, ratio * scale)]
        bits -= math.log2(max(2**-20, (1 - share) * masses[0] + share * masses[1]))
    return bits


@pytest.mark.parametrize("place", [(0, 0), (0, 31), (31, 0), (1, 30), (2, 1), (3, 31), (17, 12)])
def test_bits_are_those_of_a_direct_computation(
    trained: PhotoLosslessTask, photos: Photos, place: tuple[int, int]
) -> None:
    """At corners, edges and inside; in float32 with differences of up to 16 that scales of 0.05 divide."""
    crops = photos.centres()[:2]
    with torch.no_grad():
        found = trained._bits(crops, torch.tensor([[5, 32 * place[0] + place[1]]]).expand(2, -1))
    assert found.shape == (2, 2)
    expected = [direct(trained, crop, *place) for crop in crops.numpy()]
    assert found[:, 1].tolist() == pytest.approx(expected, rel=1e-3)


def test_evaluation_is_of_every_pixel(trained: PhotoLosslessTask, photos: Photos) -> None:
    crops = photos.centres()[:3, :, :8, :8]
    expected = np.mean([direct(trained, crop, i, j) for crop in crops.numpy() for i in range(8) for j in range(8)])
    for batch_size in (1, 2, 4):
        assert trained.evaluate(crops, batch_size)["bpp"] == pytest.approx(expected, rel=1e-4)


def loss_of(task: PhotoLosslessTask, images: Tensor) -> float:
    torch.manual_seed(5)
    with torch.no_grad():
        bpp, metrics = task.loss(images, 0, 0.0)
    assert float(metrics["bpp"]) == float(bpp)
    return float(bpp)


def test_a_share_of_the_crops_is_grey(photos: Photos) -> None:
    crops = photos.centres()
    grey = crops.double().mean(1, keepdim=True).round().to(torch.uint8).expand_as(crops)
    colour, all_grey, some = (task_of(changed(grey=share)) for share in (0.0, 1.0, 0.5))
    assert loss_of(all_grey, crops) == loss_of(colour, grey)
    assert loss_of(colour, crops) != loss_of(colour, grey)
    torch.manual_seed(5)
    chosen = torch.rand(len(crops)) < 0.5
    assert 0 < int(chosen.sum()) < len(crops)
    assert loss_of(some, crops) == loss_of(colour, torch.where(chosen[:, None, None, None], grey, crops))


def test_the_loss_is_of_pixels_drawn_at_random(photos: Photos) -> None:
    """Of so many that their mean is near that of all."""
    crops = photos.centres()
    task = task_of(changed(grey=0.0, pixels=1024))
    with torch.no_grad():
        losses = [float(task.loss(crops, 0, 0.0)[0]) for _ in range(4)]
    assert len(set(losses)) == 4
    assert np.mean(losses) == pytest.approx(task.evaluate(crops)["bpp"], rel=0.02)


def test_half_precision_hardly_changes_the_loss(trained: PhotoLosslessTask, photos: Photos) -> None:
    """Means are computed in float32 all the same; bfloat16 has 8 bits, which tell features and scales."""
    crops = photos.centres()
    with torch.autocast("cpu", torch.bfloat16):
        found = trained.evaluate(crops)["bpp"]
    assert found == pytest.approx(trained.evaluate(crops)["bpp"], rel=0.01)


def test_files_have_the_size_that_was_measured(trained: PhotoLosslessTask, photos: Photos) -> None:
    """Integers and grids cost less than half a per cent, and a stream 13 bytes at most."""
    codec = PhotoLosslessCodec(copy.deepcopy(trained.model))
    crops = photos.centres()
    bits = [8 * len(codec.encode_photo(crop.permute(1, 2, 0).numpy()).payload) for crop in crops]
    assert np.mean(bits) == pytest.approx(trained.evaluate(crops)["bpp"] * 32 * 32, rel=0.005, abs=8 * 13)


def test_export(folder: Path, photos: Photos, tmp_path: Path) -> None:
    """A weights file of integers that codes photographs, and a card."""
    weights = export(load_task(RECIPE, folder)[0], RECIPE, photos, tmp_path, steps=50)
    model = models.load(str(weights))
    floats = {name for name, tensor in model.codec.state_dict().items() if tensor.is_floating_point()}
    assert floats == {"psnr_floor"}
    assert (tmp_path / "tiny.md").read_text().startswith("#")
    with Image.open(PHOTO) as image:
        part = image.convert("RGB").crop((10, 20, 74, 60))
    blob, known = photographs.encode(part, model, photographs.Wish(100))
    told = vqcodec.info(blob, model=str(weights))
    assert (known, told.model, told.lossless) == (True, "tiny", True)
    assert vqcodec.decode(blob, model=str(weights)).tobytes() == part.tobytes()
