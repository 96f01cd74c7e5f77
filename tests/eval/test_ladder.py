"""The evaluation of ladder codecs, on tiny real models and eight real digits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor

import vqcodec
from vqcodec.cli import main
from vqcodec.codec import models
from vqcodec.codec.exact import to_exact
from vqcodec.codec.exact.layers import ExactConv2d, Leaky
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.codec.ladder.exact import REACHES
from vqcodec.codec.ladder.model import LatentStep, Step
from vqcodec.eval import elbo, ladder, model
from vqcodec.eval.dequantised import dequantised
from vqcodec.eval.ladder import Evaluation
from vqcodec.training.data.datasets import Dataset


def loaded(path: Path) -> LadderCodec:
    codec = models.load(str(path)).codec
    assert isinstance(codec, LadderCodec)
    return codec


@pytest.fixture(scope="module")
def result(tiny_ladder: Path, digit_set: Dataset) -> Evaluation:
    return ladder.measure(str(tiny_ladder), digit_set)


@pytest.fixture(scope="module")
def binary_set(digit_set: Dataset, binary_digits: NDArray[np.uint8]) -> Dataset:
    return dataclasses.replace(digit_set, images=binary_digits)


@pytest.fixture(scope="module")
def binary_result(tiny_binary: Path, binary_set: Dataset) -> Evaluation:
    return ladder.measure(str(tiny_binary), binary_set)


def test_settings_lossless_first(result: Evaluation, binary_result: Evaluation) -> None:
    told = [(point.setting, point.label, point.quality) for point in result.points]
    assert told == [(0, "lossless", None), (1, "rate 1 of 2", 50), (2, "rate 2 of 2", 100)]
    assert [point.label for point in binary_result.points] == ["lossless"]


def test_sizes_are_those_of_the_files(result: Evaluation, tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    for point in result.points:
        lossless = point.setting == 0
        blobs = vqcodec.encode_batch(digits, str(tiny_ladder), lossless=lossless, quality=point.quality)
        assert point.files.bytes_total == np.mean([len(blob) for blob in blobs])
        assert point.files.mismatches == point.model.mismatches == 0
        assert point.coding_gap_percent == pytest.approx(
            100 * (8 * point.files.bytes_total / point.model.elbo_bits - 1)
        )
    assert result.points[0].files.distortion.mse == 0
    assert result.points[0].files.lossless_share == 1


def test_previews_are_what_a_decoder_shows(result: Evaluation, tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_ladder)
    shown = codec.preview_images([coded.payload for coded in codec.encode_images(digits, 0)], 0)
    error = (shown.astype(int) - digits) ** 2
    assert result.points[0].model.rendered.mse == pytest.approx(error.mean())
    assert result.points[0].model.rendered.mse > 0
    for point in result.points[1:]:
        x_hat = np.stack([coded.x_hat for coded in codec.encode_images(digits, point.setting)])
        assert point.model.rendered.mse == pytest.approx(((x_hat.astype(int) - digits) ** 2).mean())


def test_payloads_are_as_long_as_the_tables_say(result: Evaluation, binary_result: Evaluation) -> None:
    for point in [*result.points, *binary_result.points]:
        alone = point.model
        # The coder ends a stream within a byte, and its own rounding is far below 1 %.
        assert 0 <= alone.excess_bytes <= 1 + 0.01 * alone.exact_bits / 8
        assert alone.exact_bits == pytest.approx(alone.latent_bits + alone.pixel_bits)
        assert (alone.pixel_bits > 0) == (alone.nll_bits > 0) == (point.setting == 0)
        assert alone.beyond_bytes == pytest.approx(alone.bytes_payload - 1.01 * alone.elbo_bits / 8)


def test_minus_elbo_is_kl_and_likelihood(result: Evaluation, binary_result: Evaluation) -> None:
    for point in [*result.points, *binary_result.points]:
        alone = point.model
        assert alone.elbo_bits == pytest.approx(alone.kl_bits + alone.nll_bits)
        assert alone.elbo_nats == pytest.approx(alone.elbo_bits * math.log(2))
        assert alone.elbo_bpd == pytest.approx(alone.elbo_bits / 784)
        assert alone.kl_bits == pytest.approx(sum(level.kl_nats for level in point.levels) / math.log(2))
        assert alone.latent_bits == pytest.approx(sum(level.bits for level in point.levels))
        # Rounding to 2**-9 nats moves a code length by some thousandths. The least frequency, 1 / 65536, caps the
        # surprises of these barely trained priors, so some latents are cheaper than their KL.
        assert abs(alone.pixel_bits - alone.nll_bits) <= 0.005 * alone.nll_bits
        assert abs(alone.latents_percent) < 5


def test_levels(result: Evaluation, tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_ladder)
    for point in result.points:
        assert [level.latents for level in point.levels] == [2 * 49, 2 * 49, 4]
        for level, k in zip(point.levels, codec.latents(digits, point.setting), strict=True):
            assert level.farthest == int(k.abs().max()) <= level.reach
            assert level.reach == REACHES[int(codec.reach[point.setting, level.level - 1])]
            assert level.clipped == 0  # the reach was chosen for these images
            assert 0 <= level.active <= level.latents


def test_code_lengths_follow_the_tables(tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_ladder)
    latents, pixels = [0.0] * 3, 0.0

    def emit(step: Step, symbols: Tensor, freq: Tensor) -> None:
        nonlocal pixels
        bits = 0.0
        for image in range(len(symbols)):
            for n, symbol in enumerate(symbols[image].tolist()):
                bits += 16 - math.log2(int(freq[image, n, symbol]))
        if isinstance(step, LatentStep):
            latents[step.level] += bits
        else:
            pixels += bits

    codec.drive(codec.values(digits[:2]), 0, emit)
    found = elbo.code_lengths(codec, dequantised(codec.generative), digits[:2], 0)
    assert found.latent_bits.tolist() == pytest.approx(latents)
    assert found.pixel_bits == pytest.approx(pixels)


def test_clipped_latents_are_counted(tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_ladder)
    net, stored = dequantised(codec.generative), codec.reach
    top = codec.latents(digits, 0)[2]  # the first level of the walk: its latents do not hang on others
    try:
        codec.reach = torch.zeros_like(stored)
        found = elbo.code_lengths(codec, net, digits, 0)
    finally:
        codec.reach = stored
    assert found.farthest[2] == min(1, int(top.abs().max()))
    assert found.clipped[2] == int((top.abs() > 1).sum())


def test_gaussian_nats_are_those_of_the_integral() -> None:
    k, log_scale = torch.tensor([0, 1, -2, 5, 40]), torch.tensor([0.0, 0.3, -0.5, 1.7, -1.0], dtype=torch.float64)
    for distance, log_s, nats in zip(k.tolist(), log_scale.tolist(), elbo.gaussian_nats(k, log_scale), strict=True):
        x = torch.linspace(abs(distance) - 0.5, abs(distance) + 0.5, 200_001, dtype=torch.float64)
        log_density = -0.5 * (x / math.exp(log_s)) ** 2 - log_s - 0.5 * math.log(2 * math.pi)
        log_mass = torch.logsumexp(log_density[:-1] / 2 + log_density[1:] / 2, 0) + math.log(x[1] - x[0])
        # The sum misses the integral by the square of the step times the curvature, far below 1e-3.
        assert float(nats) == pytest.approx(-float(log_mass), rel=1e-3)
    outside = torch.tensor([-9.0, 9.0], dtype=torch.float64)
    limits = torch.tensor([-2.25, 2.75], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.int64)
    assert elbo.gaussian_nats(zero, outside).tolist() == elbo.gaussian_nats(zero, limits).tolist()


@torch.inference_mode()
def test_dequantised_convolution_is_the_float_one() -> None:
    torch.manual_seed(0)
    bits = 9
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2, padding=1), Leaky(2), torch.nn.Conv2d(5, 2, 1))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64).mul(2**bits).round()
    exact = to_exact(net, bits)
    assert isinstance(exact[0], ExactConv2d)
    back, expected = dequantised(exact)(x) / 2**bits, net.double()(x / 2**bits)
    assert back.shape == expected.shape
    # Weights keep 15 bits and biases more; two layers of at most 27 inputs of a few units each.
    assert float((back - expected).abs().max()) < 27 * 2 * 4 * 2**-15


def test_bright_and_unknown_images(tiny_ladder: Path, digit_set: Dataset) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    bright = 255 - digit_set.images[:1]
    data = dataclasses.replace(digit_set, images=np.concatenate([digit_set.images[:2], noise, bright]))
    for point in ladder.measure(str(tiny_ladder), data).points:
        assert point.files.plain_share >= 0.25
        assert point.files.mismatches == point.model.mismatches == 0


def test_wrong_size(tiny_ladder: Path, digit_set: Dataset) -> None:
    large = dataclasses.replace(digit_set, images=np.zeros((2, 32, 32), np.uint8))
    with pytest.raises(vqcodec.UnsupportedImage, match="28 x 28"):
        ladder.measure(str(tiny_ladder), large)


def test_inverted_images_have_the_same_lengths(tiny_ladder: Path, digit_set: Dataset) -> None:
    bright = dataclasses.replace(digit_set, images=255 - digit_set.images)
    upright, inverted = (ladder.measure(str(tiny_ladder), data, limit=2).points[0] for data in (digit_set, bright))
    assert upright.model.exact_bits == inverted.model.exact_bits
    assert 0 <= inverted.model.bytes_payload - upright.model.bytes_payload <= 2  # the flag of 9 bits


def test_parts_join(tiny_ladder: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_ladder)
    net = dequantised(codec.generative)
    whole = elbo.code_lengths(codec, net, digits, 0)
    joined = elbo.joined([elbo.code_lengths(codec, net, part, 0) for part in (digits[:3], digits[3:])])
    assert joined.latent_bits.tolist() == pytest.approx(whole.latent_bits.tolist())
    assert (joined.pixel_bits, joined.nll_bits) == pytest.approx((whole.pixel_bits, whole.nll_bits))
    assert torch.cat(joined.nats).tolist() == pytest.approx(torch.cat(whole.nats).tolist())
    assert (joined.farthest, joined.clipped) == (whole.farthest, whole.clipped)


def test_command_line(tiny_ladder: Path, digits8: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    text = CliRunner().invoke(main, ["eval", str(tiny_ladder), "--data", digits8, "--limit", "3", "--out", str(out)])
    assert text.exit_code == 0, text.output
    written = json.loads(out.read_text())
    assert model.table(written) == ladder.table(written) == text.stdout.rstrip("\n")
    assert (written["family"], written["images"]) == ("ladder", 3)
    assert f"{written['points'][0]['model']['elbo_nats']:.2f}" in text.stdout
    assert text.stdout.count("-- z") == 3
