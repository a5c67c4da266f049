"""int4 with AWQ of a checkpoint shaped as Qwen2.5-VL-3B, calibrated on pictures of 640 x 480: time and memory.

In: nothing but a disk with 25 GB free. Out: a table, then one line of JSON. Each step is a process of its own.

1. A random checkpoint (8.1 GB) is written by `random_checkpoint.py`, unless it is there.
2. It is exported to int8: what writes the thoughts, as the original in float32 would not fit into the memory allowed.
3. Calibration on `--pictures` pictures (thoughts, vision tower, decoder, scales) and the int4 bundle: time of each
   stage, peak resident memory (high-water mark, mapped pages counted) of the whole process.
4. A picture answered from the bundle, as in `export_3b.py`.

    python benchmarks/awq_3b.py --tokenizer FILE [--shape qwen2.5-vl-3b] [--folder out/3b] [--keep] [--json FILE]

Random weights never end a thought: `--thought-tokens` are always written. What was written is removed at the end
without `--keep`; a checkpoint that was there before stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import run_child
from benchmarks.export_3b import EXPORT, answer, folder_bytes, gib, memory, remove
from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.random_checkpoint import SHAPES, write_checkpoint
from benchmarks.report import publish, table

ALLOWED_BYTES = 12 * 2**30
AWQ = """
import json, sys, time
from pathlib import Path
from fgr_edge.calibrate.pictures import calibration_pictures
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.calibration import CalibrationOptions, calibrate
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.precisions import find_precision
from fgr_edge.export.targets import TARGETS
checkpoint, thinker, pictures, folder = (Path(argument) for argument in sys.argv[1:5])
model, precision = open_model(Checkpoint.open(checkpoint)), find_precision("int4", {}, "awq")
chosen = calibration_pictures(pictures, folder, count=int(sys.argv[5]))
options = CalibrationOptions(thought_tokens=int(sys.argv[6]), quiet=True)
found = calibrate(model, chosen, precision.plan(), precision.method, folder / "calibration", thinker, options)
started = time.perf_counter()
bundle = BundleOptions(str(checkpoint), model.checkpoint.digest(), quiet=True)
write_bundle(found.model, TARGETS["cpu"], found.plan, folder / "bundle", bundle, force=True)
seconds = {**found.report.pop("seconds"), "bundle": round(time.perf_counter() - started, 1)}
print(json.dumps({**found.report, "precision": found.plan.names(), "seconds": seconds}))
"""


def calibrated(
    checkpoint: Path, thinker: Path, folder: Path, pictures: Path, count: int, tokens: int
) -> dict[str, Any]:
    """Step 3."""
    arguments = [str(path) for path in (checkpoint, thinker, pictures, folder)]
    run = run_child([sys.executable, "-c", AWQ, *arguments, str(count), str(tokens)])
    document: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return {
        **document,
        "total_s": round(run.wall_ms / 1e3, 1),
        "bundle_bytes": folder_bytes(folder / "bundle"),
        "statistics_bytes": folder_bytes(folder / "calibration"),
        **memory(run),
    }


def draw_pictures(folder: Path, count: int) -> Path:
    """A list of pictures of two classes; returns its path."""
    rows = ["path,label"]
    for number in range(count):
        write_picture(folder / f"{number:02d}.jpg", seed=number)
        rows.append(f"{number:02d}.jpg,{('Royal Gala', 'Pink Lady')[number % 2]}")
    listed = folder / "pictures.csv"
    listed.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return listed


def show(document: dict[str, Any]) -> None:
    """One row a figure."""
    machine, found, answered = document["machine"], document["calibration"], document["answer"]
    print(f"machine {machine['cpu']}, {machine['cores']} cores, load {machine['load_average_1m']}\n")
    peak = found["peak_bytes"]
    rows = [
        ("pictures", f"{found['pictures']}"),
        ("tokens read by the decoder", f"{found['read_tokens']}"),
        *((f"{stage}", f"{seconds:.1f} s") for stage, seconds in found["seconds"].items()),
        ("in all", f"{found['total_s'] / 60:.1f} min"),
        ("peak memory", gib(peak)),
        ("of that not mapped files", gib(found["peak_anonymous_bytes"])),
        ("within 12 GiB", "-" if peak is None else "yes" if peak <= ALLOWED_BYTES else "no"),
        ("bundle", f"{found['bundle_bytes'] / 1e9:.2f} GB"),
        ("decode", f"{answered['decode_tokens_per_s']:.2f} tokens/s"),
    ]
    print(table((document["shape"], "int4 AWQ"), rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-vl-3b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the Qwen tokenizer.json")
    parser.add_argument("--folder", type=Path, default=Path("out/3b"), help="for checkpoint and bundles")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--thought-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="of the answer")
    parser.add_argument("--keep", action="store_true", help="leave checkpoint and bundles there")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    checkpoint, thinker = options.folder / options.shape, options.folder / f"{options.shape}-int8"
    work = options.folder / f"{options.shape}-awq"
    made = [work]
    machine = describe_machine()
    try:
        if not (checkpoint / "config.json").exists():
            made.append(checkpoint)
            write_checkpoint(checkpoint, SHAPES[options.shape], tokenizer=options.tokenizer)
        if not (thinker / "manifest.json").exists():
            made.append(thinker)
            run_child([sys.executable, "-c", EXPORT, str(checkpoint), str(thinker)])
        pictures = draw_pictures(work / "pictures", options.pictures)
        found = calibrated(checkpoint, thinker, work, pictures, options.pictures, options.thought_tokens)
        document = {
            "benchmark": "awq",
            "shape": options.shape,
            "thought_tokens": options.thought_tokens,
            "calibration": found,
            "answer": answer(work / "bundle", work / "pictures" / "00.jpg", options.threads, 32),
            "machine": machine,
        }
    finally:
        if not options.keep:
            remove(made)
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
