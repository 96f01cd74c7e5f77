"""Bjontegaard's delta rate: analytic cases, published curves, and SciPy's interpolant."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from vqcodec.eval.bd_rate import bd_rate, interpolated

# Curve pairs of (rate, PSNR) with their BD-rate by the package bjontegaard 1.3.0 (FAU-LMS), method "pchip", which its
# authors compared with JVET's Excel sheet (JVET-T2010). The first pair is that of its README, the second that of the
# widely used script bjontegaard_metric.py. By one cubic polynomial: -4.4205 and 31.3974 %.
PUBLISHED = [
    (
        [(9487.76, 40.037), (4593.60, 38.615), (2486.44, 36.845), (1358.24, 34.851)],
        [(9787.80, 40.121), (4469.00, 38.651), (2451.52, 36.970), (1356.24, 34.987)],
        -4.417485350589045,
    ),
    (
        [(686.76, 40.28), (309.58, 37.18), (157.11, 34.24), (85.95, 31.42)],
        [(893.34, 40.39), (407.8, 37.21), (204.93, 34.17), (112.75, 31.24)],
        31.379878202397627,
    ),
]
ANCHOR = PUBLISHED[0][0]


@pytest.mark.parametrize(("anchor", "curve", "expected"), PUBLISHED)
def test_published_curves(anchor: list[tuple[float, float]], curve: list[tuple[float, float]], expected: float) -> None:
    found = bd_rate(anchor, curve)
    assert found is not None
    assert found.percent == pytest.approx(expected, abs=1e-9)
    assert found.low == max(anchor[-1][1], curve[-1][1])
    assert found.high == min(anchor[0][1], curve[0][1])


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_a_constant_factor(factor: float) -> None:
    found = bd_rate(ANCHOR, [(factor * rate, psnr) for rate, psnr in reversed(ANCHOR)])
    assert found is not None
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-10)


def test_lines_that_cross() -> None:
    """log rate = q and log rate = q / 2 over q of 0..4 and 2..6: the mean over 2..4 of the difference is -3 / 2."""
    anchor = [(float(np.exp(q)), q) for q in (0.0, 1.0, 3.0, 4.0)]
    curve = [(float(np.exp(q / 2)), q) for q in (2.0, 5.0, 6.0)]
    found = bd_rate(anchor, curve)
    assert found is not None
    assert (found.low, found.high) == (2, 4)
    assert found.percent == pytest.approx(100 * (np.exp(-1.5) - 1), abs=1e-10)
    back = bd_rate(curve, anchor)
    assert back is not None
    assert back.percent == pytest.approx(100 * (np.exp(1.5) - 1), abs=1e-9)


def test_points_that_another_beats_do_not_count() -> None:
    found = bd_rate(ANCHOR, [*ANCHOR, (9000.0, 37.0), (5000.0, 38.615)])
    assert found is not None
    assert found.percent == pytest.approx(0, abs=1e-10)


def test_no_common_range() -> None:
    assert bd_rate(ANCHOR, [(rate, psnr - 10) for rate, psnr in ANCHOR]) is None
    assert bd_rate(ANCHOR, ANCHOR[:1]) is None
    assert bd_rate([], ANCHOR) is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("points", [2, 3, 4, 9])
def test_interpolant_is_scipys(seed: int, points: int) -> None:
    """Also where the values rise and fall, which takes every branch of the slopes."""
    random = np.random.default_rng(seed)
    x, y = np.cumsum(random.uniform(0.1, 3, points)), random.choice([0.0, 0.1, 1.0, 1.1, 5.0], points)
    at = np.linspace(x[0], x[-1], 50)
    np.testing.assert_allclose(
        interpolated(x.tolist(), y.tolist(), at.tolist()), PchipInterpolator(x, y)(at), atol=1e-12
    )
