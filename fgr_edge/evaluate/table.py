"""An evaluation for a terminal: the measures with their intervals, and the most confused pairs."""

from __future__ import annotations

from fgr_edge.evaluate.evaluation import Document
from fgr_edge.evaluate.summary import Measures

PAIRS = 10  # most confused, shown
PLAIN = ("ece", "nll", "calibrated_ece", "calibrated_nll")  # measures that are no percentages


def table(document: Document) -> str:
    """The same as the document, for a person."""
    settings, model = document["settings"], document["model"]
    precision = ", ".join(f"{part} {kind}" for part, kind in model["precision"].items())
    lines = [
        f"{model['name']} ({precision})",
        f"{settings['protocol']}, {settings['mode']} mode, {document['photographs']} photographs, "
        f"{len(document['labels'])} labels from {document['labels_from']}, seed {settings['seed']}",
        "",
        *measure_lines(document["measures"]),
    ]
    if settings["protocol"] == "closed-all":
        lines.append(f"calibration: {document['calibration']}")
    named = [pair for pair in document["confused"] if pair["answer"] is not None]
    if named:
        lines += ["", "most often confused"]
    lines += [f"  {pair['count']:>4} of {pair['of']:<5} {pair['truth']} -> {pair['answer']}" for pair in named[:PAIRS]]
    lines += [f"skipped: {skipped['error']}" for skipped in document["skipped"]]
    return "\n".join(lines)


def measure_lines(measures: Measures) -> list[str]:
    """Aligned rows of name, value, interval and counts; measures that do not apply are left out."""
    return [
        f"{name:<34} {value:>8}  {interval:<16} {counts}".rstrip() for name, value, interval, counts in rows(measures)
    ]


def rows(measures: Measures) -> list[tuple[str, str, str, str]]:
    """Name, value, 95 % interval and counts of every measure that applies."""
    found = []
    for key, value in measures.items():
        name = key.replace("_", " ")
        if isinstance(value, float):
            found.append((name, f"{value:.4f}" if key in PLAIN else f"{100 * value:.1f} %", "", ""))
        elif value is not None:
            interval = f"{100 * value['low']:.1f} to {100 * value['high']:.1f} %"
            found.append((name, f"{100 * value['share']:.1f} %", interval, f"{value['right']} of {value['count']}"))
    return found
