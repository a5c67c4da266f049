"""`fgr-edge eval`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from fgr_edge.cli.modes import Mode
from fgr_edge.cli.root import app, print_json


class Protocol(str, Enum):
    """What is asked of each photograph."""

    closed_4 = "closed-4"
    closed_all = "closed-all"
    open = "open"


@app.command("eval")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Folder per class, CSV, TSV or JSONL list, or Grocery split.")],
    protocol: Annotated[Protocol, typer.Option(help="Four options, all classes, or a free answer.")],
    labels: Annotated[Optional[Path], typer.Option(help="Class names, instead of the bundle's.")] = None,
    mode: Annotated[Mode, typer.Option(help="Score names at once, or after a thought.")] = Mode.direct,
    limit: Annotated[Optional[int], typer.Option(help="Ask about so many photographs, drawn.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the options.", min=0)] = 0,
    images: Annotated[Optional[Path], typer.Option(help="Folder that the paths of a list start from.")] = None,
    text_encoder: Annotated[
        Optional[Path],
        typer.Option(help="Folder of model.onnx and tokenizer.json, for relative similarity."),
    ] = None,
    report: Annotated[Optional[Path], typer.Option(help="Folder for results.json and report.html.")] = None,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure accuracy on labelled photographs, by a protocol of the papers."""
    from fgr_edge.evaluate.evaluation import EvaluationConfig
    from fgr_edge.evaluate.evaluation import evaluate as run
    from fgr_edge.evaluate.report import write_report
    from fgr_edge.evaluate.table import table
    from fgr_edge.export.progress import progress_bar

    done = run(
        EvaluationConfig(bundle, data, protocol.value, labels, mode.value, limit, seed, text_encoder, images, threads),
        progress_bar,
    )
    if report is not None:
        for path in write_report(done, report):
            print(f"wrote {path}", file=sys.stderr)
    if json:
        print_json(done.document)
    else:
        print(table(done.document))
