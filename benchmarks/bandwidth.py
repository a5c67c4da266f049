"""The read bandwidth of this machine's memory, by itself: see `fgr_edge.bench.bandwidth`, where it lives.

python benchmarks/bandwidth.py [--threads 2] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json

from fgr_edge.bench.bandwidth import ReadBandwidth
from fgr_edge.runtime.threads import usable_cores

__all__ = ["ReadBandwidth"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    rate = ReadBandwidth(arguments.threads).gbps(arguments.seconds)
    print(json.dumps({"read_bandwidth_gbps": round(rate, 2), "threads": arguments.threads}))


if __name__ == "__main__":
    main()
