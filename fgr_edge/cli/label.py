"""`fgr-edge label`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from fgr_edge.cli.modes import Mode
from fgr_edge.cli.root import app, print_json


class Engine(str, Enum):
    """Where the workers are."""

    local = "local"
    ray = "ray"


@app.command()
def label(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    source: Annotated[Path, typer.Argument(help="Folder of photographs, text file of paths, or labelled list.")],
    output: Annotated[Path, typer.Argument(help="Folder for the records; an unfinished run is gone on with.")],
    engine: Annotated[Engine, typer.Option(help="This machine, or a Ray cluster.")] = Engine.local,
    labels: Annotated[Optional[Path], typer.Option(help="Class names: text, CSV, JSON or TOML.")] = None,
    images: Annotated[Optional[Path], typer.Option(help="Folder that the paths of a list start from.")] = None,
    mode: Annotated[Mode, typer.Option(help="Name at once, or think first.")] = Mode.direct,
    question: Annotated[Optional[str], typer.Option(help="Asked instead of the bundle's own.")] = None,
    think_budget: Annotated[Optional[int], typer.Option(help="Close the thought at so many tokens.")] = None,
    top_k: Annotated[int, typer.Option(help="Record so many labels.", min=1)] = 1,
    shard_size: Annotated[int, typer.Option(help="Photographs in a file of records.", min=1)] = 256,
    workers: Annotated[Optional[int], typer.Option(help="Processes; on Ray, one for each machine.", min=1)] = None,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,
    ray_address: Annotated[Optional[str], typer.Option(help="host:port of the cluster's head, or auto.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Drop the records that are there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Label a store of photographs, each exactly once; repeat the command to go on after a stop."""
    from fgr_edge.bulk.config import LabelConfig
    from fgr_edge.bulk.labelling import label_photographs
    from fgr_edge.export.progress import progress_bar

    done = label_photographs(
        LabelConfig(
            bundle,
            source,
            output,
            labels=labels,
            images=images,
            mode=mode.value,
            question=question,
            think_budget=think_budget,
            top_k=top_k,
            shard_size=shard_size,
            engine=engine.value,
            workers=workers,
            threads=threads,
            ray_address=ray_address,
            force=force,
        ),
        progress_bar,
    )
    if json:
        print_json(done)
        return
    print(
        f"{done['records']} records in {len(done['shards'])} shards, {done['errors']} of them errors; "
        f"{done['photographs_labelled']} labelled now, in {done['seconds']:.1f} s: {output}"
    )
