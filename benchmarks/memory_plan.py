"""`inspect --plan` against what processes really took: predicted and measured bytes, and their quotient.

In: checkpoints. Out: a table, then one line of JSON. Every measurement is a process of its own, its peak the kernel's
high-water mark (VmHWM), mapped files counted.

run    a bundle for the CPU, opened, asked twice about each of two pictures of 640 x 480, with a thought: what the plan
       says of the longest sequence that this leaves room for.
build  engines of TensorRT-RTX, built for rtx-40 without a GPU, all graphs of a bundle one after another in one process;
       left out where tensorrt-rtx is not installed.
3b     what `export_3b.json` and `decode_3b.json` recorded, against the plan of a bundle of that shape.

    python -m benchmarks.memory_plan [--checkpoint models/nano ...] [--folder out/memory-plan] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.random_checkpoint import QWEN_3B, Shape
from benchmarks.report import publish, table
from fgr_edge.bench.child import run_child
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.memory.devices import PlanDevice
from fgr_edge.runtime.memory.facts import BYTES_PER_WEIGHT, MemoryFacts, Target, read_facts
from fgr_edge.runtime.memory.plan import plan_memory

RESULTS = Path(__file__).resolve().parent / "results"
ROOMY = PlanDevice("roomy", 1 << 44, 0, "nothing", shared=True)
PIXELS = 640 * 480
NEW_TOKENS = 32
RUN_PRECISIONS = ("fp32", "int8", "int4")
BUILD_PRECISIONS = ("fp16", "int8", "int4")

ANSWER = """
import sys
from fgr_edge import Recognizer
from fgr_edge.runtime.sampling import SamplingConfig
recognizer = Recognizer(sys.argv[1], threads=2)
for _ in range(2):
    for picture in sys.argv[2:]:
        recognizer(picture, mode="reason", sampling=SamplingConfig(max_new_tokens=32))
"""
BUILD = """
import sys
from pathlib import Path
from fgr_edge.export.engine_build import BuildConfig, build_engines
build_engines(BuildConfig(Path(sys.argv[1]), gpus=("rtx-40",), force=True, quiet=True))
"""


def export(checkpoint: Path, target: str, precision: str, folder: Path) -> Path:
    """A bundle, unless it is there; int4 is rounded to nearest."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    path = folder / f"{checkpoint.name}-{target}-{precision}"
    if not (path / "manifest.json").exists():
        method = "nearest" if precision == "int4" else None
        config = ExportConfig(
            checkpoint, path, target, precision, method=method, image_size=(640, 480), proof=False, quiet=True
        )
        export_checkpoint(config)
    return path


def runs(checkpoint: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Bundles for the CPU."""
    pictures = [str(write_picture(folder / f"picture-{number}.jpg")) for number in range(2)]
    for precision in RUN_PRECISIONS:
        bundle = export(checkpoint, "cpu", precision, folder)
        measured = run_child([sys.executable, "-c", ANSWER, str(bundle), *pictures]).peak_bytes
        facts = read_facts(Bundle.open(bundle).manifest, pixels=PIXELS)
        facts = replace(facts, tokens=min(facts.tokens, facts.prompt_tokens + NEW_TOKENS), branches=0)
        yield row(f"{checkpoint.name}, {precision}, answer", plan_memory(facts, ROOMY).run_bytes, measured)


def builds(checkpoint: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Engines of TensorRT-RTX."""
    for precision in BUILD_PRECISIONS:
        bundle = export(checkpoint, "tensorrt-rtx", precision, folder)
        measured = run_child([sys.executable, "-c", BUILD, str(bundle)]).peak_bytes
        predicted = plan_memory(read_facts(Bundle.open(bundle).manifest), ROOMY).build_bytes
        yield row(f"{checkpoint.name}, {precision}, TensorRT-RTX build", predicted, measured)


def recorded() -> Iterator[dict[str, Any]]:
    """The 3B shape, measured by other benchmarks."""
    for name, part, precision in (("export_3b", "answer", "int8"), ("decode_3b", "memory", "int4-128")):
        path = RESULTS / f"{name}.json"
        if path.exists():
            measured = json.loads(path.read_text(encoding="utf-8"))[part]["peak_bytes"]
            predicted = plan_memory(facts_of(QWEN_3B, "cpu", precision), ROOMY).run_bytes
            yield row(f"qwen2.5-vl-3b, {precision}, answer ({name}.json)", predicted, measured)


def facts_of(shape: Shape, target: Target, scheme: str, *, tokens: int = 512) -> MemoryFacts:
    """What a bundle of a shape would say, asked about pictures of 640 x 480; vision is int8 beside int4."""
    schemes = {"vision": "int8" if scheme.startswith("int4") else scheme, "decoder": scheme, "head": scheme}
    on_cpu = target == "cpu"
    facts = MemoryFacts(
        target=target, precision=schemes,
        layers=shape.layers, hidden=shape.hidden, heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
        intermediate=shape.intermediate, vocab=shape.vocab,
        vision_depth=shape.vision_depth, vision_hidden=shape.vision_hidden, vision_heads=shape.vision_heads,
        vision_intermediate=shape.vision_intermediate, windowed=True,
        patch_px=shape.patch, patch_inputs=3 * shape.temporal_patch * shape.patch**2, merge=shape.merge,
        vision_bytes=0, decoder_bytes=0, head_bytes=0, screen_bytes=0, head_inside=on_cpu, tokenizer_bytes=5_969_026,
        cache_bytes=4 if on_cpu else 2, working_bytes=4 if on_cpu else 2, decomposed=False,
        pixels=PIXELS, tokens=tokens, branches=0,
    )  # fmt: skip
    vision = round(facts.weights("vision") * BYTES_PER_WEIGHT[schemes["vision"]])
    body, head = (round(facts.weights(part) * BYTES_PER_WEIGHT[scheme]) for part in ("decoder", "head"))
    inside: dict[str, Any] = {"decoder_bytes": body + head} if on_cpu else {"decoder_bytes": body, "head_bytes": head}
    return replace(facts, vision_bytes=vision, **inside)


def row(what: str, predicted: int, measured: int | None) -> dict[str, Any]:
    """One comparison; the quotient is null where nothing was measured."""
    ratio = None if not measured else round(predicted / measured, 3)
    return {"what": what, "predicted_bytes": predicted, "measured_bytes": measured, "ratio": ratio}


def show(rows: list[dict[str, Any]]) -> None:
    """For a person."""
    cells = [
        (r["what"], f"{r['predicted_bytes'] / 1e6:.1f}", f"{(r['measured_bytes'] or 0) / 1e6:.1f}", str(r["ratio"]))
        for r in rows
    ]
    print(table(("MB", "predicted", "measured", "quotient"), cells))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, action="append", help="may be repeated; models/nano without it")
    parser.add_argument("--folder", type=Path, default=Path("out/memory-plan"), help="for bundles; left there")
    parser.add_argument("--no-build", action="store_true", help="leave TensorRT-RTX out")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    can_build = find_spec("tensorrt_rtx") is not None and not options.no_build
    rows: list[dict[str, Any]] = []
    for checkpoint in options.checkpoint or [Path("models/nano")]:
        rows += runs(checkpoint, options.folder)
        rows += builds(checkpoint, options.folder) if can_build else []
    rows += recorded()
    document = {
        "benchmark": "memory_plan",
        "picture": {"width_px": 640, "height_px": 480},
        "rows": rows,
        "not_measured": None if can_build else "tensorrt-rtx is not installed, or was left out: no builds",
        "machine": describe_machine(),
    }
    show(rows)
    publish(document, options.json)


if __name__ == "__main__":
    main()
