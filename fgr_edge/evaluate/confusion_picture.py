"""The confusion picture: an SVG that a person can read, without any library, sharp at any size.

In: a `Confusion`. Out: SVG text. Rows are what a photograph shows, columns what was answered. Right answers are blue
and mistakes orange to red, both by the logarithm of the count, so that a single mistake is seen beside a class of a
hundred. Confused classes stand side by side; frames hold classes of one parent, or classes that are taken for each
other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np

from fgr_edge.evaluate.confusion import Arrangement, Confusion, arrange

MOST_CLASSES = 120  # drawn; more cannot be read on a screen
NO_CLASS = "(no class named)"
CELL_PX, FONT_PX, CHARACTER_PX = 15, 11, 6.5
NAME_CHARACTERS = 36
SHARE_PX, SIDE_PX = 110, 170  # columns at the right: share of right answers, names of the frames
Rgb = tuple[int, int, int]
RIGHT: tuple[Rgb, Rgb] = ((201, 219, 238), (24, 66, 120))
WRONG: tuple[Rgb, Rgb] = ((253, 212, 158), (150, 0, 24))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand, in pixels. `columns` are classes, and C for "no class" where that was answered."""

    confusion: Confusion
    arrangement: Arrangement
    columns: tuple[int, ...]
    left: float
    top: float
    peak: int

    def x(self, place: float) -> float:
        return self.left + place * CELL_PX

    def y(self, place: float) -> float:
        return self.top + place * CELL_PX

    @property
    def right(self) -> float:
        return self.x(len(self.columns))

    @property
    def bottom(self) -> float:
        return self.y(len(self.arrangement.order))


def draw(confusion: Confusion) -> str:
    """The picture as one <svg> element with its own sizes; every cell says its count when pointed at."""
    arrangement = arrange(confusion, MOST_CLASSES)
    order = arrangement.order
    shown = confusion.counts[list(order)] if order else np.zeros((0, 1), np.int64)
    none = len(confusion.names)
    columns = (*order, none) if shown[:, -1].any() else order
    longest = max((min(len(_name(confusion, index)), NAME_CHARACTERS) for index in columns), default=0)
    margin = max(150.0, longest * CHARACTER_PX + 16)
    layout = _Layout(confusion, arrangement, columns, margin + 16, margin + 16, int(shown.max(initial=1)))
    width = layout.right + SHARE_PX + (SIDE_PX if any(name for _, _, name in arrangement.blocks) else 20)
    height = layout.bottom + (28 if arrangement.left_out else 10)
    parts = [*_grid(layout), *_legend(layout), *_names(layout), *_cells(layout), *_frames(layout), *_shares(layout)]
    if arrangement.left_out:
        parts.append(
            _text(layout.left, layout.bottom + 20, f"{arrangement.left_out} less confused classes are not drawn", "dim")
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="{FONT_PX}">'
        "<style>text{fill:#222}.dim{fill:#888}.bold{font-weight:bold}.small{font-size:8.5px}"
        ".cell:hover{stroke:#000;stroke-width:2}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _grid(layout: _Layout) -> Iterator[str]:
    """Every other row and column shaded, so that the eye finds its way to the names."""
    width, height = layout.right - layout.left, layout.bottom - layout.top
    yield f'<rect x="{layout.left}" y="{layout.top}" width="{width}" height="{height}" fill="#fafafa"/>'
    for place in range(0, len(layout.arrangement.order), 2):
        yield f'<rect x="{layout.left}" y="{layout.y(place)}" width="{width}" height="{CELL_PX}" fill="#f1f1f1"/>'
    for place in range(0, len(layout.columns), 2):
        yield (
            f'<rect x="{layout.x(place)}" y="{layout.top}" width="{CELL_PX}" height="{height}" fill="#000" '
            'fill-opacity="0.025"/>'
        )


def _cells(layout: _Layout) -> Iterator[str]:
    counts, names = layout.confusion.counts, layout.confusion.names
    totals = counts.sum(axis=1)
    for row, truth in enumerate(layout.arrangement.order):
        for column, answer in enumerate(layout.columns):
            count = int(counts[truth, answer])
            if not count:
                continue
            r, g, b = _colour(count, layout.peak, RIGHT if truth == answer else WRONG)
            said = _name(layout.confusion, answer)
            note = f"{names[truth]} → {said}: {count} of {totals[truth]} ({count / totals[truth]:.0%})"
            x, y = layout.x(column), layout.y(row)
            yield (
                f'<rect class="cell" x="{x + 0.5}" y="{y + 0.5}" width="{CELL_PX - 1}" height="{CELL_PX - 1}" '
                f'fill="rgb({r},{g},{b})"><title>{escape(note)}</title></rect>'
            )
            if 1 < count < 1000:
                ink = "#fff" if 0.299 * r + 0.587 * g + 0.114 * b < 150 else "#222"
                yield (
                    f'<text class="small" x="{x + CELL_PX / 2}" y="{y + CELL_PX - 4.5}" text-anchor="middle" '
                    f'style="fill:{ink}" pointer-events="none">{count}</text>'
                )


def _names(layout: _Layout) -> Iterator[str]:
    totals = layout.confusion.counts.sum(axis=1)
    for row, truth in enumerate(layout.arrangement.order):
        style = "" if totals[truth] else "dim"
        yield _text(layout.left - 5, layout.y(row) + CELL_PX - 4, _short(layout.confusion, truth), style, anchor="end")
    for column, answer in enumerate(layout.columns):
        x = layout.x(column) + CELL_PX - 4
        yield (
            f'<text transform="translate({x:.1f} {layout.top - 5:.1f}) rotate(-90)">'
            f"{escape(_short(layout.confusion, answer))}</text>"
        )


def _shares(layout: _Layout) -> Iterator[str]:
    """At the right of every row: how many of its photographs were answered rightly, as a bar and as numbers."""
    totals, right = layout.confusion.counts.sum(axis=1), layout.confusion.counts.diagonal()
    x = layout.right + 10
    yield _text(x, layout.top - 5, "right / photographs", "dim")
    for row, truth in enumerate(layout.arrangement.order):
        y = layout.y(row)
        if not totals[truth]:
            yield _text(x, y + CELL_PX - 4, "no photograph", "dim")
            continue
        share = right[truth] / totals[truth]
        yield f'<rect x="{x}" y="{y + 3}" width="50" height="{CELL_PX - 6}" fill="#f5cfa8"/>'
        yield f'<rect x="{x}" y="{y + 3}" width="{50 * share:.1f}" height="{CELL_PX - 6}" fill="#4a78ad"/>'
        yield _text(x + 55, y + CELL_PX - 4, f"{right[truth]}/{totals[truth]}")


def _frames(layout: _Layout) -> Iterator[str]:
    for start, size, name in layout.arrangement.blocks:
        side = size * CELL_PX
        yield (
            f'<rect x="{layout.x(start)}" y="{layout.y(start)}" width="{side}" height="{side}" fill="none" '
            'stroke="#444" stroke-width="1.2"/>'
        )
        if name:
            x, y = layout.right + SHARE_PX, layout.y(start)
            yield f'<path d="M{x} {y + 2}h5v{side - 4}h-5" fill="none" stroke="#444"/>'
            yield _text(x + 10, y + side / 2 + 4, _cut(name, 24), "bold")


def _legend(layout: _Layout) -> Iterator[str]:
    """In the empty corner: what the axes are, and the two scales."""
    yield _text(8, 18, "rows: what it is", "bold")
    yield _text(8, 33, "columns: what was answered", "bold")
    steps = sorted({1, layout.peak, *(c for c in (2, 5, 10, 20, 50, 100, 1000) if c < layout.peak)})[:7]
    for line, (title, scale) in enumerate((("right", RIGHT), ("mistaken", WRONG))):
        y = 46 + 24 * line
        yield _text(8, y + 11, title)
        for place, count in enumerate(steps):
            x = 66 + place * 17
            r, g, b = _colour(count, layout.peak, scale)
            yield f'<rect x="{x}" y="{y}" width="16" height="14" fill="rgb({r},{g},{b})"/>'
            if line:
                yield f'<text class="small" x="{x + 8}" y="{y + 25}" text-anchor="middle">{count}</text>'
    yield _text(8, 118, "photographs, log scale", "dim")


def _colour(count: int, peak: int, scale: tuple[Rgb, Rgb]) -> Rgb:
    t = math.log(count) / math.log(peak) if peak > 1 else 0.0
    r, g, b = (round(low + (high - low) * t) for low, high in zip(*scale, strict=True))
    return r, g, b


def _name(confusion: Confusion, index: int) -> str:
    return confusion.names[index] if index < len(confusion.names) else NO_CLASS


def _short(confusion: Confusion, index: int) -> str:
    return _cut(_name(confusion, index), NAME_CHARACTERS)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _text(x: float, y: float, text: str, style: str = "", *, anchor: str = "start") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'
