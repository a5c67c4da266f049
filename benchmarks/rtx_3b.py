"""Engines of TensorRT-RTX for the whole 3B model, built on a machine without a GPU: memory, time, size.

In: a checkpoint of that shape; without one, random weights (8.1 GB) are written. Out: a table, then one line of JSON.
Every build is a process of its own, all graphs one after another, for rtx-40, as `fgr-edge build --gpu rtx-40` does:
with a profile each for prompts and single tokens, and with one for both (`--one-profile`). Its memory is the kernel's:
the high-water mark of what is resident, mapped weights counted, and the most that is its own (RssAnon, sampled), which
no cache can give back. A build that leaves the machine less than 1.5 GB is ended, and what it had is noted.

    python -m benchmarks.rtx_3b --checkpoint DIR [--folder out/rtx-3b] [--precision fp16 ...] [--profiles one|two ...]
                                [--json FILE]

What is in FILE already and is not measured again stays. Needs tensorrt-rtx and a disk with three times the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.memory_plan import ROOMY, facts_of
from benchmarks.random_checkpoint import QWEN_3B
from benchmarks.report import cell, gibibytes, publish, table
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.memory.plan import plan_memory

PRECISIONS = ("fp16", "int8", "int4")
PROFILES = ("one", "two")
LEFT_BYTES = 1_500_000_000
SAMPLE_S = 0.1
GPU = "rtx-40"
COMMAND = "from fgr_edge.cli import main; main()"


@dataclass(frozen=True, slots=True)
class Watched:
    """A process that was watched to its end.

    Attributes:
        finished: whether it ended by itself, and well.
        peak_bytes, own_bytes: of resident memory, and of that which is no mapped file.
        output: what it printed.
    """

    finished: bool
    peak_bytes: int
    own_bytes: int
    seconds: float
    output: str


def watched(command: Sequence[str]) -> Watched:
    """Run a command, and end it where it leaves too little memory to the machine."""
    peak, own, started = 0, 0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            now = status(f"/proc/{process.pid}/status")
            peak, own = max(peak, now.get("VmHWM", 0)), max(own, now.get("RssAnon", 0))
            if status("/proc/meminfo")["MemAvailable"] < LEFT_BYTES:
                process.kill()
            time.sleep(SAMPLE_S)
        output = process.stdout.read() if process.stdout is not None else ""
    return Watched(process.returncode == 0, peak, own, round(time.perf_counter() - started, 1), output)


def status(path: str) -> dict[str, int]:
    """Bytes by name, of a file of /proc; empty where it is gone."""
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[2:] == ["kB"]}


def bundle_of(checkpoint: Path, precision: str, folder: Path) -> Path:
    """The bundle for pictures of 640 x 480, unless it is there; int4 is rounded to nearest."""
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    path = folder / f"{checkpoint.name}-{precision}"
    if not (path / "manifest.json").exists():
        method = "nearest" if precision == "int4" else None
        options = ExportConfig(
            checkpoint, path, "tensorrt-rtx", precision, method=method, image_size=(640, 480), proof=False, quiet=True
        )
        export_checkpoint(options)
    return path


def build(bundle: Path, precision: str, profiles: str) -> dict[str, Any]:
    """Build all engines, and remove them."""
    options = ["--gpu", GPU, "--force", "--json", *(["--one-profile"] if profiles == "one" else [])]
    found = watched([sys.executable, "-c", COMMAND, "build", str(bundle), *options])
    files = Bundle.open(bundle).manifest["files"]
    row: dict[str, Any] = {
        "precision": precision,
        "profiles": profiles,
        "finished": found.finished,
        "note": None,
        "weight_bytes": {name: files[f"{name}.onnx.data"]["size"] for name in ("vision", "decoder", "head")},
        "engine_bytes": None,
        "peak_bytes": found.peak_bytes,
        "own_bytes": found.own_bytes,
        "predicted_bytes": None,
        "wall_s": found.seconds,
    }
    if found.finished:
        engines = json.loads(found.output)["record"]["engines"]
        row["engine_bytes"] = {name: engine["size_bytes"] for name, engine in engines.items()}
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    return row


def predicted(row: dict[str, Any]) -> int:
    """By the memory plan."""
    scheme = {"int4": "int4-128"}.get(row["precision"], row["precision"])
    stored = {f"{name}_bytes": size for name, size in row["weight_bytes"].items()}
    facts = replace(facts_of(QWEN_3B, "tensorrt-rtx", scheme), one_profile=row["profiles"] == "one", **stored)
    return plan_memory(facts, ROOMY).build_bytes


def show(rows: Sequence[dict[str, Any]]) -> None:
    """For a person."""
    cells = [
        (
            f"{row['precision']}, {row['profiles']}",
            *("-" if row[name] is None else gibibytes(row[name]) for name in ("peak_bytes", "own_bytes")),
            gibibytes(sum(row["weight_bytes"].values())),
            "ended" if row["engine_bytes"] is None else gibibytes(sum(row["engine_bytes"].values())),
            cell(row["wall_s"], 0, " s"),
        )
        for row in rows
    ]
    print(table(("3B shape, profiles", "peak", "its own", "weights", "engines", "wall"), cells))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("out/rtx-3b"), help="for bundles; each removed when done")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--profiles", choices=PROFILES, action="append")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    given = parser.parse_args()
    known = json.loads(given.json.read_text())["rows"] if given.json is not None and given.json.exists() else []
    rows = {(row["precision"], row["profiles"]): row for row in known}
    for precision in given.precision or PRECISIONS:
        bundle = bundle_of(given.checkpoint, precision, given.folder)
        for profiles in given.profiles or PROFILES:
            rows[precision, profiles] = build(bundle, precision, profiles)
            found = [rows[key] for key in sorted(rows, key=lambda key: (PRECISIONS.index(key[0]), key[1]))]
            for row in found:  # of those measured earlier, too: the plan may be another
                row["predicted_bytes"] = predicted(row)
            show(found)
            publish({"benchmark": "rtx_3b", "gpu": GPU, "rows": found, "machine": describe_machine()}, given.json)
        shutil.rmtree(bundle)


if __name__ == "__main__":
    main()
