"""Charts as SVG: lines, clouds of points, grouped bars. Text is text, colours come from the page's style.

A chart is 380 x 256 units and as wide as its figure. Legends stand below, as HTML, so they never cover data. Whoever
cannot see it hears its `alt`, which says what the chart shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .axes import Axis, Scale, scale
from .drawing import BOTTOM, CHARACTER, TOP, WIDTH, Frame, Key, chart, px, sample, text
from .page import Html

_DASHES = ("", "7 4", "2 4", "9 4 2 4")
_COLOURS = 10
_MOST_DOTS = 12  # points of a line that are marked one by one
_MARK = 14  # how far apart, at least, the labels of clouds stand
_NEAR = sorted(((a, b) for a in range(-3, 4) for b in range(-3, 4)), key=lambda at: math.hypot(*at))


@dataclass(frozen=True)
class Series:
    """Points (x, y) that belong together. names: of the points, shown beside them; as many, or none."""

    label: str
    points: Sequence[tuple[float, float]]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Rule:
    """A dashed line at one value of the "x" or "y" axis; the legend names it."""

    axis: str
    value: float
    label: str


@dataclass(frozen=True)
class Bars:
    """One bar per group."""

    label: str
    values: Sequence[float]


def line_chart(
    series: Sequence[Series], x: Axis, y: Axis, alt: str, rules: Sequence[Rule] = (), ordered: bool = False
) -> Html:
    """Lines through the points of every series, in their order. ordered: colours go from pale to strong.

    Points that an axis cannot show (not finite, or not positive where logarithmic) are left out."""
    frame = _frame(series, x, y, rules)
    lines = [
        f"<g {_colour(number, len(series), ordered)}>{_line(frame, one, number)}</g>"
        for number, one in enumerate(_shown(series, x, y))
    ]
    keys = [Key(_colour(n, len(series), ordered), _line_key(n), one.label) for n, one in enumerate(series)]
    keys += [Key("", _RULE, rule.label) for rule in rules]
    return chart(alt, [frame.axes(), *_rules(frame, rules), *lines], keys)


def scatter_chart(series: Sequence[Series], x: Axis, y: Axis, alt: str) -> Html:
    """A dot per point; where there are several series, their labels stand at their medians."""
    frame, shown = _frame(series, x, y), _shown(series, x, y)
    clouds = [f'<path class="cloud c{n % _COLOURS}" d="{_dots(frame, one.points)}"/>' for n, one in enumerate(shown)]
    if len(series) == 1:
        return chart(alt, [frame.axes(), *clouds], [])
    keys = [Key(f'class="c{n % _COLOURS}"', _CLOUD, one.label) for n, one in enumerate(series)]
    return chart(alt, [frame.axes(), *clouds, *_marks(frame, [one for one in shown if one.points])], keys)


def bar_chart(
    groups: Sequence[str], bars: Sequence[Bars], x: str, y: str, alt: str, ordered: bool = False, stacked: bool = False
) -> Html:
    """Bars of each group side by side, or on top of each other if `stacked` (values are then at least 0).

    x, y: titles of the groups and of the values.  ordered: colours go from pale to strong."""
    boxes = _stacked(bars) if stacked else _beside(bars)
    values = scale(Axis(y, zero=True), [end for series in boxes for box in series for end in (box.low, box.high)])
    frame = Frame(Scale(0, len(groups), ()), values, x, y)
    names = [frame.below(group + 0.5, name) for group, name in enumerate(groups)]
    paints = [_colour(number, len(bars), ordered) for number in range(len(bars))]
    drawn = [f"<g {paint}>{_bars(frame, series)}</g>" for paint, series in zip(paints, boxes, strict=True)]
    keys = [Key(paint, _BOX, one.label) for paint, one in zip(paints, bars, strict=True)]
    return chart(alt, [frame.axes(), *names, *drawn], keys if len(bars) > 1 else [])


@dataclass(frozen=True)
class _Box:
    """A bar from `low` to `high` of the y axis; left, right: along the x axis, on which a group is 1 wide.

    value: what is written above it; None in the middle of a stack."""

    left: float
    right: float
    low: float
    high: float
    value: float | None


def _beside(bars: Sequence[Bars]) -> list[list[_Box]]:
    """Boxes of every series; a fifth of a group's width is left free."""
    width = 0.8 / len(bars)
    return [
        [
            _Box(group + 0.1 + number * width, group + 0.1 + (number + 1) * width, min(value, 0), max(value, 0), value)
            for group, value in enumerate(one.values)
        ]
        for number, one in enumerate(bars)
    ]


def _stacked(bars: Sequence[Bars]) -> list[list[_Box]]:
    """Boxes of every series, the first at the bottom; the sum is written above the last."""
    result, lows = [], [0.0] * len(bars[0].values)
    for one in bars:
        highs = [low + value for low, value in zip(lows, one.values, strict=True)]
        result.append([
            _Box(group + 0.2, group + 0.8, low, high, high if one is bars[-1] else None)
            for group, (low, high) in enumerate(zip(lows, highs, strict=True))
        ])  # fmt: skip
        lows = highs
    return result


def _frame(series: Sequence[Series], x: Axis, y: Axis, rules: Sequence[Rule] = ()) -> Frame:
    points = [point for one in _shown(series, x, y) for point in one.points]
    across, down = ([rule.value for rule in rules if rule.axis == axis] for axis in ("x", "y"))
    xs, ys = scale(x, [*(p[0] for p in points), *across]), scale(y, [*(p[1] for p in points), *down])
    return Frame(xs, ys, x.title, y.title)


def _shown(series: Sequence[Series], x: Axis, y: Axis) -> list[Series]:
    """The points that both axes can show."""
    result = []
    for one in series:
        kept = [number for number, (a, b) in enumerate(one.points) if x.shows(a) and y.shows(b)]
        names = [one.names[number] for number in kept] if one.names else ()
        result.append(Series(one.label, [one.points[number] for number in kept], names))
    return result


def _line(frame: Frame, series: Series, number: int) -> str:
    places = [(frame.across(x), frame.down(y)) for x, y in series.points]
    path = "L".join(f"{px(x)} {px(y)}" for x, y in places)
    drawn = [f'<path class="line"{_dash(number)} d="M{path}"/>'] if len(places) > 1 else []
    if len(places) <= _MOST_DOTS:
        drawn += [f'<circle class="dot" cx="{px(x)}" cy="{px(y)}" r="4.5"/>' for x, y in places]
    if series.names:
        drawn += [_name(x, y, name) for (x, y), name in zip(places, series.names, strict=True)]
    return "".join(drawn)


def _name(x: float, y: float, name: str) -> str:
    """A name to the lower right of a point, or to the upper left where that would leave the chart."""
    if x + 9 + len(name) * CHARACTER <= WIDTH:
        return text(x + 9, min(y + 13, BOTTOM - 4), name, kind="name")
    return text(x - 7, y - 7, name, "end", "name")


def _bars(frame: Frame, boxes: Sequence[_Box]) -> str:
    """Values are written above where there is room."""
    drawn = []
    for box in boxes:
        left, right, low, high = *map(frame.across, (box.left, box.right)), *map(frame.down, (box.low, box.high))
        drawn.append(f'<path class="bar" d="M{px(left)} {px(low)}V{px(high)}H{px(right - 1)}V{px(low)}z"/>')
        value = "" if box.value is None else _short(box.value)
        if len(value) * CHARACTER <= right - left:
            drawn.append(text((left + right - 1) / 2, high - 4, value, "middle"))
    return "".join(drawn)


def _marks(frame: Frame, series: Sequence[Series]) -> list[str]:
    """Labels at the medians of the series, or close by where two would cover each other."""
    placed: list[tuple[float, float]] = []
    drawn = []
    for one in series:
        x, y = (statistics.median(values) for values in zip(*one.points, strict=True))
        near = [(frame.across(x) + a * _MARK, frame.down(y) + 5 + b * _MARK) for a, b in _NEAR]
        free = (at for at in near if all(math.dist(at, other) >= _MARK for other in placed))
        placed.append(next(free, near[0]))
        drawn.append(text(*placed[-1], one.label, "middle", "mark"))
    return drawn


def _dots(frame: Frame, points: Iterable[tuple[float, float]]) -> str:
    return "".join(f"M{px(frame.across(x))} {px(frame.down(y))}h0" for x, y in points)


def _rules(frame: Frame, rules: Sequence[Rule]) -> list[str]:
    paths = [
        f"M{px(frame.across(rule.value))} {TOP}V{BOTTOM}"
        if rule.axis == "x"
        else f"M{px(frame.left)} {px(frame.down(rule.value))}H{px(frame.right)}"
        for rule in rules
    ]
    return [f'<path class="rule" d="{path}"/>' for path in paths]


_BOX = sample('<path class="bar" d="M0 0h12v12H0z"/>', 12)
_CLOUD = sample('<path class="cloud" d="M6 6h0"/>', 12)
_RULE = sample('<path class="rule" d="M1 6h24"/>', 26)


def _line_key(number: int) -> str:
    return sample(f'<path class="line"{_dash(number)} d="M1 6h24"/>', 26)


def _dash(number: int) -> str:
    pattern = _DASHES[number % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _colour(number: int, of: int, ordered: bool) -> str:
    """Attribute that gives the colour of a series: one of ten, or a mixture of the two ends of a ramp."""
    if not ordered or of == 1:
        return f'class="c{number % _COLOURS}"'
    return f'style="--c: color-mix(in oklab, var(--high) {round(100 * number / (of - 1))}%, var(--low))"'


def _short(value: float) -> str:
    """A value in few characters."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}".replace("-", "−")
