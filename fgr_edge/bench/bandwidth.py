"""The read bandwidth of this machine's memory: the roofline of decoding.

In: a number of threads, a number of seconds. Out: GB/s (1e9 bytes) at which those threads read an array far
larger than any cache. Each thread takes the maximum of its slice of int32, which numpy does with vector
instructions and without the interpreter lock, so that memory is the limit and not arithmetic.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fgr_edge.runtime.threads import usable_cores

ARRAY_BYTES = 1 << 30


class ReadBandwidth:
    """Reads one array again and again; open it once and ask between other work.

    Args:
        threads: Readers at once; the cores that this process may use by default.
        array_bytes: Size of the array; 1 GiB by default, or an eighth of the memory where that is less.

    Raises:
        ValueError: If `threads` is not positive.
    """

    def __init__(self, threads: int | None = None, array_bytes: int | None = None) -> None:
        threads = usable_cores() if threads is None else threads
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._bytes = min(ARRAY_BYTES, memory_bytes() // 8) if array_bytes is None else array_bytes
        # Written, not only reserved: untouched pages all map to one page of zeros and would be read from cache.
        self._slices = np.array_split(np.ones(self._bytes // 4, dtype=np.int32), threads)
        self._pool = ThreadPoolExecutor(threads)
        self._read()

    def gbps(self, seconds: float = 3.0) -> float:
        """Median over passes of the array for so many seconds, at least three passes; GB/s, 1e9 bytes.

        Raises:
            ValueError: If `seconds` is not positive.
        """
        if seconds <= 0:
            raise ValueError(f"seconds must be above 0, not {seconds}")
        rates: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(rates) < 3 or time.perf_counter() < deadline:
            started = time.perf_counter()
            self._read()
            rates.append(self._bytes / (time.perf_counter() - started) / 1e9)
        return statistics.median(rates)

    def _read(self) -> None:
        list(self._pool.map(np.max, self._slices))


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
