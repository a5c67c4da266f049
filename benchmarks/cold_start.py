"""From the start of a process to its first answer, and what `import fgr_edge` costs.

In: a checkpoint (nano). Out: a table, then one line of JSON. Every contender is a new process; they take turns, after
one turn that warms the page cache and is thrown away. A run is warm when the kernel read nothing from the disk for it;
those that were not are counted.

answer  the clock stops when the parent reads the answer's line: interpreter, imports, model, picture, direct answer.
        transformers: fp32, the same prompt, `generate` greedily up to 8 tokens or the stop token.
import  wall time of processes that only import, minus that of `import numpy` in the same turn.

    python benchmarks/cold_start.py [--checkpoint models/nano] [--bundle-root out] [--picture FILE] [--labels FILE]
                                    [--rounds 7] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.child import ChildRun, run_child
from benchmarks.machine import describe_machine
from benchmarks.picture import write_picture
from benchmarks.report import cell, percentiles, publish, ratio, table

BASE = "transformers fp32"
ANSWER_TOKENS = 8

OURS = """
import sys
from fgr_edge import Recognizer
print(Recognizer(sys.argv[1], threads=int(sys.argv[3]))(sys.argv[2]).text, flush=True)
"""
TRANSFORMERS = """
import sys
from pathlib import Path
from benchmarks.peers.transformers_eager import TransformersEager
peer = TransformersEager(Path(sys.argv[1]), "", int(sys.argv[3]))
print(peer.answer(Path(sys.argv[2]), int(sys.argv[4])), flush=True)
"""
IMPORTS = {
    "numpy": "import numpy",
    "fgr_edge": "import numpy, fgr_edge",
    "Recognizer": "import numpy; from fgr_edge import Recognizer",
}


def contenders(
    checkpoint: Path, bundles: Mapping[str, Path], picture: Path, labels: Path | None, threads: int
) -> dict[str, list[str]]:
    """The command of each, the one that ratios refer to first."""
    python, count = sys.executable, str(threads)
    cli = str(Path(python).parent / "fgr-edge")
    commands = {
        BASE: [python, "-c", TRANSFORMERS, str(checkpoint), str(picture), count, str(ANSWER_TOKENS)],
        **{
            f"fgr-edge {precision}": [python, "-c", OURS, str(path), str(picture), count]
            for precision, path in bundles.items()
        },
        **{
            f"fgr-edge recognize {precision}": [cli, "recognize", str(path), str(picture), "--threads", count]
            for precision, path in bundles.items()
        },
    }
    if labels is not None:
        for name in commands:
            if name.startswith("fgr-edge recognize"):
                commands[name] += ["--labels", str(labels)]
    return commands


def in_turns(commands: Mapping[str, list[str]], rounds: int, *, sample_memory: bool) -> dict[str, list[ChildRun]]:
    """Runs all commands once per round, in an order that turns; the first round is thrown away."""
    runs: dict[str, list[ChildRun]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            run = run_child(commands[name], sample_memory=sample_memory)
            if number:
                runs[name].append(run)
    return runs


def summarize(runs: Mapping[str, list[ChildRun]]) -> dict[str, Any]:
    """Percentiles of each contender, as a share of transformers' time."""
    documents: dict[str, dict[str, Any]] = {
        name: {
            "first_answer_ms": percentiles([run.first_line_ms for run in done]),
            "peak_bytes": max((run.peak_bytes for run in done if run.peak_bytes is not None), default=None),
            "cold_cache_runs": sum(run.disk_read_bytes > 0 for run in done),
            "answer": done[-1].stdout.strip().splitlines()[-1] if done[-1].stdout.strip() else None,
        }
        for name, done in runs.items()
    }
    base = documents[BASE]["first_answer_ms"]["p50"]
    for document in documents.values():
        document["ratio"] = ratio(document["first_answer_ms"]["p50"], base)
    return documents


def import_times(rounds: int) -> dict[str, Any]:
    """Milliseconds beyond `import numpy`: the median over rounds of the difference within a round."""
    commands = {name: [sys.executable, "-c", code] for name, code in IMPORTS.items()}
    runs = in_turns(commands, rounds, sample_memory=False)
    numpy = [run.wall_ms for run in runs["numpy"]]
    return {
        "numpy_ms": percentiles(numpy),
        **{
            f"{name}_beyond_numpy_ms": round(
                statistics.median(run.wall_ms - base for run, base in zip(runs[name], numpy, strict=True)), 2
            )
            for name in IMPORTS
            if name != "numpy"
        },
    }


def show(document: dict[str, Any]) -> None:
    """The machine, the table of answers, the line of imports."""
    machine = document["machine"]
    print(
        f"machine {machine['cpu']}, {machine['cores']} cores, load {machine['load_average_1m']}, "
        f"noise {machine['noise_percent']} %; {document['checkpoint']}, {document['rounds']} rounds\n"
    )
    rows = [
        (
            name,
            f"{cell(run['first_answer_ms']['p50'], 0)} ({cell(run['first_answer_ms']['p95'], 0)})",
            cell(run["ratio"], 3),
            cell(None if run["peak_bytes"] is None else run["peak_bytes"] / 1e6, 0),
            str(run["cold_cache_runs"]),
        )
        for name, run in document["contenders"].items()
    ]
    print(table(("process start to answer", "ms p50 (p95)", "x", "peak MB", "runs that read the disk"), rows))
    imports = document["imports"]
    print(
        f"\nbeyond numpy ({cell(imports['numpy_ms']['p50'])} ms): import fgr_edge "
        f"{cell(imports['fgr_edge_beyond_numpy_ms'])} ms, "
        f"with Recognizer {cell(imports['Recognizer_beyond_numpy_ms'])} ms"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("models/nano"))
    parser.add_argument("--bundle-root", type=Path, default=Path("out"))
    parser.add_argument("--picture", type=Path, help="a picture file; one of 640 x 480 is drawn without it")
    parser.add_argument("--labels", type=Path, help="class names for `fgr-edge recognize` to choose among")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    from benchmarks.latency import bundles

    picture = options.picture or write_picture(options.bundle_root / "picture-640x480.jpg")
    paths = bundles(options.checkpoint, options.bundle_root)
    machine = describe_machine()
    commands = contenders(options.checkpoint, paths, picture, options.labels, options.threads)
    answers = summarize(in_turns(commands, options.rounds, sample_memory=True))
    document = {
        "benchmark": "cold_start",
        "checkpoint": options.checkpoint.name,
        "rounds": options.rounds,
        "threads": options.threads,
        "answer_tokens_at_most": ANSWER_TOKENS,
        "answers_equal": answers[BASE]["answer"] == answers["fgr-edge fp32"]["answer"],
        "contenders": answers,
        "imports": import_times(3 * options.rounds),
        "machine": machine,
    }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
