"""`fgr-edge tune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgr_edge.cli.root import app, print_json

if TYPE_CHECKING:
    from fgr_edge.runtime.sessions.settings import SessionSettings


@app.command()
def tune(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    rounds: Annotated[
        int, typer.Option(help="Measure each setting so often at most; a large model fewer times.", min=1)
    ] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure which threads, products and memory suit this machine's CPU, and keep that in the bundle for it alone."""
    from rich.console import Console
    from rich.progress import Progress

    from fgr_edge.bench.tune import tune as measure_settings
    from fgr_edge.runtime.bundle import Bundle
    from fgr_edge.runtime.sessions.settings import SessionSettings
    from fgr_edge.runtime.tuning import write_tuning

    opened = Bundle.open(bundle)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        tuning = measure_settings(
            opened, rounds=rounds, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    path = write_tuning(opened, tuning)
    if tuning.noise:
        print(f"the machine was not quiet ({'; '.join(tuning.noise)}): run this again when it is", file=sys.stderr)
    if json:
        print_json(tuning.to_json())
        return
    for row in tuning.measured:
        settings = SessionSettings(**{name: row[name] for name in SessionSettings.__slots__})
        print(
            f"{_described(settings)}: "
            f"vision {row['vision_ms']:.1f} ms, prompt {row['prefill_ms']:.1f} ms, token {row['token_ms']:.2f} ms"
        )
    print(f"kept: {_described(tuning.settings)} ({path.relative_to(opened.path)})")


def _described(settings: SessionSettings) -> str:
    words = [
        f"{settings.threads} threads",
        f"spinning {settings.spinning}",
        f"arena {'on' if settings.arena else 'off'}",
        f"products {settings.products}",
    ]
    return ", ".join([*words, "huge pages"] if settings.huge_pages else words)
