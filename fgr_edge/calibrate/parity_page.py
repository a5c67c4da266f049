"""A parity report as files: parity.json, the document, and parity.html, which a person reads without a network.

The verdict comes first, then what it rests on: accuracy, stages, changed answers with their pictures, size and latency,
units kept at a higher precision, and what was measured on what. The page loads nothing and runs no script. Where
matplotlib is not installed it has no plots and says so: an export does not fail for want of a picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

from fgr_edge.bench import html
from fgr_edge.calibrate import parity_figures, parity_rows
from fgr_edge.calibrate.parity_document import Accuracy, Answer, Flip, Parity
from fgr_edge.errors import MissingExtraError
from fgr_edge.evaluate.figures import require_matplotlib
from fgr_edge.evaluate.files import write_files
from fgr_edge.evaluate.thumbnail import thumbnail
from fgr_edge.runtime.bundle import PARITY

PAGE = "parity.html"
PICTURED = 24  # changed answers of a kind, with their pictures
KINDS = {"lost": "Lost: right before, wrong now", "gained": "Gained: wrong before, right now"}
STYLE = """
.cards{display:flex;flex-wrap:wrap;gap:14px}.card{width:190px;border:1px solid #ddd;border-radius:6px;padding:8px;
font-size:.85em}.card div{height:124px;display:flex;align-items:center}.card img{max-width:120px;max-height:120px}
.right{color:#15803d}.wrong{color:#b91c1c}
"""


def write_parity(parity: Parity, folder: Path, pictures: Path | None) -> list[Path]:
    """Write parity.json and parity.html into `folder`; older ones are replaced.

    Args:
        pictures: `parity.common_folder` of the pictures, for those whose answers changed; None shows none.

    Raises:
        StorageError: writing failed.
    """
    text = json.dumps(parity, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return write_files(folder, {PARITY: text, PAGE: page(parity, pictures)})


def page(parity: Parity, pictures: Path | None) -> str:
    """The HTML page; arguments as for `write_parity`."""
    bundle = parity["bundle"]
    precision = ", ".join(f"{part} {kind}" for part, kind in bundle["precision"].items())
    title = f"{bundle['name']} for {bundle['target']}: the same as the original?"
    return html.page(
        title,
        f'<p class="dim">{escape(precision)}; the original is the same checkpoint in fp32. '
        f"{escape(_measured(parity))}</p>"
        + _verdict(parity)
        + "".join(_accuracy(accuracy) for accuracy in parity["accuracy"])
        + _stages(parity)
        + "".join("".join(_flips(accuracy, pictures)) for accuracy in parity["accuracy"])
        + _cost(parity)
        + _sensitivity(parity)
        + _facts(parity),
        STYLE,
    )


def _measured(parity: Parity) -> str:
    data = parity["data"]
    source = data["source"] if data["users"] else "drawn birds of the aviary"
    return f"Measured on {data['pictures']} pictures of {data['classes']} classes ({source}), {data['labels']} labels."


def _verdict(parity: Parity) -> str:
    judged = parity["verdict"]
    bound = judged["max_accuracy_drop"]
    if bound is None:
        kind, text = "open", "No bound was set"
    else:
        kind, text = ("good", "Within the bound") if judged["passed"] else ("bad", "Over the bound")
        text += f": at most {100 * bound:.3g} points of top-1 may be lost"
    found, advice = html.sentences(judged["found"]), html.sentences(judged["advice"])
    return (
        f'<div class="verdict {kind}"><b>{escape(judged["headline"])}</b><br>{escape(text)}.{found}'
        + (f"<p>What to try:</p>{advice}" if advice else "")
        + "</div>"
    )


def _accuracy(accuracy: Accuracy) -> str:
    table = html.table(("", "original", "bundle", "change"), parity_rows.accuracy_rows(accuracy))
    captions = (
        "Probability of each picture's right class: on the dashed line nothing changed.",
        "Reliability: on the dashed line, answers are right as often as they say. Bars: 95 %.",
    )
    drawn = _drawn(accuracy)
    return f"<h2>Accuracy, {accuracy['mode']} mode</h2>{table}" + (
        '<div class="figures">'
        + "".join(
            f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in zip(drawn, captions, strict=True)
        )
        + "</div>"
        if drawn
        else "<p class=\"dim\">Plots need matplotlib: <code>pip install 'fgr-edge[bench]'</code>.</p>"
    )


def _drawn(accuracy: Accuracy) -> tuple[str, ...]:
    """The plots, or nothing without matplotlib."""
    if not _can_draw():
        return ()
    return parity_figures.confidence(accuracy), parity_figures.reliability(accuracy)


def _can_draw() -> bool:
    try:
        require_matplotlib()
    except MissingExtraError:
        return False
    return True


def _stages(parity: Parity) -> str:
    rows = parity_rows.stage_rows(parity["stages"])
    marked = {number for number, measure in enumerate(parity["stages"]) if measure["within"] is False}
    return (
        "<h2>Stage by stage</h2>"
        + html.table(("stage", "prompt", "measure", "mean", "worst", "expected", "pictures"), rows, 3, marked)
        + '<p class="dim">Where the original and the bundle first differ by more than expected, look there first. '
        "Without an expectation, only the accuracy says whether an error matters. <i>Forced</i>: along the original's "
        "text.</p>"
    )


def _flips(accuracy: Accuracy, pictures: Path | None) -> Iterator[str]:
    flips = accuracy["flips"]
    yield f"<h2>Changed answers, {accuracy['mode']} mode: {len(flips)} of {accuracy['pictures']}</h2>"
    for kind, heading in (*KINDS.items(), ("moved", "Moved: wrong before, otherwise wrong now")):
        chosen = [flip for flip in flips if flip["kind"] == kind]
        if not chosen:
            continue
        yield f'<h3>{heading}: {len(chosen)}</h3><div class="cards">'
        for flip in chosen[:PICTURED]:
            path = accuracy["answers"][flip["sha256"]]["path"]
            yield f'<div class="card"><div>{_picture(pictures, path)}</div>{_words(flip)}</div>'
        yield "</div>"
        if len(chosen) > PICTURED:
            yield f"<details><summary>{len(chosen) - PICTURED} more</summary><ul>"
            yield from (f"<li>{_words(flip)}</li>" for flip in chosen[PICTURED:])
            yield "</ul></details>"


def _picture(pictures: Path | None, path: str) -> str:
    return "" if pictures is None else thumbnail(pictures / path, path)


def _words(flip: Flip) -> str:
    def shown(answer: Answer) -> str:
        kind = "right" if answer["label"] == flip["truth"] else "wrong"
        return f'<span class="{kind}">{escape(answer["label"])}</span> {100 * answer["probability"]:.0f} %'

    return f"<b>{escape(flip['truth'])}</b><br>{shown(flip['original'])} → {shown(flip['bundle'])}"


def _cost(parity: Parity) -> str:
    return (
        "<h2>Size and latency</h2>"
        + html.table(("", "original", "bundle", ""), parity_rows.cost_rows(parity))
        + f'<p class="dim">Medians of {parity["latency"]["bundle"]["runs"]} runs each, in turns, on the machine named '
        "below, the picture decoded from memory. Other work on that machine shows in them.</p>"
    )


def _sensitivity(parity: Parity) -> str:
    rows = parity["sensitivity"]
    if not rows:
        return ""
    kept = [row for row in rows if row["kept"] is not None]
    text = (
        "Kept at a higher precision, because class probabilities move most when they are quantized: "
        + ", ".join(f"{row['unit']} ({row['kept']})" for row in kept)
        if kept
        else "No unit had to be kept at a higher precision"
    )
    figure = parity_figures.sensitivity(rows) if _can_draw() else ""
    table = html.table(
        ("unit", "error", "kept"), [(row["unit"], f"{row['error']:.3g}", row["kept"] or "") for row in rows], 1
    )
    return (
        f"<h2>Sensitivity of the units</h2><p>{escape(text)}.</p><figure>{figure}<figcaption>How far the "
        "class probabilities are from the original's when only this unit is quantized.</figcaption></figure>"
        f"<details><summary>all {len(rows)} units</summary>{table}</details>"
    )


def _facts(parity: Parity) -> str:
    skipped = html.sentences([one["error"] for one in parity["data"]["skipped"]])
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in parity_rows.fact_rows(parity)
    )
    return f"<h2>What was measured, and where</h2><table>{rows}</table>" + (
        f"<h3>Skipped: pictures that cannot be opened</h3>{skipped}" if skipped else ""
    )
