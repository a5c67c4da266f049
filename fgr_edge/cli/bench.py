"""`fgr-edge bench`."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

from fgr_edge.cli.modes import Device
from fgr_edge.cli.root import app

if TYPE_CHECKING:
    from fgr_edge.bench.answers import BenchMode


class Output(str, Enum):
    """What is printed."""

    md = "md"
    json = "json"
    csv = "csv"


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    prompt: Annotated[
        str, typer.Option("-p", "--n-prompt", help="Prefill so many tokens; a list or range as in llama-bench.")
    ] = "512",
    generate: Annotated[
        str, typer.Option("-n", "--n-gen", help="Generate so many tokens after a picture; likewise.")
    ] = "128",
    rounds: Annotated[int, typer.Option("-r", "--repetitions", help="Measure everything so often.", min=1)] = 5,
    output: Annotated[Output, typer.Option("-o", "--output", help="Print Markdown, JSON or CSV.")] = Output.md,
    images: Annotated[Optional[Path], typer.Option(help="A picture or a folder of them; drawn without.")] = None,
    labels: Annotated[Optional[Path], typer.Option(help="Class names, instead of the bundle's.")] = None,
    modes: Annotated[str, typer.Option(help="Some of direct, reason, cascade.")] = "direct,reason,cascade",
    cascade_below: Annotated[
        float, typer.Option(help="The cascade reasons where the direct answer is less probable, or abstains.")
    ] = 0.5,
    think_budget: Annotated[Optional[int], typer.Option(help="Close thoughts at so many tokens.", min=1)] = None,
    concurrency: Annotated[
        Optional[str], typer.Option(help="So many recognizers at once; a list or range: 1-4, 1-8*2.")
    ] = None,
    starts: Annotated[int, typer.Option(help="Fresh processes of each kind; 0 leaves them out.", min=0)] = 5,
    warmups: Annotated[int, typer.Option(help="Rounds that are thrown away first.", min=0)] = 1,
    threads: Annotated[Optional[int], typer.Option("-t", "--threads", help="Threads of one operator.", min=1)] = None,
    device: Annotated[Optional[Device], typer.Option(help="Run elsewhere than on the bundle's target.")] = None,
    html: Annotated[Optional[Path], typer.Option(help="Also write a page with plots to this file.")] = None,
) -> None:
    """Measure how fast a bundle is on this machine, and what limits it."""
    from fgr_edge.bench.benchmark import bench as run
    from fgr_edge.bench.config import BenchConfig
    from fgr_edge.bench.counts import parse_counts
    from fgr_edge.bench.page import check_writable, write_page
    from fgr_edge.bench.table import printed
    from fgr_edge.export.progress import progress_bar

    config = BenchConfig(
        bundle,
        images,
        labels,
        parse_counts(prompt, "-p"),
        parse_counts(generate, "-n"),
        rounds,
        warmups,
        tuple(cast("BenchMode", mode.strip()) for mode in modes.split(",")),
        cascade_below,
        think_budget,
        parse_counts(concurrency, "--concurrency") if concurrency is not None else (),
        starts,
        threads,
        None if device is None else device.value,
    )
    if html is not None:
        check_writable(html)
    document = run(config, progress_bar)
    if html is not None:
        write_page(document, html)
        print(f"wrote {html}", file=sys.stderr)
    print(printed(document, output.value))
