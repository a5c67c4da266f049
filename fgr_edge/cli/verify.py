"""`fgr-edge verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fgr_edge.cli.modes import Device
from fgr_edge.cli.root import app, print_json


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="Labelled photographs, to repeat the accuracy: folder per class, CSV, TSV, JSONL, Grocery split."
        ),
    ] = None,
    images: Annotated[Optional[Path], typer.Option(help="Folder that the paths of a list start from.")] = None,
    device: Annotated[Optional[Device], typer.Option(help="Run elsewhere than on the bundle's target.")] = None,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Prove on this machine that a bundle does what it did when it was exported; exit 1 if it does not."""
    from fgr_edge.calibrate.verify import verify as run
    from fgr_edge.calibrate.verify_report import table
    from fgr_edge.export.progress import progress_bar

    report = run(
        bundle, data, progress_bar, images=images, device=None if device is None else device.value, threads=threads
    )
    if json:
        print_json(report)
    else:
        print(table(report))
    if not report["passed"]:
        raise typer.Exit(1)
