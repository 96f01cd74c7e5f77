"""What all charts share: the plane with its axes and grid, text, the legend below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .axes import Scale, tick_text
from .page import Html, escaped

WIDTH, _HEIGHT = 380, 256
TOP, BOTTOM = 32, 212
"""Edges of the plane that data lie in, in units from the top."""
CHARACTER = 7.5
"""Width of a character of text, at most."""


@dataclass(frozen=True)
class Frame:
    """The plane that the data of a chart lie in: scales of both axes, and their titles."""

    x: Scale
    y: Scale
    x_title: str
    y_title: str

    @property
    def left(self) -> float:
        """Where the y axis stands, beside its labels."""
        return 12 + CHARACTER * max(len(tick_text(tick)) for tick in self.y.ticks)

    @property
    def right(self) -> float:
        """Where the plane ends, so that the label of the last tick fits."""
        return WIDTH - max([14, *(CHARACTER * (len(tick_text(tick)) + 1) / 2 for tick in self.x.ticks[-1:])])

    def across(self, value: float) -> float:
        """Units from the left."""
        return self.left + self.x.at(value) * (self.right - self.left)

    def down(self, value: float) -> float:
        """Units from the top."""
        return BOTTOM - self.y.at(value) * (BOTTOM - TOP)

    def below(self, value: float, words: str) -> str:
        """A label under the x axis."""
        return text(self.across(value), BOTTOM + 18, words, "middle")

    def axes(self) -> str:
        """Grid, axis line, tick labels and titles."""
        lines = [f"M{px(self.left)} {px(self.down(tick))}H{px(self.right)}" for tick in self.y.ticks]
        lines += [f"M{px(self.across(tick))} {TOP}V{BOTTOM}" for tick in self.x.ticks]
        beside = [text(self.left - 7, self.down(tick) + 4, tick_text(tick), "end") for tick in self.y.ticks]
        below = [self.below(tick, tick_text(tick)) for tick in self._spaced()]
        return "\n".join([
            f'<path class="grid" d="{"".join(lines)}"/>',
            f'<path class="axis" d="M{px(self.left)} {BOTTOM}H{px(self.right)}"/>',
            *beside, *below, text(0, 14, self.y_title, kind="title"),
            text((self.left + self.right) / 2, _HEIGHT - 6, self.x_title, "middle", "title"),
        ])  # fmt: skip

    def _spaced(self) -> list[float]:
        """Ticks of the x axis whose labels do not touch the one before."""
        kept, end = [], float("-inf")
        for tick in self.x.ticks:
            half = (len(tick_text(tick)) + 1) * CHARACTER / 2
            if self.across(tick) - half >= end:
                kept.append(tick)
                end = self.across(tick) + half
        return kept


@dataclass(frozen=True)
class Key:
    """An entry of a legend: attributes that give its colour, a drawing 12 units high, and its label."""

    attributes: str
    drawing: str
    label: str


def chart(alt: str, parts: Sequence[str], keys: Sequence[Key]) -> Html:
    """A drawing of these parts, and its legend below. alt: for whoever cannot see it."""
    body = "\n".join(parts)
    drawing = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(alt)}">\n{body}\n</svg>'
    )
    return Html(f"{drawing}\n{_legend(keys)}" if keys else drawing)


def sample(drawing: str, width: int) -> str:
    """A drawing 12 units high for a legend."""
    return f'<svg viewBox="0 0 {width} 12" width="{width}" height="12" aria-hidden="true">{drawing}</svg>'


def _legend(keys: Sequence[Key]) -> str:
    items = [f"<li {key.attributes}>{key.drawing}{escaped(key.label)}</li>" for key in keys]
    return "\n".join(['<ul class="legend">', *items, "</ul>"])


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "tick") -> str:
    """Text whose baseline starts, ends or has its middle at a place; nothing for no text."""
    place = f'class="{kind}" x="{px(x)}" y="{px(y)}" text-anchor="{anchor}"'
    return f"<text {place}>{escaped(words)}</text>" if words else ""


def px(value: float) -> str:
    """A coordinate to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
