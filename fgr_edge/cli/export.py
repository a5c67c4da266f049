"""`fgr-edge export`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from fgr_edge.cli.root import app, extra


class SoupMethod(str, Enum):
    """Which checkpoints go into a soup."""

    uniform = "uniform"
    greedy = "greedy"


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or a hub id owner/name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    target: Annotated[str, typer.Option(help="cpu, cuda, tensorrt or tensorrt-rtx.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, int4, w8a8 or fp8.")] = "int8",
    vision: Annotated[Optional[str], typer.Option(help="Scheme of the vision tower alone.")] = None,
    decoder: Annotated[Optional[str], typer.Option(help="Scheme of the decoder's layers alone.")] = None,
    head: Annotated[Optional[str], typer.Option(help="Scheme of the output projection alone.")] = None,
    method: Annotated[Optional[str], typer.Option(help="nearest, awq, gptq or smoothquant.")] = None,
    calib: Annotated[Optional[Path], typer.Option(help="Labelled photographs to calibrate and measure on.")] = None,
    calib_pictures: Annotated[int, typer.Option(help="Calibrate on so many of them.")] = 96,
    proof: Annotated[bool, typer.Option(help="Measure the bundle against the original.")] = True,
    proof_pictures: Annotated[int, typer.Option(help="Measure on so many photographs at most.")] = 240,
    max_accuracy_drop: Annotated[
        Optional[float],
        typer.Option(help="Share of top-1 that may be lost; layers are kept higher, or the export fails."),
    ] = None,
    adapter: Annotated[Optional[Path], typer.Option(help="LoRA adapter to merge, a folder of PEFT's.")] = None,
    soup: Annotated[Optional[list[Path]], typer.Option(help="Average with this checkpoint; may be repeated.")] = None,
    soup_method: Annotated[SoupMethod, typer.Option(help="All, or those that lose nothing.")] = SoupMethod.greedy,
    screen: Annotated[
        Optional[bool],
        typer.Option(help="Give an fp32 head a coarse copy, which greedy decoding reads; large ones get it unasked."),
    ] = None,
    gpu: Annotated[Optional[str], typer.Option(help="GPU that must run it: orin-nano, thor, sm87, ...")] = None,
    labels: Annotated[Optional[Path], typer.Option(help="Class names to store: text, CSV, JSON, TOML.")] = None,
    image_size: Annotated[Optional[str], typer.Option(help="WxH: resize to at most so many pixels.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Turn a checkpoint into a bundle for one target, and prove it against the original."""
    from fgr_edge.runtime.inspection import summary

    with extra("export"):
        from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

        path = export_checkpoint(
            ExportConfig(
                model,
                output,
                target,
                precision,
                vision=vision,
                decoder=decoder,
                head=head,
                method=method,
                calib=calib,
                calib_pictures=calib_pictures,
                proof=proof,
                proof_pictures=proof_pictures,
                max_accuracy_drop=max_accuracy_drop,
                adapter=adapter,
                soup=tuple(soup or ()),
                soup_method=soup_method.value,
                screened=screen,
                gpu=gpu,
                labels=labels,
                image_size=parse_image_size(image_size),
                force=force,
            )
        )
    print(summary(path))


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of "WxH"."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is no size; expected WxH, for example 640x480", param_hint="--image-size")
    return int(parts[0]), int(parts[1])
