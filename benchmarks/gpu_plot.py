"""One picture of `gpu.json`: tokens per second of every section beside what the card's bandwidth allows.

In: the document. Out: a PNG; nothing where no latency was measured or matplotlib is not installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(document: dict[str, Any], path: Path) -> bool:
    """Write the picture; returns whether there was something to draw."""
    models = [model for model in document["models"] if rows(document, model)]
    if not models:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7 * len(models), 4.5), layout="constrained")
    for place, model in enumerate(models, 1):
        axes = figure.add_subplot(1, len(models), place)
        found = rows(document, model)
        names, reached, limits = zip(*found, strict=True)
        heights = range(len(found))
        axes.barh(heights, [limit or 0 for limit in limits], color="#dddddd", label="bandwidth allows")
        axes.barh(heights, reached, height=0.5, color="#184278", label="reached")
        axes.set_yticks(list(heights), names)
        axes.invert_yaxis()
        axes.set_xlabel("tokens/s, batch 1")
        axes.set_title(f"{model} on {document['card'] or 'a CPU: times mean nothing'}")
        axes.legend()
    FigureCanvasAgg(figure).print_png(path)
    return True


def rows(document: dict[str, Any], model: str) -> list[tuple[str, float, float | None]]:
    """(section, tokens/s, tokens/s that the bandwidth allows), in the order measured."""
    found = []
    for name, section in document["sections"].items():
        step = section["steps"].get("latency", {})
        if step.get("ok") and f"/{model}/" in name:
            share = step.get("roofline_share")
            limit = step["tokens_per_s"] / share if share else None
            found.append((name.replace(f"{model}/", ""), step["tokens_per_s"], limit))
    return found
