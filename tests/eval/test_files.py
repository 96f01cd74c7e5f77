"""Files and payloads as every family is measured: sizes, what counts as plain, lossless or wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec.codec import api, models
from vqcodec.codec.family import Coded
from vqcodec.eval import files
from vqcodec.eval.files import Asked

NOISE = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)


def test_settings(tiny_model: Path, tiny_ladder: Path, tiny_binary: Path) -> None:
    of = [files.settings_of(models.load(str(path)).codec) for path in (tiny_model, tiny_ladder, tiny_binary)]
    assert of == [[1, 2], [0, 1, 2], [0]]
    assert [files.label(setting, 2) for setting in (0, 1, 2)] == ["lossless", "rate 1 of 2", "rate 2 of 2"]


@pytest.mark.parametrize("rates", range(1, 8))
def test_every_setting_can_be_asked_for(rates: int) -> None:
    assert files.ask(0, rates) == Asked(lossless=True, quality=None)
    for setting in range(1, rates + 1):
        quality = files.ask(setting, rates).quality
        assert quality is not None
        assert -(-quality * rates // 100) == setting  # as the API rounds it


def test_wrong_images_are_counted(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    model = models.load(str(tiny_model))
    x_hat = files.payloads(model.codec, digits, 2).x_hat
    assert files.measure_files(str(tiny_model), model, digits, x_hat, 2).mismatches == 0
    x_hat[3, 14, 14] ^= 1
    assert files.measure_files(str(tiny_model), model, digits, x_hat, 2).mismatches == 1


def test_wrong_payloads_are_counted(
    tiny_model: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = models.load(str(tiny_model)).codec
    bright = np.concatenate([digits, 255 - digits[:2]])  # VQ files of the two kinds have different parameters
    right = files.payloads(codec, bright, 1)
    assert right.mismatches == 0
    assert np.array_equal(right.previews, right.x_hat)
    assert np.array_equal(right.x_hat[8:], 255 - right.x_hat[:2])
    encode = type(codec).encode_images

    def wrong(self: object, pixels: NDArray[np.uint8], setting: int) -> list[Coded]:
        first, *rest = encode(codec, pixels, setting)
        return [dataclasses.replace(first, x_hat=first.x_hat ^ 1), *rest]

    monkeypatch.setattr(type(codec), "encode_images", wrong)
    assert files.payloads(codec, bright, 1).mismatches == 1


def test_lossy_images_that_fell_back_to_lossless(
    tiny_ladder: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image below the floor of a model that has both is stored losslessly by the same model."""
    model = models.load(str(tiny_ladder))
    x_hat = files.payloads(model.codec, digits, 2).x_hat
    found = files.measure_files(str(tiny_ladder), model, digits, x_hat, 2)
    assert (found.lossless_share, found.plain_share, found.mismatches) == (0, 0, 0)
    monkeypatch.setattr(type(model.codec), "floor", lambda self, setting: 100.0 if setting else float("-inf"))
    monkeypatch.setattr(api, "plain_is_smaller", lambda pixels, attempt, size: False)
    found = files.measure_files(str(tiny_ladder), model, digits, x_hat, 2)
    assert (found.lossless_share, found.plain_share, found.mismatches) == (1, 0, 0)
    assert found.distortion.mse == 0
    assert found.overhead_bytes is not None


def test_black_and_white_goes_in_as_one_bit(tiny_binary: Path, binary_digits: NDArray[np.uint8]) -> None:
    model = models.load(str(tiny_binary))
    blobs = files.encode(binary_digits, str(tiny_binary), model, Asked(True, None))
    assert {vqcodec.info(blob).mode for blob in blobs} == {"1"}
    back = files.decode(blobs, str(tiny_binary))
    assert back.dtype == np.uint8
    assert np.array_equal(back, binary_digits)
    with pytest.raises(vqcodec.UnsupportedImage, match="black and white"):
        files.encode(NOISE, str(tiny_binary), model, Asked(True, None))


def test_images_as_models_see_them(digits: NDArray[np.uint8]) -> None:
    assert np.array_equal(files.upright_dark(np.concatenate([digits[:1], 255 - digits[1:2]])), digits[:2])
    many = np.repeat(digits, 40, 0)
    assert [len(batch) for batch in files.batches(many)] == [api.BATCH, 320 - api.BATCH]
    assert files.is_binary(np.uint8([[0, 255]]))
    assert not files.is_binary(digits)


def test_percent() -> None:
    assert files.percent(1, 8) == 12.5
    assert files.percent(1, 0) == 0
