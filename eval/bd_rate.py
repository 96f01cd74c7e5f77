"""Bjontegaard's delta rate: how many more bits one codec needs than another at equal quality, on average.

G. Bjontegaard, Calculation of average PSNR differences between RD-curves, VCEG-M33, 2001, with the interpolation that
JCT-VC's and JVET's common test conditions put in place of its one polynomial through four points: piecewise cubic
Hermite (PCHIP; slopes after F. N. Fritsch, J. Butland, SIAM J. Sci. Stat. Comput. 5(2), 1984, ends as in C. Moler,
Numerical computing with MATLAB, 3.6). It takes any number of points and never overshoots between them. In NumPy; the
tests hold it against SciPy's and against published values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DeltaRate:
    """percent: more bits than the anchor needs, averaged over its logarithm; negative if fewer.

    low, high: the range of qualities that both curves cover."""

    percent: float
    low: float
    high: float


def bd_rate(anchor: Sequence[tuple[float, float]], curve: Sequence[tuple[float, float]]) -> DeltaRate | None:
    """Delta rate of a curve against an anchor, each a list of (rate > 0, quality), in any order and unit.

    Points that another one beats (at least its quality for at most its rate) do not count. None where a curve has
    fewer than two points left or no range of quality is common to both."""
    curves = [_frontier(anchor), _frontier(curve)]
    if min(len(qualities) for _, qualities in curves) < 2:
        return None
    low = max(float(qualities[0]) for _, qualities in curves)
    high = min(float(qualities[-1]) for _, qualities in curves)
    if low >= high:
        return None
    theirs, ours = (_integral(qualities, np.log(rates), low, high) for rates, qualities in curves)
    return DeltaRate(float(100 * np.expm1((ours - theirs) / (high - low))), low, high)


def _frontier(points: Sequence[tuple[float, float]]) -> tuple[Floats, Floats]:
    """Rates and qualities of the points that none beats, both rising."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    rates, qualities = np.array(kept, np.float64).reshape(-1, 2).T
    return rates, qualities


def _integral(x: Floats, y: Floats, low: float, high: float) -> float:
    """Of the interpolant through (x, y) from low to high. Simpson's rule is exact for its cubic pieces."""
    inside = x[(x > low) & (x < high)]
    ends = np.concatenate([[low], inside, [high]])
    slopes = _slopes(x, y)
    at_ends = pchip(x, y, slopes, ends)
    at_middles = pchip(x, y, slopes, (ends[:-1] + ends[1:]) / 2)
    return float((np.diff(ends) * (at_ends[:-1] + 4 * at_middles + at_ends[1:]) / 6).sum())


def interpolated(x: Sequence[float], y: Sequence[float], at: Sequence[float]) -> Floats:
    """Values at `at` of the monotone cubic interpolant through points with rising x, at least two."""
    knots, values = np.array(x, np.float64), np.array(y, np.float64)
    return pchip(knots, values, _slopes(knots, values), np.array(at, np.float64))


def pchip(x: Floats, y: Floats, slopes: Floats, at: Floats) -> Floats:
    """The cubic Hermite interpolant with these slopes at the knots."""
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    width = x[piece + 1] - x[piece]
    t = (at - x[piece]) / width
    start = (1 + 2 * t) * (1 - t) ** 2 * y[piece] + t * (1 - t) ** 2 * width * slopes[piece]
    end = t**2 * (3 - 2 * t) * y[piece + 1] + t**2 * (t - 1) * width * slopes[piece + 1]
    result: Floats = start + end
    return result


def _slopes(x: Floats, y: Floats) -> Floats:
    """At the knots: weighted harmonic means of the neighbouring secants, 0 at extremes."""
    widths, secants = np.diff(x), np.diff(y) / np.diff(x)
    if len(x) == 2:
        return np.repeat(secants, 2)
    slopes = np.zeros_like(x)
    before, after = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    monotone = secants[:-1] * secants[1:] > 0
    inverse = (before[monotone] / secants[:-1][monotone] + after[monotone] / secants[1:][monotone]) / (before + after)[
        monotone
    ]
    slopes[1:-1][monotone] = 1 / inverse
    slopes[0] = _end_slope(widths[0], widths[1], secants[0], secants[1])
    slopes[-1] = _end_slope(widths[-1], widths[-2], secants[-1], secants[-2])
    return slopes


def _end_slope(width: float, next_width: float, secant: float, next_secant: float) -> float:
    """Three-point estimate, kept to the shape of the curve."""
    slope = ((2 * width + next_width) * secant - width * next_secant) / (width + next_width)
    if slope * secant <= 0:
        return 0.0
    if secant * next_secant < 0 and abs(slope) > 3 * abs(secant):
        return 3 * secant
    return slope
