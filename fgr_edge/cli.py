"""The `fgr-edge` command: verbs only. Each parses its options, calls one function and prints.

Results go to stdout, logs and progress to stderr. Exit 0 done, 1 a known failure, 2 usage.
"""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from fgr_edge.errors import FgrEdgeError, ImageError

if TYPE_CHECKING:
    from fgr_edge.runtime.prediction import Prediction

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-grained recognition with a multimodal LLM, compiled for the edge.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train a checkpoint with a recipe.")
app.add_typer(train_app, name="train")


class Mode(str, Enum):
    """How to answer."""

    direct = "direct"
    reason = "reason"


class Protocol(str, Enum):
    """What is asked of each photograph."""

    closed_4 = "closed-4"
    closed_all = "closed-all"
    open = "open"


class SoupMethod(str, Enum):
    """Which checkpoints go into a soup."""

    uniform = "uniform"
    greedy = "greedy"


class Device(str, Enum):
    """Where ONNX Runtime runs the graphs."""

    cpu = "cpu"
    cuda = "cuda"


class CalibratedMode(str, Enum):
    """Which modes to calibrate."""

    direct = "direct"
    reason = "reason"
    both = "both"


def main() -> None:
    """Entry point: known failures are one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except FgrEdgeError as error:
        print(f"fgr-edge: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each stage.")] = False,
) -> None:
    """Fine-grained recognition with a multimodal LLM, compiled for the edge."""
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    if version:
        from fgr_edge import __version__

        print(__version__)
        raise typer.Exit


# typer reads annotations at run time, and on Python 3.10 needs Optional spelled out.
@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or a hub id owner/name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle.")],
    target: Annotated[str, typer.Option(help="cpu, cuda, tensorrt or tensorrt-rtx.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, int4, w8a8 or fp8.")] = "int8",
    vision: Annotated[Optional[str], typer.Option(help="Scheme of the vision tower alone.")] = None,  # noqa: UP045
    decoder: Annotated[Optional[str], typer.Option(help="Scheme of the decoder's layers alone.")] = None,  # noqa: UP045
    head: Annotated[Optional[str], typer.Option(help="Scheme of the output projection alone.")] = None,  # noqa: UP045
    method: Annotated[Optional[str], typer.Option(help="nearest, awq, gptq or smoothquant.")] = None,  # noqa: UP045
    calib: Annotated[Optional[Path], typer.Option(help="Labelled photographs to calibrate and measure on.")] = None,  # noqa: UP045
    calib_pictures: Annotated[int, typer.Option(help="Calibrate on so many of them.")] = 96,
    proof: Annotated[bool, typer.Option(help="Measure the bundle against the original.")] = True,
    proof_pictures: Annotated[int, typer.Option(help="Measure on so many photographs at most.")] = 240,
    max_accuracy_drop: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Share of top-1 that may be lost; layers are kept higher, or the export fails."),
    ] = None,
    adapter: Annotated[Optional[Path], typer.Option(help="LoRA adapter to merge, a folder of PEFT's.")] = None,  # noqa: UP045
    soup: Annotated[Optional[list[Path]], typer.Option(help="Average with this checkpoint; may be repeated.")] = None,  # noqa: UP045
    soup_method: Annotated[SoupMethod, typer.Option(help="All, or those that lose nothing.")] = SoupMethod.greedy,
    screen: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="Give an fp32 head a coarse copy, which greedy decoding reads; large ones get it unasked."),
    ] = None,
    gpu: Annotated[Optional[str], typer.Option(help="GPU that must run it: orin-nano, thor, sm87, ...")] = None,  # noqa: UP045
    labels: Annotated[Optional[Path], typer.Option(help="Class names to store: text, CSV, JSON, TOML.")] = None,  # noqa: UP045
    image_size: Annotated[Optional[str], typer.Option(help="WxH: resize to at most so many pixels.")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Turn a checkpoint into a bundle for one target, and prove it against the original."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
    from fgr_edge.runtime.inspection import summary

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
            image_size=_image_size(image_size),
            force=force,
        )
    )
    print(summary(path))


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what is inside a bundle and how large it is."""
    from fgr_edge.runtime.inspection import describe, summary

    if json:
        _print_json(describe(bundle))
    else:
        print(summary(bundle))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Labelled photographs, to repeat the accuracy: folder per class, CSV, TSV, JSONL, Grocery split."
        ),
    ] = None,
    images: Annotated[Optional[Path], typer.Option(help="Folder that the paths of a list start from.")] = None,  # noqa: UP045
    device: Annotated[Optional[Device], typer.Option(help="Run elsewhere than on the bundle's target.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,  # noqa: UP045
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
        _print_json(report)
    else:
        print(table(report))
    if not report["passed"]:
        raise typer.Exit(1)


@app.command()
def recognize(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    images: Annotated[list[str], typer.Argument(help="Pictures, folders of pictures, or - for stdin.")],
    labels: Annotated[Optional[Path], typer.Option(help="Class names: text, CSV, JSON or TOML.")] = None,  # noqa: UP045
    mode: Annotated[Mode, typer.Option(help="Name at once, or think first.")] = Mode.direct,
    question: Annotated[Optional[str], typer.Option(help="Asked instead of the bundle's own.")] = None,  # noqa: UP045
    think_budget: Annotated[Optional[int], typer.Option(help="Close the thought at so many tokens.")] = None,  # noqa: UP045
    top_k: Annotated[int, typer.Option(help="Show so many labels.", min=1)] = 1,
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,  # noqa: UP045
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recognise pictures."""
    from fgr_edge.runtime.recognizer import Recognizer
    from fgr_edge.runtime.sources import pictures

    named = list(pictures(images))  # a folder without pictures is found before the model is loaded
    recognizer = Recognizer(bundle, labels, threads=threads)
    documents: list[dict[str, object]] = []
    if not json:
        print(f"{'picture':<40}  {'answer':<28}  {'p':>6}  {'time':>11}")
    for name, picture in named:
        try:
            found = recognizer(picture, mode=mode.value, question=question, think_budget=think_budget, top_k=top_k)
        except ImageError as error:
            # One bad picture does not cost the others their answers.
            message = str(error) if name in str(error) else f"{name}: {error}"
            documents.append({"image": name, "error": message})
            print(f"fgr-edge: {message}", file=sys.stderr)
            continue
        documents.append({"image": name, **found.to_json()})
        if not json:
            print(_answer(name, found, top_k), flush=True)
    if json:
        _print_json(documents)
    if any("error" in document for document in documents):
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Folder per class, CSV, TSV or JSONL list, or Grocery split.")],
    protocol: Annotated[Protocol, typer.Option(help="Four options, all classes, or a free answer.")],
    labels: Annotated[Optional[Path], typer.Option(help="Class names, instead of the bundle's.")] = None,  # noqa: UP045
    mode: Annotated[Mode, typer.Option(help="Score names at once, or after a thought.")] = Mode.direct,
    limit: Annotated[Optional[int], typer.Option(help="Ask about so many photographs, drawn.", min=1)] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of the draw and of the options.", min=0)] = 0,
    images: Annotated[Optional[Path], typer.Option(help="Folder that the paths of a list start from.")] = None,  # noqa: UP045
    text_encoder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of model.onnx and tokenizer.json, for relative similarity."),
    ] = None,
    report: Annotated[Optional[Path], typer.Option(help="Folder for results.json and report.html.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,  # noqa: UP045
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
        _print_json(done.document)
    else:
        print(table(done.document))


@app.command("calibrate-labels")
def calibrate_labels(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle; the result is stored in it.")],
    data: Annotated[
        Path, typer.Argument(help="Labelled photographs: folder per class, CSV, TSV, JSONL, Grocery split.")
    ],
    mode: Annotated[CalibratedMode, typer.Option(help="Mode to calibrate.")] = CalibratedMode.direct,
    risk: Annotated[float, typer.Option(help="Largest share of wrong answers among those given.")] = 0.05,
    labels: Annotated[Optional[Path], typer.Option(help="Class names; they become the bundle's.")] = None,  # noqa: UP045
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Classes may lack photographs.")] = False,
    independent: Annotated[
        bool, typer.Option("--independent", help="Photographs of a class are of different times and places.")
    ] = False,
    report: Annotated[Optional[Path], typer.Option(help="Folder for report.json and report.html.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(help="Threads of one operator.", min=1)] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Replace a calibration that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit probabilities and the threshold for an answer on labelled photographs."""
    from fgr_edge.calibrate.confidence_page import write_report
    from fgr_edge.calibrate.confidence_table import table
    from fgr_edge.calibrate.label_calibration import CalibrationConfig
    from fgr_edge.calibrate.label_calibration import calibrate_labels as run
    from fgr_edge.evaluate.figures import require_matplotlib
    from fgr_edge.export.progress import progress_bar

    if report is not None:
        require_matplotlib()
    modes: dict[str, tuple[Literal["direct", "reason"], ...]]
    modes = {"direct": ("direct",), "reason": ("reason",), "both": ("direct", "reason")}
    config = CalibrationConfig(
        bundle,
        data,
        modes[mode.value],
        risk,
        labels=labels,
        allow_missing=allow_missing,
        independent=independent,
        force=force,
        threads=threads,
    )
    done = run(config, progress_bar)
    if report is not None:
        for path in write_report(done, report):
            print(f"wrote {path}", file=sys.stderr)
    if json:
        _print_json(done)
    else:
        print(table(done))


@train_app.command("sft")
def train_sft(config: Annotated[Path, typer.Argument(help="Recipe, a TOML file.")]) -> None:
    """Supervised fine-tuning: vision warm-up, then text, as the recipe says."""
    from fgr_edge.training.sft import run

    print(run(config))


def _answer(name: str, found: Prediction, top_k: int) -> str:
    """One picture's line, its other labels and its reasoning below."""
    label = found.label
    if label is None:
        label = {"outlier": "none of these", "unsure": "(unsure)", None: "(no answer)"}[found.abstained_because]
    elif found.level:
        label = f"{label} (any)"
    share = "" if found.probability is None else f"{found.probability:6.3f}"
    short = name if len(name) <= 40 else f"…{name[-39:]}"
    lines = [f"{short:<40}  {label:<28}  {share:>6}  {found.timings.total_ms:8.1f} ms"]
    others = found.top_k[:top_k] if found.abstained or found.level else found.top_k[1:top_k]
    lines += [f"{'':<40}  {other:<28}  {p:6.3f}" for other, p in others if top_k > 1]
    if found.reasoning:
        lines += [f"    {line}" for line in found.reasoning.splitlines()]
    return "\n".join(lines)


def _image_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is no size; expected WxH, for example 640x480", param_hint="--image-size")
    return int(parts[0]), int(parts[1])


def _print_json(document: object) -> None:
    import json

    print(json.dumps(document, ensure_ascii=False, indent=2))
