"""Several recognizers at once, each in a thread of its own: throughput, and what it does to the slowest answers.

In: how to open a recognizer, pictures, how many. Out: a `Level`. Threads are not pinned, and each recognizer has the
threads that it was given: where those are more than the cores, they compete, and the numbers say so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fgr_edge.bench.document import Level
from fgr_edge.bench.spread import rounded, spread
from fgr_edge.runtime.recognizer import Recognizer

LEVEL_S = 3.0  # each level, at least


def measure_level(
    open_recognizer: Callable[[], Recognizer],
    pictures: Sequence[Path],
    count: int,
    *,
    seconds: float = LEVEL_S,
    least: int = 5,
) -> Level:
    """`count` recognizers answer directly, all at once, for so many seconds and `least` answers each.

    Args:
        pictures: each recognizer starts at another one.
    """
    recognizers = [open_recognizer() for _ in range(count)]
    for recognizer in recognizers:
        for picture in pictures:
            recognizer(picture)  # warms up its buffers
    gate = threading.Barrier(count)

    def work(number: int) -> tuple[float, list[float], float]:
        """When it began, milliseconds of each answer, when it ended."""
        times: list[float] = []
        gate.wait()
        begun = time.perf_counter()
        while len(times) < least or time.perf_counter() < begun + seconds:
            start = time.perf_counter()
            recognizers[number](pictures[(number + len(times)) % len(pictures)])
            times.append((time.perf_counter() - start) * 1e3)
        return begun, times, time.perf_counter()

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(work, range(count)))
    wall_s = max(end for _, _, end in done) - min(begun for begun, _, _ in done)
    every = [ms for _, times, _ in done for ms in times]
    return Level(
        recognizers=count,
        seconds=rounded(wall_s),
        answers_per_s=rounded(len(every) / wall_s),
        answer_ms=spread(every),
        p99_ms_of_each=[spread(times)["p99"] or 0.0 for _, times, _ in done],
    )
