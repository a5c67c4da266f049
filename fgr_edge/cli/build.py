"""`fgr-edge build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from fgr_edge.cli.root import app, extra, print_json

if TYPE_CHECKING:
    from fgr_edge.export.engine_build import Built


@app.command()
def build(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, of target tensorrt or tensorrt-rtx.")],
    gpu: Annotated[
        Optional[list[str]],
        typer.Option(help="Build for this GPU without having it (tensorrt-rtx): rtx-40, l4, sm86; may be repeated."),
    ] = None,
    cache_length: Annotated[
        Optional[int],
        typer.Option(help="Tokens of picture, answer and labels together; unsaid: room for a thought.", min=1),
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens of a prompt that go through the decoder at once.", min=1)] = 512,
    image_size: Annotated[
        Optional[list[str]],
        typer.Option(help="WxH of a camera's pictures, which get a profile of their own; may be repeated."),
    ] = None,
    one_profile: Annotated[
        bool, typer.Option("--one-profile", help="Prompts and single tokens share a profile: smaller engines.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave the weights out of the engines; they are put in at opening.")
    ] = False,
    optimization_level: Annotated[
        Optional[int], typer.Option(help="0 builds fastest, 5 searches longest; unsaid: the library's 3.", min=0, max=5)
    ] = None,
    workspace_mb: Annotated[
        Optional[int], typer.Option(help="Megabytes that a kernel may use besides its tensors.", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Build the engines of a bundle for this GPU, verify them, and put them into the bundle."""
    from fgr_edge.cli.export import parse_image_size

    with extra("export"):
        from fgr_edge.export.engine_build import BuildConfig, build_engines
        from fgr_edge.export.tensorrt import BuilderSettings

        built = build_engines(
            BuildConfig(
                bundle,
                gpus=tuple(gpu or ()),
                cache_length=cache_length,
                chunk=chunk,
                cameras=tuple(size for text in image_size or () if (size := parse_image_size(text)) is not None),
                one_profile=one_profile,
                builder=BuilderSettings(
                    stripped=strip,
                    optimization_level=optimization_level,
                    workspace_bytes=None if workspace_mb is None else workspace_mb * 1024 * 1024,
                ),
                force=force,
            )
        )
    if json:
        print_json(_document(built))
    else:
        print(_table(built))


def _document(built: Built) -> dict[str, Any]:
    from dataclasses import asdict

    record = asdict(built.record)
    record["folder"] = str(record["folder"])
    return {
        "fresh": built.fresh,
        "record": record,
        "seconds": built.seconds,
        "peak_bytes": built.peak_bytes,
        "verified": built.report,
    }


def _table(built: Built) -> str:
    from fgr_edge.runtime.inspection import readable

    record = built.record
    rows = [("engines", str(record.folder)), ("cache", f"{record.cache_length} tokens")]
    for name, engine in record.engines.items():
        took = f", {built.seconds[name]:.1f} s" if name in built.seconds else ""
        profiles = ", ".join(profile.name for profile in engine.profiles) or "fixed sizes"
        rows.append((name, f"{readable(engine.size_bytes)} ({profiles}){took}"))
    rows.append(("built", f"now, {readable(built.peak_bytes)} of memory at the peak" if built.fresh else "before"))
    rows.append(
        ("verified", "passed" if record.verified else "not yet: no GPU was asked; fgr-edge verify where it runs")
    )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
