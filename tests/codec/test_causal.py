"""Pixels in raster order: waves, what a pixel sees, and the same tables all at once and wave by wave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.codec.exact.export import to_exact
from vqcodec.codec.exact.oracle import run
from vqcodec.codec.ladder.causal import HIGH, LOW, WHOLE, CausalPixels, neighbours, wave_of_pixels, waves
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.exact import FRAC_BITS
from vqcodec.codec.ladder.pixels import HALF, PixelStep

Images = NDArray[np.uint8]
SIZE = 12
LIKELIHOODS = ("bernoulli", "categorical")


def config_of(likelihood: str, **changes: object) -> LadderConfig:
    values = {
        "form": "mlp", "latents": (3, 2), "widths": (8, 6), "grids": (1, 1), "image_size": SIZE, "leak": 2,
        "posterior": "gaussian", "skip": False, "stages": (Stage(SIZE**2, 10, 1),), "pixel_features": 3, "context": 2,
    }  # fmt: skip
    return LadderConfig(**values | {"likelihood": likelihood} | changes)


def pixels_of(config: LadderConfig) -> CausalPixels:
    torch.manual_seed(0)
    return CausalPixels(config).eval().requires_grad_(False)


def exact_of(config: LadderConfig) -> CausalPixels:
    return cast(CausalPixels, to_exact(pixels_of(config), FRAC_BITS))


@pytest.fixture
def crops(digits: Images) -> Tensor:
    """The middle of six digits, int64 [6, 12, 12]; the first is black."""
    found = torch.from_numpy(digits[:6, 8:20, 8:20].astype(np.int64))
    found[0] = 0
    return found


def values_of(config: LadderConfig, crops: Tensor) -> Tensor:
    return crops if config.values == 256 else (crops > 100).long()


def context_of(config: LadderConfig, batch: int) -> Tensor:
    """Features of grid 1, in steps that integers have too."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-(2**11), 2**11, (batch, config.widths[0], 1, 1), generator=generator) / 2**FRAC_BITS


@dataclass(frozen=True)
class Seen:
    """Scores of a part, [n, K], with the image and the pixel (raster) of every row."""

    scores: Tensor
    images: Tensor
    places: Tensor

    def sorted(self) -> Seen:
        order = np.lexsort((self.places, self.images))
        return Seen(self.scores[order], self.images[order], self.places[order])


def rows_of(step: PixelStep) -> Seen:
    assert step.places is not None
    if step.chosen is None:
        batch, count = step.scores.shape[:2]
        owners = torch.arange(batch).repeat_interleave(count)
        return Seen(step.scores.flatten(0, 1), owners, step.places.repeat(batch))
    image, position = step.chosen.nonzero().T
    assert step.scores.shape[:2] == (len(image), 1)
    return Seen(step.scores.flatten(0, 1), image, step.places[position])


def steps(pixels: CausalPixels, context: Tensor, values: Tensor, known: bool) -> tuple[list[PixelStep], Tensor]:
    """The steps of a walk that is given the pixels int64 [B, S, S], and what it returns, [B, S * S]."""
    patches, found = pixels.to_patches(values), []
    walk = pixels.walk(context, patches if known else None)
    try:
        step = next(walk)
        while True:
            found.append(step)
            step = walk.send(pixels.symbols(patches, step))
    except StopIteration as stop:
        return found, stop.value


def tables(pixels: CausalPixels, context: Tensor, values: Tensor, known: bool) -> dict[int, Seen]:
    """Scores of every part, by image and pixel."""
    found, returned = steps(pixels, context, values, known)
    assert torch.equal(pixels.from_patches(returned), values)
    result = {}
    for part in sorted({step.part for step in found}):
        rows = [rows_of(step) for step in found if step.part == part]
        columns = (torch.cat([getattr(one, name) for one in rows]) for name in ("scores", "images", "places"))
        result[part] = Seen(*columns).sorted()
    return result


# Waves


@pytest.mark.parametrize(("size", "context"), [(1, 1), (2, 1), (5, 1), (5, 2), (5, 4), (12, 5), (28, 4)])
def test_waves_cover_every_pixel_once_and_after_its_neighbours(size: int, context: int) -> None:
    found = [wave.tolist() for wave in waves(size, context)]
    assert sorted(pixel for wave in found for pixel in wave) == list(range(size**2))
    assert all(wave == sorted(wave) for wave in found)
    number = {pixel: n for n, wave in enumerate(found) for pixel in wave}
    assert wave_of_pixels(size, context).tolist() == [number[pixel] for pixel in range(size**2)]
    for row, column in np.ndindex(size, size):
        for down, right in neighbours(context).tolist():
            if row + down >= 0 and 0 <= column + right < size:
                assert number[(row + down) * size + column + right] < number[row * size + column]


@pytest.mark.parametrize("context", [1, 2, 5])
def test_neighbours_are_those_before_in_raster_order(context: int) -> None:
    found = [tuple(offset) for offset in neighbours(context).tolist()]
    square = range(-context, context + 1)
    assert found == [(down, right) for down in square for right in square if (down, right) < (0, 0)]
    assert len(found) == 2 * context * (context + 1)


@pytest.mark.parametrize(("size", "context"), [(2, 1), (3, 2), (5, 1)])
def test_small_images(size: int, context: int, crops: Tensor) -> None:
    """No wave is empty for as long as the context is narrower than the image, which the configuration sees to."""
    assert min(len(wave) for wave in waves(size, context)) == 1
    assert min(len(wave) for wave in waves(size, size)) == 0
    config = config_of("categorical", image_size=size, stages=(Stage(size**2, 4, 0),), context=context)
    values = crops[:, 5 : 5 + size, 5 : 5 + size]
    units = context_of(config, 6).double() * 2.0**FRAC_BITS
    whole, parts = (tables(exact_of(config), units, values, known) for known in (True, False))
    assert all(torch.equal(one.scores, parts[part].scores) for part, one in whole.items())


# What a pixel sees


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_pixel_sees_its_neighbours_only(likelihood: str, crops: Tensor) -> None:
    config = config_of(likelihood)
    pixels, context = pixels_of(config), context_of(config, 1)
    values = values_of(config, crops)[3:4]
    before = tables(pixels, context, values, known=True)[WHOLE].scores
    offsets = {tuple(offset) for offset in neighbours(config.context).tolist()}
    for row, column in ((0, 0), (0, 11), (5, 6), (6, 0), (11, 11)):
        other = values.clone()
        other[0, row, column] = 1 - other[0, row, column].clamp(max=1)
        after = tables(pixels, context, other, known=True)[WHOLE].scores
        changed = (before != after).any(1).nonzero()[:, 0].tolist()
        expected = [(row - down, column - right) for down, right in offsets]
        expected = [r * SIZE + c for r, c in expected if r < SIZE and 0 <= c < SIZE]
        assert changed == sorted(expected)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_pixel_sees_features_of_its_own(likelihood: str, crops: Tensor) -> None:
    config = config_of(likelihood)
    pixels, values = pixels_of(config), torch.zeros_like(crops[:1])
    pixels.features[0].weight.zero_()
    before = tables(pixels, context_of(config, 1), values, known=True)[WHOLE].scores
    pixels.features[0].bias.view(config.pixel_features, SIZE**2)[1, 40] += 1  # feature f of pixel p is f S^2 + p
    after = tables(pixels, context_of(config, 1), values, known=True)[WHOLE].scores
    assert (before != after).any(1).nonzero()[:, 0].tolist() == [40]


def test_the_parts_of_a_pixel(crops: Tensor) -> None:
    config = config_of("categorical")
    found, _ = steps(pixels_of(config), context_of(config, 6), crops, known=True)
    assert [step.part for step in found] == [WHOLE, HIGH, LOW]
    assert [step.scores.shape for step in found] == [(6, 144, 1), *[(int((crops > 0).sum()), 1, 16)] * 2]
    pixels = pixels_of(config)
    whole, high, low = (pixels.symbols(crops.flatten(1), step) for step in found)
    assert torch.equal(whole, (crops > 0).flatten(1).long())
    assert torch.equal((high * HALF + low)[:, 0], crops[crops > 0])
    binary = config_of("bernoulli")
    found, _ = steps(pixels_of(binary), context_of(binary, 6), values_of(binary, crops), known=False)
    assert {step.part for step in found} == {WHOLE}
    assert len(found) == 11 + 3 * 11 + 1
    assert all(step.chosen is None for step in found)


def test_the_low_half_sees_the_high_one(crops: Tensor) -> None:
    config = config_of("categorical")
    pixels, values = pixels_of(config), crops[3:4]
    row, column = (values[0] > 0).nonzero()[0].tolist()
    before = tables(pixels, context_of(config, 1), values, known=True)
    for change, low_sees in ((1, False), (HALF, True)):
        other = values.clone()
        value = int(other[0, row, column])
        other[0, row, column] = value ^ change if value ^ change else value ^ 3
        after = tables(pixels, context_of(config, 1), other, known=True)
        for part, sees in ((WHOLE, False), (HIGH, False), (LOW, low_sees)):
            place = (before[part].places == row * SIZE + column).nonzero()[0]
            assert torch.equal(before[part].scores[place], after[part].scores[place]) != sees


# All at once and wave by wave


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("blocks", [0, 2])
def test_known_pixels_have_the_tables_of_waves(likelihood: str, blocks: int, crops: Tensor) -> None:
    config = config_of(likelihood, stages=(Stage(SIZE**2, 10, blocks),))
    values, context = values_of(config, crops), context_of(config, len(crops))
    whole, parts = (tables(pixels_of(config), context, values, known) for known in (True, False))
    assert whole.keys() == parts.keys()
    for part, one in whole.items():
        assert torch.equal(one.images, parts[part].images)
        assert torch.equal(one.places, parts[part].places)
        # Products of another number of rows sum in another order: some roundings of float32 near 1.
        torch.testing.assert_close(one.scores, parts[part].scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("exact", ["float64", "auto"])
def test_exact_tables_are_the_same_and_the_oracles(
    likelihood: str, exact: str, crops: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQCODEC_EXACT", exact)
    config = config_of(likelihood)
    values, context = values_of(config, crops), context_of(config, len(crops)).double() * 2.0**FRAC_BITS
    pixels = exact_of(config)
    whole, parts = (tables(pixels, context, values, known) for known in (True, False))
    expected = dict(oracle(pixels, context.long().numpy(), values.numpy()))
    assert whole.keys() == parts.keys() == expected.keys()
    for part, scores in expected.items():
        assert whole[part].scores.dtype == torch.float64
        assert torch.equal(whole[part].scores, parts[part].scores)
        assert np.array_equal(whole[part].scores.numpy(), scores)


def oracle(
    pixels: CausalPixels, context: NDArray[np.int64], values: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Scores of every part in NumPy int64, by image and pixel [n, K]; context [B, C, 1, 1], values [B, S, S]."""
    radius, batch = pixels.config.context, len(values)
    features = run(pixels.features, context).reshape(batch, -1, SIZE**2).transpose(0, 2, 1)
    padded = np.pad(values, ((0, 0), (radius, 0), (radius, radius)))
    near = np.stack(
        [padded[:, radius + down :, radius + right :][:, :SIZE, :SIZE] for down, right in neighbours(radius).tolist()],
        -1,
    )
    seen = run(pixels.seen, near).reshape(batch, SIZE**2, -1)
    hidden = run(pixels.net, np.concatenate([seen, features], 2))
    yield WHOLE, run(pixels.whole, hidden).reshape(-1, 1)
    if pixels.config.values == 256:
        own = values.reshape(batch, -1)
        hidden, own = hidden[own > 0], own[own > 0]
        yield HIGH, run(pixels.high, hidden)
        yield LOW, run(pixels.low, run(pixels.between, hidden + run(pixels.high_embedding, own // HALF)))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_exact_tables_are_about_the_float_ones(likelihood: str, crops: Tensor) -> None:
    config = config_of(likelihood)
    values, context = values_of(config, crops), context_of(config, len(crops))
    trained = tables(pixels_of(config), context, values, known=True)
    exact = tables(exact_of(config), context.double() * 2.0**FRAC_BITS, values, known=True)
    for part, one in trained.items():
        # Activations are rounded to 1/512 in each of four layers, whose rows have a 1-norm of at most a few.
        assert float((exact[part].scores / 2**FRAC_BITS - one.scores).abs().max()) < 0.05


def test_how_values_are_seen() -> None:
    """8-bit pixels as value / 256 and whether they are not 0, with no rounding in integers; bits as they are."""
    grey, binary = exact_of(config_of("categorical")).seen, exact_of(config_of("bernoulli")).seen
    every = torch.arange(256)
    assert torch.equal(grey(every), torch.stack([2 * every, (every > 0) * 512], 1).double())
    assert binary(every[:2]).tolist() == [[0.0], [512.0]]
    for likelihood in LIKELIHOODS:
        assert not CausalPixels(config_of(likelihood)).seen.weight.requires_grad


def test_values_and_their_shape(crops: Tensor) -> None:
    pixels = pixels_of(config_of("categorical"))
    assert pixels.to_patches(crops).shape == (6, 144)
    assert torch.equal(pixels.from_patches(pixels.to_patches(crops)), crops)


# What is refused


@pytest.mark.parametrize(("changes", "message"), [
    ({"context": -1}, r"context must be in 0\.\.11, found -1"),
    ({"context": 12}, r"context must be in 0\.\.11, found 12"),
    ({"stages": (Stage(16, 8), Stage(144, 8))}, "context needs a single stage of at least one channel"),
    ({"stages": (Stage(144, 0),)}, "context needs a single stage of at least one channel"),
    ({"posterior": "uniform"}, "and posterior 'gaussian'"),
    ({"inference": "bottom-up"}, "context needs the ladder's inference and its shared top-down pass"),
    ({"top_down": "separate"}, "context needs the ladder's inference and its shared top-down pass"),
])  # fmt: skip
def test_impossible_configurations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of("bernoulli", **changes)
