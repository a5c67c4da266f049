"""Figures of confidence as SVG text: reliability, risk against coverage, over-prediction against name length.

In: plain numbers, one series or several, by name. Out: one <svg> element each, to stand in a page. Needs matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from fgr_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]
WIDTH_IN, HEIGHT_IN = 5.2, 4.2
COLOURS = ("#b45309", "#184278", "#0f766e", "#7c3aed")


def require_matplotlib() -> None:
    """Before long work whose figures are wanted.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "figures need matplotlib, which is not installed; install it with `pip install 'fgr-edge[bench]'`, or "
            "leave the report out"
        )


def reliability(bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Accuracy over confidence; a mark for each bin of photographs, its 95 % Wilson interval as a bar.

    Args:
        bins: (mean confidence, accuracy, photographs) of each bin, by series.
    """
    from fgr_edge.evaluate.metrics import wilson_interval

    figure, axes = new_axes("mean probability of the answers in a bin", "share of them that is right")
    axes.plot([0, 1], [0, 1], color="#999", linewidth=1, linestyle="--")
    for (name, parts), colour in zip(bins.items(), COLOURS, strict=False):
        sure, right, counts = (np.array(column) for column in zip(*parts, strict=True))
        ends = np.array([wilson_interval(round(a * n), int(n)) for a, n in zip(right, counts, strict=True)])
        bars = np.maximum(np.abs(ends.T - right), 0)
        axes.errorbar(sure, right, yerr=bars, color=colour, marker="o", markersize=4, linewidth=1.2, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="upper left")
    return svg_of(figure)


def risk_coverage(curves: Mapping[str, Points], risk: float | None = None) -> str:
    """Share of wrong answers over share of photographs answered, the surest first.

    Args:
        curves: (coverage, risk) points, by series.
        risk: drawn as a line, where one is stated.
    """
    figure, axes = new_axes("share of photographs answered", "share of them that is wrong")
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        axes.step(*zip(*points, strict=True), where="post", color=colour, linewidth=1.4, label=name)
    if risk is not None:
        axes.axhline(risk, color="#999", linewidth=1, linestyle="--", label=f"stated risk {risk:.3g}")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left")
    return svg_of(figure)


def length_bias(series: Mapping[str, tuple[Points, float | None, float | None]]) -> str:
    """Over-prediction of each class over the length of its name, with the fitted line.

    Args:
        series: (length, excess) of each class, the slope and its p-value, by series.
    """
    figure, axes = new_axes("tokens of the name", "mean probability less frequency")
    axes.axhline(0, color="#999", linewidth=1, linestyle="--")
    for (name, (points, slope, p_value)), colour in zip(series.items(), COLOURS, strict=False):
        lengths, excess = (np.array(column, float) for column in zip(*points, strict=True))
        text = name if slope is None else f"{name}: slope {slope:+.5f}, p = {p_value:.2g}"
        axes.scatter(lengths, excess, color=colour, s=14, alpha=0.6, linewidths=0, label=text)
        if slope is not None:
            ends = np.array([lengths.min(), lengths.max()])
            axes.plot(ends, excess.mean() + slope * (ends - lengths.mean()), color=colour, linewidth=1.2)
    figure.legend(frameon=False, loc="outside upper center", fontsize="small")
    return svg_of(figure)


def new_axes(x: str, y: str, *, width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> tuple[Any, Axes]:
    """A figure in this style and its axes, labelled.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eee", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def svg_of(figure: Any) -> str:
    """The figure as one <svg> element, the same for the same numbers."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "fgr-edge", "svg.fonttype": "none"}):  # the same numbers give the same file
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]
