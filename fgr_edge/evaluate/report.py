"""An evaluation as files: results.json, the whole document, and report.html, which needs nothing beside itself.

The page holds the measures, the confusion picture, the most confused pairs with a photograph of each side, every class,
and the photographs that were skipped. It loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from fgr_edge.evaluate.confusion import ConfusedPair, confused_pairs
from fgr_edge.evaluate.confusion_picture import NO_CLASS, draw
from fgr_edge.evaluate.evaluation import Document, Evaluation
from fgr_edge.evaluate.files import write_files
from fgr_edge.evaluate.table import rows
from fgr_edge.evaluate.thumbnail import thumbnail

PICTURED = 18  # confused pairs with photographs
STYLE = """
body{font:15px/1.45 system-ui,Helvetica,Arial,sans-serif;color:#222;margin:2em auto;max-width:1700px;padding:0 1.5em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:2em}.dim{color:#777}
table{border-collapse:collapse}td,th{padding:.25em .9em .25em 0;text-align:left;border-bottom:1px solid #eee}
td.n{text-align:right;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
.pairs{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0;width:260px;border:1px solid #ddd;
border-radius:6px;padding:8px}figure div{display:flex;gap:8px;align-items:center;height:128px}
img{max-width:120px;max-height:120px;border-radius:3px}
figcaption{font-size:.85em;margin-top:4px}.truth{color:#184278}.wrong{color:#960018}
"""


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write results.json and report.html into `folder`, which is made where it is not there; older ones are replaced.

    Raises:
        StorageError: writing failed.
    """
    files = {
        "results.json": json.dumps(evaluation.document, ensure_ascii=False, indent=1) + "\n",
        "report.html": page(evaluation),
    }
    return write_files(folder, files)


def page(evaluation: Evaluation) -> str:
    """The whole report as one HTML page."""
    document = evaluation.document
    settings, model = document["settings"], document["model"]
    title = f"{model['name']}: {settings['protocol']}"
    facts = (
        f"{settings['bundle']} on {settings['data']}: {document['photographs']} photographs, {len(document['labels'])} "
        f"labels from {document['labels_from']}, {settings['mode']} mode, seed {settings['seed']}, "
        f"precision {', '.join(f'{part} {kind}' for part, kind in model['precision'].items())}, "
        f"{document['seconds']:.0f} s. Calibration: {document['calibration']}."
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><p class="dim">{escape(facts)}</p>'
        f"{_measures(document)}<h2>What is taken for what</h2>"
        f'<div class="wide">{draw(evaluation.confusion)}</div>'
        f"{''.join(_pairs(evaluation))}{''.join(_classes(document))}{''.join(_skipped(document))}</body></html>\n"
    )


def _measures(document: Document) -> str:
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{value}</td><td>{interval}</td><td class="dim">{counts}</td></tr>'
        for name, value, interval, counts in rows(document["measures"])
    )
    return f"<table><tr><th>measure</th><th></th><th>95 % interval</th><th></th></tr>{lines}</table>"


def _pairs(evaluation: Evaluation) -> Iterator[str]:
    """The most confused pairs: a mistaken photograph beside one of what it was taken for."""
    names, paths = evaluation.confusion.names, [outcome["path"] for outcome in evaluation.document["outcomes"]]
    examples: dict[tuple[int | None, int | None], str] = {}
    of_class: dict[int | None, str] = {}
    for (truth, answer), path in zip(evaluation.pairs, paths, strict=True):
        examples.setdefault((truth, answer), path)
        of_class.setdefault(truth, path)
    confused = [pair for pair in confused_pairs(evaluation.confusion) if pair.answer is not None]
    yield "<h2>Most often confused</h2>"
    if not confused:
        yield "<p>No class was taken for another.</p>"
        return
    yield '<p class="dim">Left a photograph that was mistaken, right one of the class that it was taken for.</p>'
    yield '<div class="pairs">'
    for pair in confused[:PICTURED]:
        meant = examples.get((pair.answer, pair.answer)) or of_class.get(pair.answer)
        pictures = thumbnail(examples[pair.truth, pair.answer]) + ("" if meant is None else thumbnail(meant))
        yield f"<figure><div>{pictures}</div><figcaption>{_pair(names, pair)}</figcaption></figure>"
    yield "</div>"
    if len(confused) > PICTURED:
        yield f"<details><summary>{len(confused) - PICTURED} more</summary><ul>"
        yield from (f"<li>{_pair(names, pair)}</li>" for pair in confused[PICTURED:])
        yield "</ul></details>"


def _pair(names: Sequence[str], pair: ConfusedPair) -> str:
    answer = NO_CLASS if pair.answer is None else names[pair.answer]
    return (
        f'<b>{pair.count} of {pair.of}</b>: <span class="truth">{escape(names[pair.truth])}</span> → '
        f'<span class="wrong">{escape(answer)}</span>'
    )


def _classes(document: Document) -> Iterator[str]:
    """Every class, the worst first."""
    yield "<h2>Classes, the worst first</h2><details><summary>all classes with photographs</summary><table>"
    yield "<tr><th>class</th><th>level above</th><th>right</th><th></th></tr>"
    for row in sorted(document["per_class"], key=lambda row: row["share"]):
        yield (
            f"<tr><td>{escape(row['label'])}</td><td>{escape(row['parent'] or '')}</td>"
            f'<td class="n">{100 * row["share"]:.0f} %</td><td class="dim">{row["right"]} of {row["count"]}</td></tr>'
        )
    yield "</table></details>"


def _skipped(document: Document) -> Iterator[str]:
    if document["skipped"]:
        yield f"<h2>Skipped: {len(document['skipped'])} photographs that cannot be opened</h2><ul>"
        yield from (f"<li>{escape(row['error'])}</li>" for row in document["skipped"])
        yield "</ul>"
