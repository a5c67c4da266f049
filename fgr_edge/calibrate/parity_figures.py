"""Figures of a parity report as SVG text: confidence before and after, reliability, sensitivity of the units.

In: parts of a `Parity` document. Out: one <svg> element each, to stand in a page. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence

from fgr_edge.calibrate.parity_document import Accuracy, Sensitivity
from fgr_edge.evaluate import figures

MOST_UNITS = 40
COLOURS = {"right in both": "#184278", "wrong in both": "#999999", "lost": "#b91c1c", "gained": "#15803d"}


def confidence(accuracy: Accuracy) -> str:
    """Probability of each picture's right class: the original's across, the bundle's up."""
    points: dict[str, list[tuple[float, float]]] = {kind: [] for kind in COLOURS}
    for picture in accuracy["answers"].values():
        was, now = (picture[side]["label"] == picture["truth"] for side in ("original", "bundle"))
        kind = "lost" if was > now else "gained" if now > was else "right in both" if was else "wrong in both"
        points[kind].append((picture["original"]["truth_probability"], picture["bundle"]["truth_probability"]))
    figure, axes = figures.new_axes("probability of the right class, original", "the same, bundle")
    axes.plot([0, 1], [0, 1], color="#999", linewidth=1, linestyle="--")
    for kind, pairs in points.items():
        if pairs:
            flipped = kind in ("lost", "gained")
            before, after = zip(*pairs, strict=True)
            axes.scatter(
                before,
                after,
                color=COLOURS[kind],
                s=34 if flipped else 12,
                alpha=1 if flipped else 0.5,
                linewidths=0,
                label=f"{kind} ({len(pairs)})",
            )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    return figures.svg_of(figure)


def reliability(accuracy: Accuracy) -> str:
    """Share of right answers over confidence, of both sides."""
    return figures.reliability(
        {
            side: [(part["confidence"], part["accuracy"], part["count"]) for part in fit["reliability"]]
            for side, fit in (("original", accuracy["original"]), ("bundle", accuracy["bundle"]))
        }
    )


def sensitivity(rows: Sequence[Sensitivity]) -> str:
    """A bar for each unit, the most sensitive on top; kept ones in another colour."""
    shown = rows[:MOST_UNITS]
    figure, axes = figures.new_axes("KL of the class probabilities, nats", "", height_in=1.1 + 0.22 * len(shown))
    places = range(len(shown))
    colours = ["#b45309" if row["kept"] else "#184278" for row in shown]
    axes.barh(places, [row["error"] for row in shown], color=colours, height=0.7)
    axes.set_yticks(places, [row["unit"] + (f" (kept {row['kept']})" if row["kept"] else "") for row in shown])
    axes.invert_yaxis()
    return figures.svg_of(figure)
