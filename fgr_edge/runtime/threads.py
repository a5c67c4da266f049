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
    """`call` with each number, in so many threads, this one among them; the lowest number's error is raised."""
    left = list(numbers)[::-1]
    if threads < 2 or len(left) < 2:
        for number in reversed(left):
            call(number)
        return
    from concurrent.futures import ThreadPoolExecutor  # only large work needs it

    failed: dict[int, Exception] = {}

    def work() -> None:
        while left:
            try:
                number = left.pop()
            except IndexError:  # another thread took it
                return
            try:
                call(number)
            except Exception as error:
                failed[number] = error
                left.clear()

    # Starting a thread for each core and waiting for them takes longer than the work of some callers.
    others = min(threads, len(left)) - 1
    with ThreadPoolExecutor(others) as pool:
        for _ in range(others):
            pool.submit(work)
        work()
    if failed:
        raise failed[min(failed)]
