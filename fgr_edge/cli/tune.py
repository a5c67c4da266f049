"""`fgr-edge tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgr_edge.cli.root import app, print_json


@app.command()
def tune(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    rounds: Annotated[int, typer.Option(help="Measure each setting so often.", min=1)] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure which threads and memory settings suit this machine's CPU, and keep them in the bundle for it alone."""
    from rich.console import Console
    from rich.progress import Progress

    from fgr_edge.bench.tune import tune as measure_settings
    from fgr_edge.runtime.bundle import Bundle
    from fgr_edge.runtime.tuning import write_tuning

    opened = Bundle.open(bundle)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        tuning = measure_settings(
            opened, rounds=rounds, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    path = write_tuning(opened, tuning)
    if json:
        print_json(tuning.to_json())
        return
    for row in tuning.measured:
        print(
            f"{row['threads']} threads, spinning {row['spinning']}, arena {'on' if row['arena'] else 'off'}: "
            f"vision {row['vision_ms']:.1f} ms, prompt {row['prefill_ms']:.1f} ms, token {row['token_ms']:.2f} ms"
        )
    chosen = tuning.settings
    print(
        f"kept: {chosen.threads} threads, spinning {chosen.spinning}, arena {'on' if chosen.arena else 'off'} "
        f"({path.relative_to(opened.path)})"
    )
