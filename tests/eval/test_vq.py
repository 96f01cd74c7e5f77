"""The evaluation of VQ codecs, on a tiny real model and eight real digits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
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
from vqcodec.eval import model, prior, vq, vq_bound
from vqcodec.eval.dequantised import dequantised
from vqcodec.eval.vq import Evaluation
from vqcodec.eval.vq_bound import Pairs, PixelLikelihood, fit_scale, log_mass
from vqcodec.training.data import datasets
from vqcodec.training.data.datasets import Dataset


def loaded(path: Path) -> VQCodec:
    codec = models.load(str(path)).codec
    assert isinstance(codec, VQCodec)
    return codec


@pytest.fixture(scope="module", autouse=True)
def _training_split(digit_set: Dataset) -> Iterator[None]:
    """Training images are the eight digits, with or without the real files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets._LOADERS, "mnist", lambda split, folder: digit_set)
        yield


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


@pytest.mark.parametrize("scale", [0.1, 0.7, 5.0, 40.0, 256.0])
def test_masses_are_a_distribution(scale: float) -> None:
    value = torch.arange(256)
    mass = log_mass(value, value[:, None], scale).exp()
    # Two roundings of float64 for each of 256 masses.
    assert mass.sum(-1).tolist() == pytest.approx([1.0] * 256, abs=1e-12)


def test_masses_are_those_of_a_gaussian() -> None:
    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    value, mean = torch.tensor([0, 255, 100, 100, 0]), torch.tensor([3, 250, 100, 104, 0])
    expected = [
        below(-2.5 / 2),
        below(-4.5 / 2),
        1 - 2 * below(-0.5 / 2),
        below(-3.5 / 2) - below(-4.5 / 2),
        below(0.25),
    ]
    assert log_mass(value, mean, 2.0).exp().tolist() == pytest.approx(expected)
    # Far out, -log of the mass is half the square of the nearest distance in scales, and a little more.
    (far,) = log_mass(torch.tensor([200]), torch.tensor([0]), 0.5).tolist()
    assert 0.5 * 399**2 < -far < 0.5 * 399**2 + 10


@pytest.mark.parametrize("scale", [1.5, 12.0, 60.0])
def test_the_fit_recovers_a_scale(scale: float) -> None:
    generator = np.random.default_rng(0)
    x_hat = generator.integers(0, 256, (50, 28, 28))
    x = np.clip(np.rint(x_hat + scale * generator.standard_normal(x_hat.shape)), 0, 255)
    pairs = Pairs.of(x.astype(np.uint8), x_hat.astype(np.uint8))
    assert float(pairs.count.sum()) == x.size
    # An estimate from n Gaussians has a relative deviation of 1 / sqrt(2 n), 0.36 % here; clipped pixels tell less.
    assert fit_scale(pairs) == pytest.approx(scale, rel=0.02)
    best = pairs.log_likelihood(fit_scale(pairs))
    assert best > max(pairs.log_likelihood(fit_scale(pairs) * factor) for factor in (0.99, 1.01))


def test_the_fit_stays_in_its_range() -> None:
    same = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert fit_scale(Pairs.of(same, same)) == pytest.approx(0.1)
    ends = np.where(same < 128, 0, 255).astype(np.uint8)
    assert fit_scale(Pairs.of(255 - ends, ends)) == pytest.approx(256)


def test_bound_is_the_sum_of_its_parts(result: Evaluation, tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    codec = loaded(tiny_model)
    _, indices = codec.encode(digits, 2)
    for point in result.points:
        x_hat, found = codec.reconstruct(indices, point.levels), point.bound
        assert found is not None
        value, mean = (torch.from_numpy(images).long() for images in (digits, x_hat))
        likelihood = float(log_mass(value, mean, found.scale).sum()) / len(digits)
        assert found.likelihood_nats == pytest.approx(likelihood)
        assert found.prior_nats == pytest.approx(-point.model.prior_bits * math.log(2))
        assert found.nats == pytest.approx(found.likelihood_nats + found.prior_nats)
        assert found.bpd == pytest.approx(-found.nats / (784 * math.log(2)))
        # Here the training images are those that are measured, so no other scale does better.
        assert found.fitted_on == 8
        assert found.scale == pytest.approx(fit_scale(Pairs.of(digits, x_hat)))
    first, second = (point.bound for point in result.points)
    assert first is not None
    assert second is not None
    assert second.scale < first.scale


def test_scales_are_fitted_on_training_images(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, noise = [], np.random.default_rng(0).integers(0, 64, (6, 28, 28), np.uint8)

    def training(split: str, folder: Path) -> Dataset:
        asked.append(split)
        return Dataset("mnist", split, noise, None, "", "", "", "")

    monkeypatch.setitem(datasets._LOADERS, "mnist", training)
    monkeypatch.setattr(vq_bound, "TRAINING_IMAGES", 5)
    likelihoods = vq_bound.fitted(models.load(str(tiny_model)))
    assert asked == ["train"]
    codec = loaded(tiny_model)
    _, indices = codec.encode(noise[:5], 2)
    expected = [fit_scale(Pairs.of(noise[:5], codec.reconstruct(indices, levels))) for levels in (1, 2)]
    assert likelihoods == [PixelLikelihood(scale, 5) for scale in expected]


def test_bound_of_bright_images(tiny_model: Path, digits: NDArray[np.uint8]) -> None:
    (first, _), (again, _) = (vq_bound.decoded_pairs(loaded(tiny_model), images) for images in (digits, 255 - digits))
    assert first.log_likelihood(9.0) == again.log_likelihood(9.0)


def test_no_bound_without_training_images(
    tiny_model: Path, digit_set: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    others = {name: loader for name, loader in datasets._LOADERS.items() if name != "mnist"}
    monkeypatch.setattr(datasets, "_LOADERS", others)
    found = vq.measure(str(tiny_model), digit_set, limit=2)
    assert [point.bound for point in found.points] == [None, None]
    (row,) = [line for line in vq.table(dataclasses.asdict(found)).splitlines() if line.startswith("bound: ")]
    assert row.split()[-2:] == ["-", "-"]


def test_command_line(tiny_model: Path, digits8: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ["eval", str(tiny_model), "--data", digits8, "--out", str(out)]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    written = json.loads(out.read_text())
    assert model.table(written) == vq.table(written) == text.stdout.rstrip("\n")
    assert f"{written['points'][1]['files']['bytes_total']:.2f}" in text.stdout
    assert f"{written['points'][1]['bound']['nats']:,.2f}" in text.stdout
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
