"""What reading a prompt in chunks costs and saves: milliseconds, working memory, difference of the logits.

In: a bundle. Each length of chunk runs in a process of its own, several rounds in turns: it opens the decoder, makes
room, reads a prompt of random tokens once to warm up and then `--repeats` times. Working memory is what the peak of the
process's own memory grows by from when weights and cache are there (VmHWM is reset by writing to clear_refs).

    python benchmarks/prefill_chunks.py BUNDLE [--prompts 512 1024 2048] [--chunks 128 256 512 1024] [--rounds 3]
                                        [--repeats 3] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.report import publish, ratio, table
from benchmarks.speculation_rows import CHUNK_HEAD, chunk_rows

CHILD = "--child"
KEPT_LOGITS = 2000  # compared, spread over the vocabulary


def read_once(bundle: Path, prompt: int, chunk: int | None, repeats: int, threads: int) -> dict[str, Any]:
    """In the child: milliseconds of each reading, bytes, and some logits."""
    from fgr_edge import Recognizer

    recognizer = Recognizer(bundle, threads=threads)
    decoder = recognizer.model.decoder
    ids = np.random.default_rng(0).integers(0, decoder.spec.vocab, prompt)
    embeds, positions = recognizer.model.embedding.gather(ids), np.tile(np.arange(prompt), (3, 1))
    decoder.prefill(embeds[:2], positions[:, :2], max_new_tokens=prompt)  # weights packed, cache allocated
    decoder.chunk_tokens = chunk or prompt
    before = reset_peak()
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        logits = decoder.prefill(embeds, positions, max_new_tokens=1)
        times.append((time.perf_counter() - start) * 1e3)
    after = peak_bytes()
    return {
        "ms": times[1:],
        "working_bytes": None if before is None or after is None else after - before,
        "logits": logits[:: max(1, len(logits) // KEPT_LOGITS)].astype(float).tolist(),
    }


def reset_peak() -> int | None:
    """Start the kernel's high-water mark anew; where it stands, null where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return peak_bytes()


def peak_bytes() -> int | None:
    """High-water mark of this process's resident memory."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def in_child(given: argparse.Namespace, prompt: int, chunk: int | None) -> dict[str, Any]:
    """Run `read_once` in a process of its own."""
    values = [str(given.bundle), str(prompt), str(chunk or 0), str(given.repeats), str(given.threads)]
    done = subprocess.run([sys.executable, __file__, CHILD, *values], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(given: argparse.Namespace, prompt: int) -> dict[str, Any]:
    """Every length of chunk for one length of prompt, in turns."""
    chunks: list[int | None] = [None, *(chunk for chunk in given.chunks if chunk < prompt)]
    runs: dict[int | None, list[dict[str, Any]]] = {chunk: [] for chunk in chunks}
    for number in range(given.rounds):
        turn = number % len(chunks)
        for chunk in (*chunks[turn:], *chunks[:turn]):
            runs[chunk].append(in_child(given, prompt, chunk))
    whole = statistics.median(ms for run in runs[None] for ms in run["ms"])
    expected = np.array(runs[None][0]["logits"])
    rows = []
    for chunk, done in runs.items():
        ms = statistics.median(ms for run in done for ms in run["ms"])
        working = [run["working_bytes"] for run in done if run["working_bytes"] is not None]
        difference = np.abs(np.array(done[0]["logits"]) - expected).max() / np.abs(expected).max()
        rows.append(
            {
                "chunk_tokens": chunk,
                "prefill_ms": round(ms, 2),
                "of_whole": ratio(ms, whole),
                "working_bytes": int(statistics.median(working)) if working else None,
                "difference": None if chunk is None else float(difference),
            }
        )
    return {"prompt_tokens": prompt, "chunks": rows}


def main() -> None:
    if sys.argv[1:2] == [CHILD]:
        bundle, prompt, chunk, repeats, threads = sys.argv[2:]
        print(json.dumps(read_once(Path(bundle), int(prompt), int(chunk) or None, int(repeats), int(threads))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompts", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--chunks", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    document = {
        "benchmark": "prefill_chunks",
        "machine": describe_machine(),
        "bundle": given.bundle.name,
        "prompts": [measure(given, prompt) for prompt in given.prompts],
    }
    print(table(CHUNK_HEAD, chunk_rows([document])), end="\n\n")
    publish(document, given.json)


if __name__ == "__main__":
    main()
