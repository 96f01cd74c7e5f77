"""Axes of charts: which values they reach, which ticks they carry, and how those read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)  # of a decade
_TICKS = 8  # about as many on a linear axis
_MOST_TICKS = 9  # on a logarithmic one
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """What an axis shows. title: with its unit.  log: logarithmic.  zero: 0 is on it (linear only)."""

    title: str
    log: bool = False
    zero: bool = False

    def shows(self, value: float) -> bool:
        """Whether a value has a place on it: finite, and positive where logarithmic."""
        return math.isfinite(value) and (value > 0 or not self.log)


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` of an axis as 0..1 of its length, and its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands, 0..1."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


def scale(axis: Axis, values: Iterable[float]) -> Scale:
    """The scale that holds all values that the axis shows, from tick to tick; some scale if there are none."""
    shown = [value for value in values if axis.shows(value)] or [1.0 if axis.log else 0.0]
    if axis.log:
        return _logarithmic(min(shown), max(shown))
    return _linear(min(shown + [0.0] * axis.zero), max(shown + [0.0] * axis.zero))


def _linear(low: float, high: float) -> Scale:
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in _STEPS if step * power >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(n * step, 12 - math.floor(math.log10(step))) for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _logarithmic(low: float, high: float) -> Scale:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [float(f"{step}e{power}") for power in powers for step in _STEPS[:3]]
    below = [step for step in steps if step <= low * (1 + 1e-9)]
    above = [step for step in steps if step >= high * (1 - 1e-9) and step > below[-1]]
    inside = [step for step in steps if below[-1] <= step <= above[0]]
    return Scale(below[-1], above[0], _thinned(inside), log=True)


def _thinned(ticks: list[float]) -> tuple[float, ...]:
    """Not too many: all, or whole decades, or every so many of them."""
    if len(ticks) <= _MOST_TICKS:
        return tuple(ticks)
    decades = [tick for tick in ticks if f"{tick:e}".startswith("1.000000e")]
    return tuple(decades[:: -(-len(decades) // _MOST_TICKS)])


def tick_text(value: float) -> str:
    """A tick as one reads it: 2,000, 0.05, 10⁻⁶, 2·10⁻⁶."""
    if value and not 1e-3 <= abs(value) < 1e7:
        factor, power = f"{value:.6e}".split("e")
        digits = factor.rstrip("0").rstrip(".")
        decade = f"10{str(int(power)).translate(_SUPERSCRIPTS)}"
        return decade if digits == "1" else f"{digits}·{decade}"
    return f"{value:,.10g}".replace("-", "−")
