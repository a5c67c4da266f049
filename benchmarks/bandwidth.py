"""The read bandwidth of this machine's memory: the roofline of decoding.

In: a number of threads, a number of seconds. Out: GB/s (1e9 bytes) at which those threads read an array far
larger than any cache. Each thread takes the maximum of its slice of int32, which numpy does with vector
instructions and without the interpreter lock, so that memory is the limit and not arithmetic.

    python benchmarks/bandwidth.py [--threads 2] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 1 << 30


def read_bandwidth_gbps(threads: int | None = None, seconds: float = 3.0) -> float:
    """Median read bandwidth over passes of a 1 GiB array.

    Args:
        threads: Readers at once; the cores that this process may use by default.
        seconds: How long to measure, after one pass that warms up. At least three passes are made.

    Returns:
        GB/s, 1e9 bytes.

    Raises:
        ValueError: If `threads` or `seconds` is not positive.
    """
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if threads < 1 or seconds <= 0:
        raise ValueError(f"threads must be at least 1 and seconds above 0, not {threads} and {seconds}")
    # Written, not only reserved: untouched pages all map to one page of zeros and would be read from cache.
    array = np.ones(ARRAY_BYTES // 4, dtype=np.int32)
    slices = np.array_split(array, threads)
    rates: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.max, slices))
        deadline = time.perf_counter() + seconds
        while len(rates) < 3 or time.perf_counter() < deadline:
            started = time.perf_counter()
            list(pool.map(np.max, slices))
            rates.append(array.nbytes / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    rate = read_bandwidth_gbps(arguments.threads, arguments.seconds)
    print(json.dumps({"read_bandwidth_gbps": round(rate, 2), "threads": arguments.threads}))


if __name__ == "__main__":
    main()
