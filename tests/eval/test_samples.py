"""Samples: of the tables' distribution, the same for a seed, and images like any other to the codec."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.codec import models
from vqcodec.codec.config import ConfigError
from vqcodec.codec.ladder.codec import LadderCodec
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.model import LadderModel, LatentStep
from vqcodec.codec.ladder.posterior import limited
from vqcodec.codec.vq.codec import VQCodec
from vqcodec.eval import gaussian
from vqcodec.eval import samples as sampling
from vqcodec.eval.samples import drawn, gaussian_samples, samples
from vqcodec.training.ladder import terms

CASES = [("tiny_model", 1), ("tiny_model", 2), ("tiny_ladder", 0), ("tiny_ladder", 2), ("tiny_binary", 0)]
SIX_SIGMA = 6.0  # of a normal distribution: one test in 5e8 fails by chance, and seeds are fixed


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest) -> tuple[VQCodec | LadderCodec, int]:
    fixture, setting = request.param
    return models.load(str(request.getfixturevalue(fixture))).codec, setting


def test_a_seed_tells_the_images(case: tuple[VQCodec | LadderCodec, int]) -> None:
    codec, setting = case
    first, again, other = (samples(codec, 3, setting, seed) for seed in (1, 1, 2))
    assert (first.shape, first.dtype) == ((3, 28, 28), np.uint8)
    assert np.array_equal(first, again)
    assert not any(np.array_equal(a, b) for a in first for b in other)
    assert not np.array_equal(first[0], first[1])


def test_black_and_white(tiny_binary: Path) -> None:
    assert set(np.unique(samples(models.load(str(tiny_binary)).codec, 4, 0, 0))) == {0, 255}


def test_samples_can_be_coded(case: tuple[VQCodec | LadderCodec, int]) -> None:
    codec, setting = case
    images = samples(codec, 2, setting, 3)
    for image, coded in zip(images, codec.encode_images(images, setting), strict=True):
        assert np.array_equal(codec.decode_images([coded.payload], coded.parameter)[0], coded.x_hat)
        assert setting != 0 or np.array_equal(coded.x_hat, image)


def test_drawn_symbols_follow_a_table() -> None:
    table, count = torch.tensor([1, 30000, 2, 15533, 20000], dtype=torch.int32), 200_000
    symbols = drawn(table.expand(count, 1, 5), np.random.PCG64(0))
    found = np.bincount(symbols.flatten().numpy(), minlength=5)
    p = table.double().numpy() / 65536
    assert (abs(found - count * p) < SIX_SIGMA * np.sqrt(count * p * (1 - p))).all()


def test_the_ends_of_a_table() -> None:
    class Ends(np.random.PCG64):
        def random_raw(self, size: int) -> NDArray[np.uint64]:  # type: ignore[override]
            return np.array([0, (1 << 48) - 1, 1 << 48, (1 << 64) - (1 << 48) - 1, (1 << 64) - 1], np.uint64)

    freq = torch.tensor([1, 65534, 1], dtype=torch.int32).expand(5, 1, 3)
    assert drawn(freq, Ends()).flatten().tolist() == [0, 0, 1, 1, 2]


def test_all_symbols_follow_their_tables(
    case: tuple[VQCodec | LadderCodec, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, setting = case
    seen: list[tuple[Tensor, Tensor]] = []

    def noting(freq: Tensor, source: np.random.PCG64) -> Tensor:
        seen.append((freq, drawn(freq, source)))
        return seen[-1][1]

    monkeypatch.setattr(sampling, "drawn", noting)
    samples(codec, 20, setting, 4)
    assert len(seen) >= 2
    for freq, symbols in seen:
        bits = 16 - freq.double().log2()
        p = freq.double() / 65536
        mean = (p * bits).sum(-1)
        variance = (p * bits**2).sum(-1) - mean**2
        chosen = bits.gather(-1, symbols[..., None])[..., 0]
        assert abs(float((chosen - mean).sum())) <= SIX_SIGMA * math.sqrt(float(variance.sum())) + 1e-6


def test_the_first_indices_have_the_frequencies_of_their_table(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = models.load(str(tiny_model)).codec
    assert isinstance(codec, VQCodec)
    shown: list[Tensor] = []

    def keep(indices: list[Tensor], levels: int) -> NDArray[np.uint8]:
        shown.append(indices[0])
        return np.zeros((len(indices[0]), 28, 28), np.uint8)

    monkeypatch.setattr(codec, "reconstruct", keep)
    samples(codec, 2000, 1, 5)
    step, indices = codec.prior.steps[0], torch.cat(shown)
    (table,) = codec.prior(step, [torch.zeros(1, 49, dtype=torch.int64)] * 2).double() / 65536
    found = torch.stack([torch.bincount(indices[:, place], minlength=16) for place in step.positions.tolist()])
    expected = len(indices) * table
    chi_square = ((found - expected) ** 2 / expected).sum(-1)  # all codes are expected often enough
    assert float(expected.min()) > 5
    assert float(chi_square.max()) < 15 + SIX_SIGMA * math.sqrt(2 * 15)


def test_batches_do_not_repeat(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = models.load(str(tiny_model)).codec
    monkeypatch.setattr(sampling, "_BATCH", 2)
    images = samples(codec, 5, 2, 0)
    assert len(images) == 5
    assert np.array_equal(images[:2], samples(codec, 2, 2, 0))
    assert len({image.tobytes() for image in images}) == 5


@pytest.mark.parametrize(("count", "setting"), [(0, 1), (1, 0), (1, 3), (1, -1)])
def test_wrong_arguments(tiny_model: Path, count: int, setting: int) -> None:
    with pytest.raises(ValueError, match=r"setting of \[1, 2\]"):
        samples(models.load(str(tiny_model)).codec, count, setting, 0)


def test_codec_samples_are_of_codecs() -> None:
    config = LadderConfig(
        form="mlp", latents=(2,), widths=(4,), grids=(1,), posterior="gaussian", skip=False, stages=(Stage(784, 0),),
        pixel_features=1,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="uniform"):
        samples(LadderCodec(LadderModel(config)), 1, 0, 0)


# Gaussian latents


@pytest.fixture
def ladder(tiny_gaussian: Path) -> LadderModel:
    return gaussian.load(str(tiny_gaussian)).model


def standardised(model: LadderModel, latents: Sequence[Tensor]) -> list[Tensor]:
    """(z - prior mean) / prior scale of every level from the top down, with scales as training limits them."""
    walk, found = model.generative.walk(len(latents[0])), []
    step = next(walk)
    for z in latents:
        assert isinstance(step, LatentStep)
        found.append((z - step.mean) / limited(model.config, step.log_scale).exp())
        step = walk.send(z)
    return found


def test_gaussian_seed_tells_the_images(ladder: LadderModel) -> None:
    state = torch.get_rng_state()
    first, again, other = (gaussian_samples(ladder, 5, seed) for seed in (1, 1, 2))
    assert first.mean is not None
    assert again.mean is not None
    assert (first.mean.shape, first.mean.dtype) == ((5, 28, 28), np.float32)
    assert (first.images.shape, first.images.dtype) == ((5, 28, 28), np.uint8)
    assert [z.shape for z in first.latents] == [(5, 2, 1, 1), (5, 4, 1, 1), (5, 6, 1, 1)]
    assert 0 <= first.mean.min() < first.mean.max() <= 1
    assert set(np.unique(first.images)) == {0, 255}
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.mean, again.mean)
    assert not any(np.array_equal(a, b) for a in first.images for b in other.images)
    assert torch.equal(state, torch.get_rng_state())


def test_gaussian_mean_is_that_of_the_likelihood(ladder: LadderModel, binary_digits: NDArray[np.uint8]) -> None:
    values = torch.from_numpy(binary_digits).clamp(max=1).long()
    with torch.inference_mode():
        found = terms(ladder, values)
    samples = gaussian_samples(ladder, 8, 0, given=[latents.z for latents in found.latents])
    assert all(a is b.z for a, b in zip(samples.latents, found.latents, strict=True))
    assert samples.mean is not None
    assert found.log_likelihood is not None
    p = np.abs(1 - values.numpy() - samples.mean.astype(np.float64))  # of the pixels as they are
    # The mean is a float32 in 0..1, so each p is off by 2**-24 at most, and log p by 2**-24 / p.
    bound = (2.0**-24 / p).sum((1, 2)) + 1e-6 * 784
    assert bound.max() < 1
    assert (np.abs(np.log(p).sum((1, 2)) - found.log_likelihood.double().numpy()) < bound).all()


def test_gaussian_pixels_follow_their_mean(ladder: LadderModel) -> None:
    given, count = gaussian_samples(ladder, 1, 0).latents, 2000
    found = gaussian_samples(ladder, count, 1, given=[z.expand(count, *z.shape[1:]) for z in given])
    assert found.mean is not None
    p = found.mean[0].astype(np.float64)
    assert (found.mean == found.mean[0]).all()
    sigma = np.sqrt(p * (1 - p) / count)
    # Where a pixel is hardly ever drawn, a binomial's tail is longer than a normal's: one more image is allowed for.
    assert (np.abs((found.images > 0).mean(0) - p) < SIX_SIGMA * sigma + 1 / count).all()


def test_gaussian_latents_follow_their_prior(ladder: LadderModel) -> None:
    count = 3000
    for z in standardised(ladder, gaussian_samples(ladder, count, 0).latents):  # sigma of a variance: sqrt(2 / count)
        assert float(z.mean(0).abs().max()) < SIX_SIGMA / math.sqrt(count)
        assert float((z.var(0) - 1).abs().max()) < SIX_SIGMA * math.sqrt(2 / count)


def test_temperature(ladder: LadderModel) -> None:
    warm, cool, cold = (gaussian_samples(ladder, 4, 0, temperature) for temperature in (1.0, 0.5, 0.0))
    assert torch.equal(cool.latents[0], 0.5 * warm.latents[0])
    assert all(not z.any() for z in standardised(ladder, cold.latents))
    assert cold.mean is not None
    assert (cold.mean == cold.mean[0]).all()


def test_scales_are_limited_as_in_training(ladder: LadderModel) -> None:
    plain = gaussian_samples(ladder, 4, 0).latents[0]
    ladder.generative.top.weight.data.fill_(9.0)
    assert torch.allclose(gaussian_samples(ladder, 4, 0).latents[0], math.exp(4) * plain)


def test_upper_levels_stay(ladder: LadderModel) -> None:
    first = gaussian_samples(ladder, 4, 0)
    found = gaussian_samples(ladder, 4, 1, given=first.latents[:2])
    assert [torch.equal(a, b) for a, b in zip(first.latents, found.latents, strict=True)] == [True, True, False]


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_pixels_in_stages_have_no_mean(untrained: Callable[..., Path], likelihood: str) -> None:
    weights = untrained([[4, 8, 1], [16, 8, 1]], posterior="gaussian", likelihood=likelihood)
    found = gaussian_samples(gaussian.load(str(weights)).model, 3, 0)
    assert found.mean is None
    assert found.images.shape == (3, 28, 28)
    assert (set(np.unique(found.images)) == {0, 255}) == (likelihood == "bernoulli")


def test_wrong_gaussian_arguments(ladder: LadderModel) -> None:
    latents = gaussian_samples(ladder, 2, 0).latents
    for count, temperature in ((0, 1.0), (1, -0.5), (1, math.inf), (1, math.nan)):
        with pytest.raises(ValueError, match="count from 1 and a temperature from 0"):
            gaussian_samples(ladder, count, 0, temperature)
    for count, given in ((3, latents[:1]), (2, [*latents, latents[0]])):
        with pytest.raises(ValueError, match="latents of at most 3 levels"):
            gaussian_samples(ladder, count, 0, given=given)
