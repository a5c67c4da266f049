"""`fgr-edge inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgr_edge.cli.root import app, print_json


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what is inside a bundle and how large it is."""
    from fgr_edge.runtime.inspection import describe, summary

    if json:
        print_json(describe(bundle))
    else:
        print(summary(bundle))
