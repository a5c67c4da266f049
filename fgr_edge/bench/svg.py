"""A plot drawn by hand as one <svg> element: axes with round ticks, and marks placed by data coordinates.

In: numbers and texts. Out: SVG text that needs no library and no network; text goes in plain and comes out escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = ("#184278", "#b45309", "#0f766e", "#7c3aed", "#b91c1c", "#777777")
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 26.0, 44.0


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of numbers; `log` spaces decades evenly, `whole` counts something."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def share(self, value: float) -> float:
        """Where a value stands between the ends, 0 to 1."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        if self.log and self.high > 6 * self.low:  # a narrower range may hold none of 1, 2, 5
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            found = [10.0**power * step for power in range(first, last + 1) for step in steps]
        else:
            step = _round_step((self.high - self.low) / 6)
            step = max(1.0, step) if self.whole else step
            first = math.ceil(self.low / step - 1e-9)
            found = [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [tick for tick in found if -1e-9 <= self.share(tick) <= 1 + 1e-9]


def counting(label: str, counts: Sequence[float]) -> Axis:
    """An axis of whole numbers, half a step beyond the first and the last."""
    return Axis(label, min(counts) - 0.5, max(counts) + 0.5, whole=True)


def around(label: str, values: Sequence[float], *, zero: bool = False, log: bool = False) -> Axis:
    """An axis that holds all values with a margin; `zero` starts it there."""
    low, high = min(values), max(values)
    if log:
        return Axis(label, low / 1.25, high * 1.25, log=True)
    low = 0.0 if zero else low
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(label, low if zero else low - margin, high + margin)


@dataclass(slots=True)
class Plot:
    """Axes, and marks on them."""

    x: Axis
    y: Axis
    width: float = 480.0
    height: float = 300.0
    _marks: list[str] = field(default_factory=list)
    _names: list[tuple[str, str]] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across, up = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        return LEFT + across * self.x.share(x), TOP + up * (1 - self.y.share(y))

    def dots(self, points: Sequence[tuple[float, float]], colour: str, name: str = "") -> None:
        """A dot for each point."""
        for point in points:
            px, py = self.at(*point)
            self._marks.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}" fill-opacity=".75"/>')
        self._name(name, colour)

    def line(self, points: Sequence[tuple[float, float]], colour: str, name: str = "", dash: str = "") -> None:
        """Points joined in their order."""
        joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in (self.at(*point) for point in points))
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._marks.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>')
        self._name(name, colour)

    def level(self, y: float, colour: str, name: str = "") -> None:
        """A dashed line across."""
        self.line([(self.x.low, y), (self.x.high, y)], colour, name, "5 4")

    def svg(self) -> str:
        """The element."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'font-family="system-ui,Helvetica,Arial,sans-serif" font-size="12" role="img">'
            + "".join((*self._axes(), *self._marks, *self._legend()))
            + "</svg>"
        )

    def _name(self, name: str, colour: str) -> None:
        if name:
            self._names.append((name, colour))

    def _axes(self) -> list[str]:
        left, right, bottom = LEFT, self.width - RIGHT, self.height - BOTTOM
        marks = []
        for tick in self.y.ticks():
            _, py = self.at(self.x.low, tick)
            marks.append(f'<line x1="{left}" y1="{py:.1f}" x2="{right}" y2="{py:.1f}" stroke="#eee"/>')
            marks.append(text(left - 6, py + 4, number(tick), anchor="end"))
        for tick in self.x.ticks():
            px, _ = self.at(tick, self.y.low)
            marks.append(f'<line x1="{px:.1f}" y1="{bottom}" x2="{px:.1f}" y2="{bottom + 4}" stroke="#999"/>')
            marks.append(text(px, bottom + 17, number(tick), anchor="middle"))
        marks.append(f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#999"/>')
        marks.append(text((left + right) / 2, self.height - 8, self.x.label, anchor="middle"))
        marks.append(text(left - 50, 14, self.y.label))
        return marks

    def _legend(self) -> list[str]:
        marks, place = [], self.width - RIGHT
        for name, colour in reversed(self._names):
            marks.append(text(place, 14, name, anchor="end", colour=colour))
            place -= 6.4 * len(name) + 14
        return marks


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#444") -> str:
    """A <text> element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def number(value: float) -> str:
    """As a tick says it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= raw * (1 - 1e-9))
