"""`fgr-edge inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fgr_edge.cli.root import app, print_json


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    plan: Annotated[
        Optional[str],
        typer.Option(help="Predict its memory on orin-nano, orin-nx, agx-orin, thor, h100 or auto, this machine."),
    ] = None,
    max_tokens: Annotated[Optional[int], typer.Option(help="Of the plan: longest prompt and answer.", min=1)] = None,
    image_size: Annotated[Optional[str], typer.Option(help="Of the plan: WxH of the largest picture.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what is inside a bundle, how large it is, and whether it fits on a device."""
    from fgr_edge.runtime.inspection import describe, summary

    if plan is None:
        if max_tokens is not None or image_size is not None:
            raise typer.BadParameter("--max-tokens and --image-size are of --plan DEVICE", param_hint="--plan")
        if json:
            print_json(describe(bundle))
        else:
            print(summary(bundle))
        return
    from fgr_edge.cli.export import parse_image_size
    from fgr_edge.runtime.bundle import Bundle
    from fgr_edge.runtime.memory.advice import advised, plan_table
    from fgr_edge.runtime.memory.devices import find_device
    from fgr_edge.runtime.memory.facts import read_facts
    from fgr_edge.runtime.memory.plan import plan_memory

    device = find_device(plan)
    size = parse_image_size(image_size)
    pixels = None if size is None else size[0] * size[1]
    facts = read_facts(Bundle.open(bundle).manifest, pixels=pixels, tokens=max_tokens)
    found = advised(plan_memory(facts, device))
    if json:
        print_json({**describe(bundle), "plan": found.to_json()})
    else:
        print(plan_table(found))
