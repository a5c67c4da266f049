"""One picture of a comparison: four panels of bars, this project's in another colour, the best peer's value marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
OURS, THEIRS = "#d1495b", "#8d99ae"
PANELS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("decode, tokens/s (more is better)", lambda row: row["decode_tokens_per_s"]),
    ("picture to first token, ms", lambda row: row["picture_ms"]["p50"]),
    ("probabilities of the labels, ms (log)", lambda row: row["labels_ms"]["p50"]),
    ("peak memory, MiB", lambda row: None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20),
)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write the chart; who has no figure has no bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    rows = {name: row for name, row in document["contenders"].items() if row["reason"] is None}
    figure, panels = pyplot.subplots(2, 2, figsize=(15, 2 + 0.6 * len(rows)))
    for panel, (title, value) in zip(panels.flat, PANELS, strict=True):
        shown = {name: found for name, row in rows.items() if (found := value(row)) is not None}
        colors = [OURS if rows[name]["peer"] == "fgr_edge" else THEIRS for name in shown]
        bars = panel.barh(list(shown), list(shown.values()), color=colors)
        panel.bar_label(bars, fmt="%.0f", padding=3)
        panel.set_title(title)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        if title.endswith("(log)"):
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())  # or numbers overlap where the axis spans one power of ten
    bandwidth = document["read_bandwidth_gbps"]["p50"]
    figure.suptitle(
        f"{document['checkpoint']}: {document['prompt_tokens']} tokens of prompt, {document['new_tokens']} new, "
        f"{document['labels']} labels, {document['threads']} threads, medians of {document['rounds']} rounds, "
        f"{bandwidth:.0f} GB/s"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
