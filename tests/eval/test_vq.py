"""The evaluation of VQ codecs, on a tiny real model and eight real digits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import vqcodec
from vqcodec.bitstream import container
from vqcodec.cli import main
from vqcodec.codec import models
from vqcodec.codec.exact import to_exact
from vqcodec.codec.vq.codec import FRAC_BITS, VQCodec
from vqcodec.codec.vq.config import Level, VQConfig
from vqcodec.codec.vq.prior import StagedPrior
from vqcodec.eval import model, prior, vq
from vqcodec.eval.dequantised import dequantised
from vqcodec.eval.vq import Evaluation
from vqcodec.training.datasets import Dataset


def loaded(path: Path) -> VQCodec:
    codec = models.load(str(path)).codec
    assert isinstance(codec, VQCodec)
    return codec


@pytest.fixture(scope="module")
def result(tiny_model: Path, digit_set: Dataset) -> Evaluation:
    return vq.measure(str(tiny_model), digit_set)


def test_sizes_are_those_of_the_files(result: Evaluation, tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    for point in result.points:
        blobs = vqcodec.encode_batch(digits, str(tiny_model), quality=point.quality)
        told = [vqcodec.info(blob) for blob in blobs]
        assert {container.read(blob)[0].parameter for blob in blobs} == {point.levels - 1}
        assert point.files.bytes_total == np.mean([len(blob) for blob in blobs])
        assert point.files.bpd == pytest.approx(8 * point.files.bytes_total / 784)
        assert point.files.bytes_payload == point.model.bytes_payload == np.mean([info.bytes_payload for info in told])
        assert {info.bytes_total - info.bytes_payload for info in told} == {point.files.overhead_bytes}
        assert point.files.plain_share == point.files.lossless_share == 0


def test_everything_decodes_to_what_the_encoder_saw(result: Evaluation, tiny_model: Path) -> None:
    codec = loaded(tiny_model)
    for point in result.points:
        assert point.files.mismatches == point.model.mismatches == 0
        assert point.files.distortion == point.model.distortion
        assert point.model.distortion.psnr_db > codec.floor(point.levels)
    assert result.points[1].model.distortion.mse < result.points[0].model.distortion.mse


def test_payloads_are_as_long_as_the_prior_says(result: Evaluation) -> None:
    for point in result.points:
        # The coder ends a stream within a byte, and its own rounding is far below 1 %.
        assert 0 <= point.model.excess_bytes <= 1 + 0.01 * point.model.prior_bits / 8
        assert point.model.excess_percent == pytest.approx(800 * point.model.excess_bytes / point.model.prior_bits)
        # Rounding to 2**-10 nats moves a code length by some thousandths; an error of one bit a symbol would be 25 %.
        assert abs(point.model.fixed_point_percent) < 0.5


def test_codebooks(result: Evaluation, tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    _, indices = loaded(tiny_model).encode(digits, 2)
    for row, index in zip(result.codebooks, indices, strict=True):
        _, counts = np.unique(index.numpy(), return_counts=True)
        p = counts / counts.sum()
        entropy = -(p * np.log2(p)).sum()
        assert row.codes == 16
        assert row.used == len(counts) / 16
        assert row.perplexity == pytest.approx(2**entropy)
        assert row.order0_bits == pytest.approx(49 * entropy)
        assert row.saved_percent == pytest.approx(100 * (1 - row.prior_bits / row.order0_bits))
    assert result.points[1].model.order0_bits == pytest.approx(sum(row.order0_bits for row in result.codebooks))
    assert result.points[1].model.prior_bits == pytest.approx(sum(row.prior_bits for row in result.codebooks))


def test_fallback_and_bright_images(tiny_model: Path, digit_set: Dataset) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    bright = 255 - digit_set.images[:1]
    data = dataclasses.replace(digit_set, images=np.concatenate([digit_set.images[:2], noise, bright]))
    for point in vq.measure(str(tiny_model), data).points:
        assert point.files.plain_share == point.files.lossless_share == 0.25
        assert point.files.mismatches == point.model.mismatches == 0
        assert point.files.bytes_total > 784 / 4  # the plain file counts
        assert point.files.distortion.mse < point.model.distortion.mse


def test_all_plain_has_no_overhead(tiny_model: Path, digit_set: Dataset) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    result = vq.measure(str(tiny_model), dataclasses.replace(digit_set, images=noise))
    assert [(point.files.plain_share, point.files.overhead_bytes) for point in result.points] == [(1, None), (1, None)]
    assert " - " in vq.table(dataclasses.asdict(result)).replace("-\n", "- \n")


def test_limit_and_wrong_size(tiny_model: Path, digit_set: Dataset) -> None:
    assert vq.measure(str(tiny_model), digit_set, limit=3).images == 3
    large = dataclasses.replace(digit_set, images=np.zeros((2, 32, 32), np.uint8))
    with pytest.raises(vqcodec.UnsupportedImage, match="28 x 28"):
        vq.measure(str(tiny_model), large)


def test_command_line(tiny_model: Path, digits8: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["eval", str(tiny_model), "--data", digits8, "--out", str(out)]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    written = json.loads(out.read_text())
    assert model.table(written) == vq.table(written) == text.stdout.rstrip("\n")
    assert f"{written['points'][1]['files']['bytes_total']:.2f}" in text.stdout
    assert written["environment"]["threads"] == torch.get_num_threads()
    as_json = CliRunner().invoke(main, [*arguments, "--json", "--limit", "2"])
    assert json.loads(as_json.stdout)["images"] == 2


def small_prior() -> StagedPrior:
    torch.manual_seed(0)
    levels = (Level(codes=8, stages=(16, 64)), Level(codes=5, stride=2, stages=(64,)))
    net = StagedPrior(VQConfig(prior_width=12, prior_embed=4, prior_head=6, levels=levels)).eval()
    for offset in net.offsets:
        torch.nn.init.normal_(offset.table)
    return net


@torch.inference_mode()
def test_dequantised_prior_is_the_float_one() -> None:
    net = small_prior()
    back = cast(StagedPrior, dequantised(to_exact(net, FRAC_BITS)))
    indices = [torch.randint(0, 8, (4, 49)), torch.randint(0, 5, (4, 16))]
    for step in net.steps:
        # Weights below 1 keep 14 bits and embeddings and offsets 10: a logit moves by a few 2**-10 at most.
        error = (back.logits(step, indices) / 2**FRAC_BITS - net.logits(step, indices)).abs().max()
        assert float(error) < 8 / 2**FRAC_BITS


def test_code_lengths_follow_the_tables(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_model)
    _, indices = codec.encode(digits, 2)
    expected = [0.0, 0.0]
    for step in codec.prior.steps:
        table = codec.prior(step, indices)
        for image in range(len(digits)):
            for n, position in enumerate(step.positions.tolist()):
                frequency = int(table[image, n, indices[step.level][image, position]])
                expected[step.level] += 16 - math.log2(frequency)
    assert prior.exact_bits(codec, indices).tolist() == pytest.approx(expected)
