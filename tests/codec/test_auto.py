"""`auto` and named models among ladders, with the tiny models in the place of the built-in ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream import CompactHeader, ModelHeader, read, write
from vqcodec.bitstream.errors import Corrupt
from vqcodec.codec import models
from vqcodec.codec.choice import target_psnr_db
from vqcodec.codec.images import psnr_db

Images = NDArray[np.uint8]
pytestmark = pytest.mark.usefixtures("built_in")


@pytest.fixture(scope="module")
def mixed(digits: Images, characters: Images, binary_digits: Images) -> list[Image.Image]:
    """Known and unknown images, of several sizes and modes."""
    generator = np.random.default_rng(0)
    arrays = [
        *digits[:3], 255 - digits[3], *binary_digits[:3], binary_digits[3] > 0, digits[4] > 99, *characters[:2],
        generator.integers(0, 256, (28, 28), np.uint8), generator.integers(0, 2, (28, 28)) > 0,
        np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8), np.zeros((28, 28), np.bool_),
        np.tile(digits[0], (2, 2)), generator.integers(0, 256, (28, 28, 3), np.uint8),
        np.repeat(digits[5][:, :, None], 3, 2),
    ]  # fmt: skip
    return [Image.fromarray(array) for array in arrays]


def test_lossless_is_exact_and_never_larger_than_plain(mixed: list[Image.Image]) -> None:
    blobs = vqcodec.encode_batch(mixed, lossless=True)
    kinds = set()
    for image, blob, plain in zip(mixed, blobs, vqcodec.encode_batch(mixed, "plain"), strict=True):
        decoded = vqcodec.decode(blob)
        assert (decoded.mode, decoded.size, decoded.tobytes()) == (image.mode, image.size, image.tobytes())
        assert len(blob) <= len(plain)
        told = vqcodec.info(blob)
        assert told.lossless is True
        kinds.add(told.model)
    assert kinds == {None, "tiny-ladder", "tiny-binary"}
    assert blobs == [vqcodec.encode(image, lossless=True) for image in mixed]


def test_lossless_keeps_the_smallest(digits: Images, binary_digits: Images) -> None:
    for image in (*digits, *binary_digits):
        names = ["tiny-ladder", "plain"] + (["tiny-binary"] if np.isin(image, (0, 255)).all() else [])
        sizes = [len(vqcodec.encode(image, name, lossless=True)) for name in names]
        assert len(vqcodec.encode(image, lossless=True)) == min(sizes)


@pytest.mark.parametrize("quality", [None, 1, 50, 100])
def test_lossy_reaches_what_is_asked_or_is_lossless(quality: int | None, mixed: list[Image.Image]) -> None:
    target = target_psnr_db(60 if quality is None else quality)
    blobs = vqcodec.encode_batch(mixed, quality=quality)
    for image, blob, decoded in zip(mixed, blobs, vqcodec.decode_batch(blobs), strict=True):
        assert (decoded.mode, decoded.size) == (image.mode, image.size)
        error = np.asarray(decoded.convert("RGB")).astype(int) - np.asarray(image.convert("RGB"))
        assert psnr_db(int((error**2).sum()), error.size) >= target
        assert vqcodec.info(blob).lossless == (not error.any())


def test_black_and_white_is_lossless_where_that_is_smallest(binary_digits: Images) -> None:
    for blob in vqcodec.encode_batch(binary_digits, quality=100):
        assert (vqcodec.info(blob).model, vqcodec.info(blob).lossless) == ("tiny-binary", True)


def test_compact_files_tell_their_mode(digits: Images, binary_digits: Images) -> None:
    grey, white = Image.fromarray(binary_digits[0]), Image.fromarray(binary_digits[0] > 0)
    for image, parameter in ((grey, 1), (white, 0)):
        blob = vqcodec.encode(image, "tiny-binary", lossless=True)
        header, _ = read(blob)
        assert isinstance(header, CompactHeader)
        assert (header.parameter, header.model_id) == (parameter, 5)
        assert (vqcodec.info(blob).mode, vqcodec.decode(blob).mode) == (image.mode, image.mode)
        assert vqcodec.preview(blob)[0].mode == image.mode
    for setting, quality in ((0, None), (1, 50), (2, 100)):
        blob = vqcodec.encode(digits[2], "tiny-ladder", lossless=setting == 0, quality=quality)
        header, _ = read(blob)
        assert isinstance(header, CompactHeader)
        assert (header.parameter, header.model_id) == (setting, 3)
    three = vqcodec.encode(np.repeat(binary_digits[0][:, :, None], 3, 2), "tiny-binary")
    assert isinstance(read(three)[0], ModelHeader)
    assert vqcodec.decode(three).mode == "RGB"


def test_a_batch_of_files_of_several_models_and_settings(digits: Images, binary_digits: Images) -> None:
    blobs = []
    for number in range(4):
        blobs.append(vqcodec.encode(digits[number], "tiny-ladder", quality=50))
        blobs.append(vqcodec.encode(binary_digits[number], "tiny-binary"))
        blobs.append(vqcodec.encode(digits[number], "tiny-ladder", lossless=True))
        blobs.append(vqcodec.encode(binary_digits[number] > 0, "tiny-binary"))
    together = vqcodec.decode_batch(blobs)
    for image, blob in zip(together, blobs, strict=True):
        single = vqcodec.decode(blob)
        assert (single.mode, single.tobytes()) == (image.mode, image.tobytes())


def test_parameters_that_a_model_does_not_have(digits: Images, binary_digits: Images) -> None:
    for name, image, least in (("tiny-ladder", digits[0], 3), ("tiny-binary", binary_digits[0], 2)):
        model = models.load(name)
        (coded,) = model.codec.encode_images(image[None], 0)
        for parameter in range(least, 8):
            blob = write(CompactHeader(parameter, model.number, model.sha256[:1]), coded.payload)
            for read_file in (vqcodec.decode, vqcodec.preview, vqcodec.info):
                with pytest.raises(Corrupt, match=f"parameter {parameter}"):
                    read_file(blob)


def test_missing_weights_are_a_clear_error(digits: Images, tmp_path: Path) -> None:
    blob = vqcodec.encode(digits[0], "tiny-ladder", quality=100)
    (tmp_path / "tiny-ladder.safetensors").unlink()
    with pytest.raises(vqcodec.ModelMismatch, match="the file needs model 3, which this build lacks"):
        vqcodec.decode(blob)
    assert vqcodec.info(blob).method == "tiny-ladder, setting unknown without its weights"
    assert vqcodec.info(blob).lossless is None
    assert [vqcodec.info(b).model for b in vqcodec.encode_batch(digits[:2])] == [None, None]
