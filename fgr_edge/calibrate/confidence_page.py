"""A calibration as files: report.json, the whole document, and report.html, which needs nothing beside itself.

The page has for each mode the figures before and after, reliability, risk against coverage, and over-prediction against
the length of a name. It loads nothing from anywhere and runs no script.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from fgr_edge.calibrate.confidence_report import Measured
from fgr_edge.calibrate.confidence_table import heading, rows, rule
from fgr_edge.calibrate.label_calibration import ModeReport, Report
from fgr_edge.evaluate import figures
from fgr_edge.evaluate.files import write_files

STYLE = """
body{font:15px/1.45 system-ui,Helvetica,Arial,sans-serif;color:#222;margin:2em auto;max-width:1240px;padding:0 1.5em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:2em}.dim{color:#666}
table{border-collapse:collapse}td,th{padding:.25em 1.2em .25em 0;text-align:left;border-bottom:1px solid #eee}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:pre}
.figures{display:flex;flex-wrap:wrap;gap:24px;margin-top:1.2em}figure{margin:0;max-width:390px}
figure svg{width:100%;height:auto}figcaption{font-size:.9em;color:#444}
"""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.json and report.html into `folder`, which is made where it is not there; older ones are replaced.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: writing failed.
    """
    files = {
        "report.json": json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "report.html": page(report),
    }
    return write_files(folder, files)


def page(report: Report) -> str:
    """The HTML page."""
    skipped = "".join(f"<li>{escape(one['error'])}</li>" for one in report["skipped"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Calibration of the labels</title>'
        f"<style>{STYLE}</style></head><body><h1>Calibration of the labels</h1>"
        f'<p class="dim">{escape(report["bundle"])}, on {escape(report["data"])}</p>'
        + "".join(_mode(mode) for mode in report["modes"])
        + (f"<h2>Skipped photographs</h2><ul>{skipped}</ul>" if skipped else "")
        + "</body></html>\n"
    )


def _mode(mode: ModeReport) -> str:
    figures_of = [
        (_reliability(mode), "Reliability: on the dashed line, answers are right as often as they say. Bars: 95 %."),
        (_risk_coverage(mode), "Risk and coverage: wrong answers among the surest photographs, from few to all."),
        (_length_bias(mode), "Name length: how much more a class is predicted than there. A dot is a class."),
    ]
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(before)}</td><td class="n">{escape(after)}</td></tr>'
        for name, before, after in rows(mode)
    )
    return (
        f"<h2>{escape(heading(mode))}</h2>"
        f'<table><tr><th></th><th class="n">before</th><th class="n">after</th></tr>{cells}</table>'
        f"<p>{escape(rule(mode))}</p>"
        + "".join(f"<p><b>{escape(note)}</b></p>" for note in mode["notes"])
        + '<div class="figures">'
        + "".join(f"<figure>{svg}<figcaption>{escape(text)}</figcaption></figure>" for svg, text in figures_of)
        + "</div>"
    )


def _sides(mode: ModeReport) -> dict[str, Measured]:
    return {"before": mode["before"], "after": mode["after"]}


def _reliability(mode: ModeReport) -> str:
    return figures.reliability(
        {
            name: [(part["confidence"], part["accuracy"], part["count"]) for part in side["reliability"]]
            for name, side in _sides(mode).items()
        }
    )


def _risk_coverage(mode: ModeReport) -> str:
    return figures.risk_coverage({name: side["risk_coverage"] for name, side in _sides(mode).items()}, mode["risk"])


def _length_bias(mode: ModeReport) -> str:
    return figures.length_bias(
        {
            name: (
                list(zip(side["length_bias"]["lengths"], side["length_bias"]["excess"], strict=True)),
                side["length_bias"]["slope"],
                side["length_bias"]["p_value"],
            )
            for name, side in _sides(mode).items()
        }
    )
