"""Work that numpy and Pillow do without holding the interpreter, spread over cores. Knows nothing of the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads(threads: int | None) -> int:
    """`threads`, or one for each usable core."""
    return usable_cores() if threads is None else max(1, threads)


def in_threads(call: Callable[[int], None], numbers: Iterable[int], threads: int) -> None:
    """`call` with each number, in so many threads; the first error is raised."""
    numbers = list(numbers)
    if threads < 2 or len(numbers) < 2:
        for number in numbers:
            call(number)
        return
    from concurrent.futures import ThreadPoolExecutor  # only large work needs it

    with ThreadPoolExecutor(min(threads, len(numbers))) as pool:
        list(pool.map(call, numbers))
