"""Gaussian latents on a grid: intervals that fill, inverses, masses, and what the model's tables say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from vqcodec.codec.exact.softmax import exp_table
from vqcodec.codec.ladder.config import LadderConfig, Stage
from vqcodec.codec.ladder.exact import FRAC_BITS
from vqcodec.codec.ladder.gaussian import MAX_STEP_LOG2, PRECISION, Z_LIMIT, GaussianTables, Normal
from vqcodec.codec.ladder.model import LatentStep, precision_weighted
from vqcodec.codec.ladder.pixels import PixelStep
from vqcodec.codec.ladder.posterior import LOG_SCALE_LIMIT

UNIT, TOTAL, LIMIT = 2**FRAC_BITS, 1 << PRECISION, Z_LIMIT * 2**FRAC_BITS
SCALE_STEPS, LOWEST, KNOTS, REACH = 64, -5.0, 128, 8  # as the module's docstrings and FORMAT.md state them
laws = settings(deadline=None, derandomize=True, max_examples=30)


def config_of(latents: tuple[int, ...] = (3, 2), **changes: object) -> LadderConfig:
    values = {
        "form": "mlp", "latents": latents, "widths": (8,) * len(latents), "grids": (1,) * len(latents), "image_size": 8,
        "posterior": "gaussian", "skip": False, "stages": (Stage(64, 8, 1),), "pixel_features": 2, "context": 1,
    }  # fmt: skip
    return LadderConfig(**values | changes)


@pytest.fixture(scope="module")
def tables() -> GaussianTables:
    return GaussianTables(config_of())


TABLES = GaussianTables(config_of())
INVERSE, NORMAL = TABLES.inverse.numpy(), TABLES.normal.numpy().astype(np.int64)


def normals(means: list[int], scales: list[int], step_logs: list[int], least: int) -> Normal:
    """scales: indices of the table of scales."""
    columns = (np.array(means), INVERSE[scales], 1 << np.array(step_logs))
    return Normal(*(column.astype(np.int64) for column in columns), NORMAL, least)


@st.composite
def some_normals(draw: st.DrawFn, *, finest: int = 0) -> Normal:
    """One to eight, of all means that activations and their merging can give, or outside of the grid."""
    n = draw(st.integers(1, 8))
    mean = st.one_of(st.integers(-(2**15), 2**15), st.integers(-LIMIT, LIMIT), st.integers(-600, 600))
    columns = [
        draw(st.lists(values, min_size=n, max_size=n))
        for values in (mean, st.integers(0, len(INVERSE) - 1), st.integers(finest, MAX_STEP_LOG2))
    ]
    return normals(*columns, draw(st.sampled_from([0, 1])))


def taken(some: Normal, chosen: np.ndarray | slice) -> Normal:
    """Of some of the symbols."""
    return Normal(some.mean[chosen], some.inverse[chosen], some.step[chosen], some.normal, some.least)


def cumulative(one: Normal, number: int) -> np.ndarray:
    """Below every symbol of one of them, and the total, int64 [cells + 1]."""
    own = taken(one, np.full(int(one.cells[number]), number))
    start, freq = own.intervals(np.arange(len(own)))
    assert np.array_equal(start[1:], start[:-1] + freq[:-1])
    return np.append(start, start[-1] + freq[-1])


# Intervals and their inverse


@laws
@given(some_normals())
def test_intervals_fill_everything(given_normals: Normal) -> None:
    assert given_normals.cells.tolist() == [2 * LIMIT // step + 1 for step in given_normals.step.tolist()]
    for number in range(len(given_normals)):
        edges = cumulative(given_normals, number)
        assert (edges[0], edges[-1]) == (0, TOTAL)
        assert int(np.diff(edges).min()) >= given_normals.least


@laws
@given(some_normals(finest=5))
def test_find_inverts_intervals(given_normals: Normal) -> None:
    check_inverse(given_normals)


@pytest.mark.parametrize("scale", [0, 320, 576])
def test_find_inverts_intervals_of_the_finest_grid(scale: int) -> None:
    check_inverse(normals([77], [scale], [0], least=0))
    check_inverse(normals([-LIMIT], [scale], [0], least=1))


def check_inverse(given_normals: Normal) -> None:
    """At both ends of the interval of every symbol that has one, for all symbols; those without are not found."""
    for number in range(len(given_normals)):
        edges = cumulative(given_normals, number)
        (symbols,) = np.nonzero(np.diff(edges))
        start, end = edges[symbols], edges[symbols + 1]
        own = taken(given_normals, np.full(len(symbols), number))
        for values in (start, end - 1):
            found = own.find(values, slice(None))
            for one, expected in zip(found, (symbols, start, end - start), strict=True):
                assert np.array_equal(one, expected)


@laws
@given(some_normals(), st.integers(0, 2**32 - 1))
def test_parts_find_as_the_whole(given_normals: Normal, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, TOTAL, len(given_normals))
    values[:1] = TOTAL - 1
    symbols, start, freq = given_normals.find(values, slice(None))
    assert int(freq.min()) >= 1
    assert ((start <= values) & (values < start + freq)).all()
    for one, expected in zip(given_normals.intervals(symbols), (start, freq), strict=True):
        assert np.array_equal(one, expected)
    for number in range(len(given_normals)):
        part = slice(number, number + 1)
        alone = taken(given_normals, part).find(values[part], slice(None))
        for one, other in zip(given_normals.find(values[part], part), alone, strict=True):
            assert np.array_equal(one, other)


def test_far_cells_of_a_posterior_have_no_mass() -> None:
    """Those 8 standard deviations away; a prior gives each the least frequency."""
    sharp = ([100], [5 * SCALE_STEPS], [4])  # scale 1, step 1/32
    posterior, prior = normals(*sharp, least=0), normals(*sharp, least=1)
    z = np.arange(int(prior.cells[0])) * 16 - LIMIT - 100
    far = np.abs(z) > 8 * UNIT + 16
    assert not np.diff(cumulative(posterior, 0))[far].any()
    assert (np.diff(cumulative(prior, 0))[far] == 1).all()
    assert far.mean() > 0.7


# Masses


@laws
@given(some_normals())
def test_masses_are_those_of_the_normal_distribution(given_normals: Normal) -> None:
    """Bounds, in shares of all: an edge is rounded down by less than 2^-8 of a knot, phi(0) 2^-15 of mass; chords of
    the cumulative lie off it by max |phi'| / 8 KNOTS^2; its values are rounded by 2^-31, the chord and the mass by
    2^-30 and 2^-24; what is beyond 8 standard deviations is taken for nothing."""
    bound = norm.pdf(0) * 2**-15 + norm.pdf(1) / 8 / KNOTS**2 + 2**-29 + 2**-PRECISION + norm.sf(REACH)
    for number in range(len(given_normals)):
        mean, step = int(given_normals.mean[number]), int(given_normals.step[number])
        cells, scale = int(given_normals.cells[number]), 2**20 * KNOTS / 2 / int(given_normals.inverse[number])
        j = np.arange(cells + 1)
        expected = norm.cdf(((j - 0.5) * step - LIMIT - mean) / scale)
        expected[0], expected[-1] = 0, 1
        expected = expected * (1 - given_normals.least * cells / TOTAL) + given_normals.least * j / TOTAL
        assert np.abs(cumulative(given_normals, number) / TOTAL - expected).max() <= bound


def test_scales_are_those_of_the_table() -> None:
    """Half a unit of the inverse is 0.02 % of the least one, at the widest scale."""
    assert len(INVERSE) == round((LOG_SCALE_LIMIT - LOWEST) * SCALE_STEPS) + 1 == 577
    scale = np.exp(LOWEST + np.arange(577) / SCALE_STEPS)
    exact = 2**20 * KNOTS / (2 * UNIT * scale)
    assert np.abs(INVERSE - exact).max() <= 0.5
    assert 0.5 / INVERSE.min() < 2.1e-4


def test_the_cumulative_normal() -> None:
    exact = 2**30 * norm.cdf(np.arange(-REACH * KNOTS, REACH * KNOTS + 1) / KNOTS)
    assert np.abs(NORMAL - exact).max() <= 0.5 + 1e-5  # 2^30 times a few 1e-16 besides
    assert (np.diff(NORMAL) >= 0).all()
    assert (NORMAL[0], NORMAL[REACH * KNOTS], NORMAL[-1]) == (0, 2**29, 2**30)


@laws
@given(some_normals())
def test_the_nearest_cell_is_the_nearest(given_normals: Normal) -> None:
    found = given_normals.nearest()
    for number, symbol in enumerate(found.tolist()):
        z = np.arange(int(given_normals.cells[number])) * int(given_normals.step[number]) - LIMIT
        distance = np.abs(z - int(given_normals.mean[number]))
        assert distance[symbol] == distance.min()
        later = distance[symbol + 1 :]
        assert not len(later) or later.min() > distance.min()  # halves go up


# From a model


def step_of(level: int, channels: int, batch: int = 5, seed: int = 0, wide: float = 3.0) -> LatentStep:
    """A prior of means and log scales as exact layers give them."""
    mean, log_scale = integers((batch, channels, 1, 1), 6.0, seed), integers((batch, channels, 1, 1), wide, seed + 1)
    return LatentStep(level, mean, log_scale)


def integers(shape: tuple[int, ...], reach: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    top = round(reach * UNIT)
    return torch.randint(-top, top + 1, shape, generator=generator).double()


def test_merging_is_precision_weighting(tables: GaussianTables) -> None:
    """The weight is rounded to 2^-17, the pull to a unit by half of one, the narrowing to half a unit."""
    step = step_of(0, 400)
    mean, log_scale = integers((5, 400, 1, 1), 20.0, 7), integers((5, 400, 1, 1), 5.5, 8)  # some beyond the limit
    before = [x.clone() for x in (step.mean, step.log_scale, mean, log_scale)]
    merged, narrower = tables.merged(step, mean, log_scale)
    for x, same in zip((step.mean, step.log_scale, mean, log_scale), before, strict=True):
        assert torch.equal(x, same)
    own, prior = ((x / UNIT).clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT) for x in (log_scale, step.log_scale))
    expected, expected_scale = precision_weighted(mean / UNIT, own, step.mean / UNIT, prior)
    assert float((merged / UNIT - expected).abs().max()) <= 0.5 / UNIT + 26 * 2**-17 + 1e-9
    assert float((narrower / UNIT - expected_scale).abs().max()) <= 0.5 / UNIT + 1e-9
    assert bool((merged == merged.round()).all())
    assert bool((narrower == narrower.round()).all())
    assert float(narrower.min()) > LOWEST * UNIT  # so the table of scales has it


def test_priors_and_posteriors_are_on_the_channels_grids(tables: GaussianTables) -> None:
    tables.steps(0).copy_(torch.tensor([0, 7, 12]))
    step = step_of(0, 3)
    mean, log_scale = integers((5, 3, 1, 1), 6.0, 3), integers((5, 3, 1, 1), 3.0, 4)
    prior, posterior = tables.prior(step), tables.posterior(step, mean, log_scale)
    for found, least in ((prior, 1), (posterior, 0)):
        assert (len(found), found.least) == (15, least)
        assert found.step.tolist() == [1, 128, 4096] * 5
    assert np.array_equal(prior.mean, step.mean.flatten().long().numpy())
    merged, narrower = tables.merged(step, mean, log_scale)
    assert np.array_equal(posterior.mean, merged.flatten().long().numpy())
    for found, wanted in ((prior, step.log_scale), (posterior, narrower)):
        scale = np.log(2**20 * KNOTS / 2 / UNIT / found.inverse)
        # Scales are rounded to 1/64 of log, the inverse to half a unit.
        assert np.abs(scale - wanted.flatten().numpy() / UNIT).max() <= 0.5 / SCALE_STEPS + 2.2e-4
    tables.steps(0).zero_()


def test_scales_beyond_the_limit_are_the_limit(tables: GaussianTables) -> None:
    for log_scale, index in ((4.0, 576), (60.0, 576), (-4.0, 64), (-60.0, 64)):
        step = LatentStep(1, torch.zeros(1, 2, 1, 1).double(), torch.full((1, 2, 1, 1), log_scale * UNIT).double())
        assert tables.prior(step).inverse.tolist() == [INVERSE[index]] * 2


def test_symbols_have_their_places(tables: GaussianTables) -> None:
    tables.steps(1).copy_(torch.tensor([3, 12]))
    step = step_of(1, 2, batch=3)
    symbols = np.array([0, 0, 4096, 4, 8192 * 32 // 64, 8])
    z = tables.place(step, symbols)
    assert z.shape == (3, 2, 1, 1)
    assert z.dtype == torch.float64
    assert z.flatten().tolist() == [-LIMIT, -LIMIT, 4096 * 8 - LIMIT, 0, 4096 * 8 - LIMIT, LIMIT]
    nearest = tables.prior(step).nearest()
    away = (tables.place(step, nearest) - step.mean).abs().flatten(2)
    assert bool((away <= torch.tensor([4.0, 2048.0])[:, None]).all())
    tables.steps(1).zero_()


def test_tables_are_stored_with_the_weights(tables: GaussianTables) -> None:
    assert {name: (tuple(x.shape), x.dtype) for name, x in tables.state_dict().items()} == {
        "weight": ((8193,), torch.int32), "narrowing": ((8193,), torch.int32), "inverse": ((577,), torch.int64),
        "normal": ((2049,), torch.int32), "odds": ((16385,), torch.int32),
        "steps0": ((3,), torch.int64), "steps1": ((2,), torch.int64),
    }  # fmt: skip
    odds = np.arange(-8192, 8193) / UNIT
    exact = TOTAL / (1 + np.exp(-odds))
    assert np.abs(tables.odds.numpy() - np.clip(exact, 1, TOTAL - 1)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("changes", [
    {"posterior": "uniform"}, {"inference": "bottom-up"}, {"top_down": "separate"},
])  # fmt: skip
def test_models_with_other_latents_have_none(changes: dict) -> None:
    with pytest.raises(ValueError, match="archives need Gaussian latents with the ladder's inference"):
        GaussianTables(config_of(context=0, **changes))


def test_pixels_of_two_values_are_bits(tables: GaussianTables) -> None:
    logits = torch.tensor([[-40.0, -16.0, 0.0], [1.0, 16.0, 40.0]], dtype=torch.float64)[..., None] * UNIT
    before = logits.clone()
    found = tables.pixels(PixelStep(0, 0, logits), exp_table(FRAC_BITS).double())
    assert torch.equal(logits, before)
    assert found.precision == PRECISION
    p = 1 / (1 + math.exp(16))
    expected = [TOTAL * p, TOTAL * p, TOTAL / 2, TOTAL / (1 + math.exp(-1)), TOTAL * (1 - p), TOTAL * (1 - p)]
    assert np.abs(found.ones - expected).max() <= 0.5


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_pixels_of_more_values_are_tables(rows: int, tables: GaussianTables) -> None:
    logits = integers((rows, 1, 16), 5.0, 0)
    found = tables.pixels(PixelStep(0, 1, logits), exp_table(FRAC_BITS).double())
    assert (len(found), found.precision, found.cdf.shape) == (rows, 16, (rows, 17))
    assert (found.cdf[:, 0] == 0).all()
    assert (found.cdf[:, -1] == 65536).all()
    exact = 65536 * torch.softmax(logits[:, 0] / UNIT, 1).numpy()
    # 1 + floor(w (65536 - 16)), and what is left, up to 16, goes to one.
    assert (np.abs(np.diff(found.cdf) - exact) <= 32).all()
