"""Export of a checkpoint shaped as Qwen2.5-VL-3B to int8, and a picture answered from the bundle: time and memory.

In: nothing but a disk with 13 GB free. Out: a table, then one line of JSON. Each step is a process of its own.

1. A random checkpoint (two bfloat16 shards, 8.1 GB) is written by `random_checkpoint.py`, unless it is there.
2. `export_checkpoint` to int8: wall time, peak resident memory (high-water mark, mapped pages counted), bundle size.
3. `Recognizer` on the bundle: time to open, first token, `--new-tokens` tokens of free text, a name among four labels.

    python benchmarks/export_3b.py --tokenizer FILE [--shape qwen2.5-vl-3b] [--folder out/3b] [--keep] [--json FILE]

What was written is removed at the end without `--keep`; a checkpoint that was there before stays.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.child import ChildRun, run_child
from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.random_checkpoint import SHAPES, write_checkpoint
from benchmarks.report import publish, ratio, table

EXPORT = """
import sys
from pathlib import Path
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
config = ExportConfig(sys.argv[1], Path(sys.argv[2]), "cpu", "int8", proof=False, force=True, quiet=True)
print(export_checkpoint(config))
"""
ANSWER = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
from benchmarks.peers.fgr_edge import FgrEdge
from fgr_edge import Recognizer
imported = time.perf_counter()
bundle, picture, threads, new_tokens = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
peer = FgrEdge(Path(bundle), "", threads, new_tokens)
opened = time.perf_counter()
first = peer.first_token(picture)
again = peer.first_token(picture)
decoded = peer.decode(new_tokens)
del peer
named = Recognizer(bundle, ["Royal Gala", "Pink Lady", "Granny Smith", "Golden Delicious"], threads=threads)(picture)
print(json.dumps({
    "import_ms": (imported - start) * 1e3,
    "open_ms": (opened - imported) * 1e3,
    "first_picture_ttft_ms": first.ms,
    "ttft_ms": again.ms,
    "stages_ms": again.stages_ms,
    "prompt_tokens": len(again.prompt_ids),
    "new_tokens": len(decoded.tokens),
    "tpot_ms": decoded.ms_per_token,
    "named": named.label,
}))
"""


def export(checkpoint: Path, bundle: Path) -> dict[str, Any]:
    """Step 2."""
    run = run_child([sys.executable, "-c", EXPORT, str(checkpoint), str(bundle)])
    return {
        "checkpoint_bytes": folder_bytes(checkpoint),
        "bundle_bytes": folder_bytes(bundle),
        "export_s": round(run.wall_ms / 1e3, 1),
        **memory(run),
    }


def answer(bundle: Path, picture: Path, threads: int, new_tokens: int) -> dict[str, Any]:
    """Step 3."""
    command = [sys.executable, "-c", ANSWER, str(bundle), str(picture), str(threads), str(new_tokens)]
    run = run_child(command)
    document: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    document["decode_tokens_per_s"] = ratio(1000, document["tpot_ms"])
    return {**rounded(document), **memory(run), "disk_read_bytes": run.disk_read_bytes}


def memory(run: ChildRun) -> dict[str, int | None]:
    """Peaks of a process."""
    return {"peak_bytes": run.peak_bytes, "peak_anonymous_bytes": run.peak_anonymous_bytes}


def rounded(value: Any) -> Any:
    """Floats to a hundredth, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def folder_bytes(folder: Path) -> int:
    """Size of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(document: dict[str, Any]) -> None:
    """One row a figure."""
    machine, exported, answered = document["machine"], document["export"], document["answer"]
    print(f"machine {machine['cpu']}, {machine['cores']} cores, load {machine['load_average_1m']}\n")
    rows = [
        ("checkpoint", f"{exported['checkpoint_bytes'] / 1e9:.2f} GB"),
        ("bundle", f"{exported['bundle_bytes'] / 1e9:.2f} GB"),
        ("export", f"{exported['export_s']:.1f} s"),
        ("export, peak memory", gib(exported["peak_bytes"])),
        ("export, of that not mapped files", gib(exported["peak_anonymous_bytes"])),
        ("open", f"{answered['open_ms'] / 1e3:.2f} s"),
        (f"first token, {answered['prompt_tokens']} tokens of prompt", f"{answered['ttft_ms'] / 1e3:.2f} s"),
        ("decode", f"{answered['decode_tokens_per_s']:.2f} tokens/s"),
        ("answer, peak memory", gib(answered["peak_bytes"])),
        ("answer, of that not mapped files", gib(answered["peak_anonymous_bytes"])),
    ]
    print(table((document["shape"], "int8"), rows))


def gib(size: int | None) -> str:
    """Bytes as GiB; a dash where unknown."""
    return "-" if size is None else f"{size / 2**30:.2f} GiB"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-vl-3b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the Qwen tokenizer.json")
    parser.add_argument("--folder", type=Path, default=Path("out/3b"), help="for checkpoint and bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--keep", action="store_true", help="leave checkpoint and bundle there")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    checkpoint, bundle = options.folder / options.shape, options.folder / f"{options.shape}-int8"
    picture = write_picture(options.folder / "picture-640x480.jpg")
    made = [bundle, picture]
    machine = describe_machine()
    try:
        if not (checkpoint / "config.json").exists():
            made.append(checkpoint)
            write_checkpoint(checkpoint, SHAPES[options.shape], tokenizer=options.tokenizer)
        document = {
            "benchmark": "export",
            "shape": options.shape,
            "threads": options.threads,
            "export": export(checkpoint, bundle),
            "answer": answer(bundle, picture, options.threads, options.new_tokens),
            "machine": machine,
        }
    finally:
        if not options.keep:
            remove(made)
    show(document)
    publish(document, options.json)


def remove(paths: list[Path]) -> None:
    """Delete files and folders that this run wrote."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
