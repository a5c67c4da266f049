"""`fgr-edge calibrate-labels`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from fgr_edge.cli.root import app, print_json


class CalibratedMode(str, Enum):
    """Which modes to calibrate."""

    direct = "direct"
    reason = "reason"
    both = "both"


@app.command("calibrate-labels")
def calibrate_labels(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; the result is stored in it.")],
    data: Annotated[
        Path, typer.Argument(help="Labelled photographs: folder per class, CSV, TSV, JSONL, Grocery split.")
    ],
    mode: Annotated[CalibratedMode, typer.Option(help="Mode to calibrate.")] = CalibratedMode.direct,
    risk: Annotated[float, typer.Option(help="Largest share of wrong answers among those given.")] = 0.05,
    labels: Annotated[Optional[Path], typer.Option(help="Class names; they become the bundle's.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Classes may lack photographs.")] = False,
    independent: Annotated[
        bool, typer.Option("--independent", help="Photographs of a class are of different times and places.")
    ] = False,
    report: Annotated[Optional[Path], typer.Option(help="Folder for report.json and report.html.")] = None,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a calibration that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit probabilities and the threshold for an answer on labelled photographs."""
    from fgr_edge.calibrate.confidence_page import write_report
    from fgr_edge.calibrate.confidence_table import table
    from fgr_edge.calibrate.label_calibration import CalibrationConfig
    from fgr_edge.calibrate.label_calibration import calibrate_labels as run
    from fgr_edge.evaluate.figures import require_matplotlib
    from fgr_edge.export.progress import progress_bar

    if report is not None:
        require_matplotlib()
    modes: dict[str, tuple[Literal["direct", "reason"], ...]]
    modes = {"direct": ("direct",), "reason": ("reason",), "both": ("direct", "reason")}
    config = CalibrationConfig(
        bundle,
        data,
        modes[mode.value],
        risk,
        labels=labels,
        allow_missing=allow_missing,
        independent=independent,
        force=force,
        threads=threads,
    )
    done = run(config, progress_bar)
    if report is not None:
        for path in write_report(done, report):
            print(f"wrote {path}", file=sys.stderr)
    if json:
        print_json(done)
    else:
        print(table(done))
