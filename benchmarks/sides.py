"""Our kernels and ONNX Runtime's on the same graph, in turns: what `products.py` and `attention.py` share.

In: what one call of either side takes. Out: medians. Sessions are opened for each measurement and closed behind it: the
idle threads of one would slow the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.sessions.settings import Products

SIDES: tuple[Products, ...] = ("fgr-edge", "onnxruntime")


def require_library() -> str:
    """By which instructions our kernels compute here.

    Raises:
        SystemExit: there are none.
    """
    found = library.instructions()
    if found is None:
        raise SystemExit("our kernels are not built here, or this processor has none: nothing to compare")
    return found


def median_ms(call: Callable[[], object], calls: int, dropped: int) -> float:
    """Of so many calls, the first ones dropped."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[dropped:])


def in_turns(rounds: int, measure: Callable[[Products], float]) -> dict[str, float]:
    """Milliseconds of both sides, medians of rounds."""
    times: dict[Products, list[float]] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in SIDES if turn % 2 else reversed(SIDES):
            times[side].append(measure(side))
    return {side: round(statistics.median(found), 4) for side, found in times.items()}
