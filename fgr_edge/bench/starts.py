"""Cold start and peak memory, from fresh processes: what a device pays before its first answer.

In: a bundle, a picture, how often. Out: `ColdStart` and `Memory`. Nothing of the bundle is open here meanwhile. Before
an uncached start the bundle's files are put out of the page cache (posix_fadvise), which needs no rights; Python's own
files stay in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgr_edge.bench.child import run_child
from fgr_edge.bench.document import ColdStart, Memory, Starts
from fgr_edge.bench.spread import rounded, spread
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.prompt import Mode

PROGRAM = "fgr_edge.bench.first_answer"
CACHE_SLOTS = 256  # the decoder's cache grows in steps of this many tokens


@dataclass(frozen=True, slots=True)
class Start:
    """One process; the parts as `first_answer` measures them."""

    first_answer_ms: float
    import_ms: float
    open_ms: float
    answer_ms: float
    tokens: int
    peak_bytes: int | None
    anonymous_bytes: int | None
    disk_read_bytes: int


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts processes that answer `picture` once; options as for the recognizer."""

    bundle: Bundle
    picture: Path
    labels: Path | None
    device: str | None
    threads: int | None
    think_budget: int | None

    def start(self, mode: Mode, *, uncached: bool = False) -> Start:
        """One fresh process.

        Raises:
            EngineError: it failed.
        """
        options: dict[str, Any] = {
            "labels": None if self.labels is None else str(self.labels),
            "mode": mode,
            "device": self.device,
            "threads": self.threads,
            "think_budget": self.think_budget if mode == "reason" else None,
        }
        if uncached:
            put_out_of_cache(self.bundle)
        run = run_child(
            [sys.executable, "-m", PROGRAM, str(self.bundle.path), str(self.picture), json.dumps(options)],
            sample_memory=False,
        )
        found = json.loads(run.stdout.splitlines()[0])
        return Start(first_answer_ms=run.first_line_ms, disk_read_bytes=run.disk_read_bytes, **found)


def measure_starts(
    starter: Starter, count: int, modes: Sequence[Mode], step: Callable[[], None]
) -> tuple[ColdStart, Memory]:
    """Start `count` processes of each kind, in turns; of modes other than direct one process each, for its memory.

    Args:
        step: called after each process.
    """
    if count == 0:
        asked = "--starts 0 was asked for"
        return (
            ColdStart(cached=None, uncached=None, not_measured=asked),
            Memory(peak_bytes={}, anonymous_bytes={}, cache_bytes={}, over_weights={}, not_measured=asked),
        )

    def start(mode: Mode, uncached: bool) -> Start:
        found = starter.start(mode, uncached=uncached)
        step()
        return found

    can_evict = hasattr(os, "posix_fadvise")
    start("direct", False)  # fills the page cache
    cached, uncached = [], []
    for _ in range(count):
        cached.append(start("direct", False))
        if can_evict:
            uncached.append(start("direct", True))
    by_mode: dict[str, Start] = {"direct": cached[-1]}
    by_mode |= {mode: start(mode, False) for mode in modes if mode != "direct"}
    reason = None if can_evict else "uncached: this system has no posix_fadvise"
    cold = ColdStart(cached=_starts(cached), uncached=_starts(uncached) if uncached else None, not_measured=reason)
    return cold, _memory(starter.bundle, by_mode)


def put_out_of_cache(bundle: Bundle) -> None:
    """Ask the kernel to drop the bundle's pages; those that another process maps stay."""
    for name in bundle.manifest["files"]:
        with open(bundle.file(name), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def processes(count: int, modes: Sequence[Mode]) -> int:
    """How many `measure_starts` starts."""
    per_round = 2 if hasattr(os, "posix_fadvise") else 1
    return 0 if count == 0 else 1 + count * per_round + sum(mode != "direct" for mode in modes)


def _starts(runs: Sequence[Start]) -> Starts:
    return Starts(
        first_answer_ms=spread([run.first_answer_ms for run in runs]),
        import_ms=spread([run.import_ms for run in runs]),
        open_ms=spread([run.open_ms for run in runs]),
        answer_ms=spread([run.answer_ms for run in runs]),
        disk_read_bytes=max(run.disk_read_bytes for run in runs),
    )


def _memory(bundle: Bundle, runs: dict[str, Start]) -> Memory:
    peaks = {mode: run.peak_bytes for mode, run in runs.items() if run.peak_bytes is not None}
    cache = {mode: _cache_bytes(bundle, run.tokens) for mode, run in runs.items()}
    weights = weight_bytes(bundle)
    return Memory(
        peak_bytes=peaks,
        anonymous_bytes={mode: run.anonymous_bytes for mode, run in runs.items() if run.anonymous_bytes is not None},
        cache_bytes=cache,
        over_weights={mode: rounded(peak / (weights + cache[mode])) for mode, peak in peaks.items()},
        not_measured=None if peaks else "/proc/self/status has no VmHWM on this system",
    )


def weight_bytes(bundle: Bundle) -> int:
    """Of all graphs and the embedding table, as stored."""
    files = bundle.manifest["files"]
    return sum(entry["size"] for name, entry in files.items() if name == "embedding.bin" or ".onnx" in name)


def _cache_bytes(bundle: Bundle, tokens: int) -> int:
    """Of the slots that hold so many tokens."""
    decoder = bundle.manifest["decoder"]
    per_token = 2 * decoder["layers"] * decoder["kv_heads"] * decoder["head_dim"]
    slots = -(-tokens // CACHE_SLOTS) * CACHE_SLOTS
    return slots * per_token * (2 if decoder["cache_dtype"] == "float16" else 4)
