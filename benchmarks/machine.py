"""Where and how a number was measured: the part of a result document that says so.

Out: `describe_machine()`, a JSON-ready dict of CPU, memory, system, package versions, load, a noise check,
the commit and the command line. What cannot be found out is null. No host name, no user.

    python benchmarks/machine.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "fgr-edge",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tokenizers",
    "torch",
    "transformers",
)
NOISE_RUNS = 15


def describe_machine() -> dict[str, Any]:
    """Everything that a reader needs to judge a number measured here. Takes about half a second."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or None,
        "cpu_flags": _vector_flags(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "load_average_1m": round(os.getloadavg()[0], 2),
        "noise_percent": noise_percent(),
        "commit": git_commit(),
        "command": _command(),
    }


def noise_percent(runs: int = NOISE_RUNS) -> float:
    """(p90 - min) / min, in percent, of a fixed busy loop: a few on a quiet machine, tens on a busy one."""
    seconds = []
    for _ in range(runs + 2):
        started = time.perf_counter()
        sum(i * i for i in range(200_000))
        seconds.append(time.perf_counter() - started)
    timed = sorted(seconds[2:])
    p90 = statistics.quantiles(timed, n=10)[-1]
    return round(100 * (p90 - timed[0]) / timed[0], 1)


def git_commit() -> str | None:
    """The commit of the working tree, `-dirty` when tracked files differ; null outside a repository."""
    root = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _command() -> str:
    """The command line, the script named relative to the repository."""
    script = Path(sys.argv[0])
    root = Path(__file__).resolve().parents[1]
    name = str(script.resolve().relative_to(root)) if script.resolve().is_relative_to(root) else script.name
    return " ".join(["python", name, *sys.argv[1:]])


def _cpu_field(key: str) -> str | None:
    """The first value of a key in /proc/cpuinfo; null where it is absent, as on many Arm boards."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _vector_flags() -> list[str]:
    """The instruction sets that decide how fast int8 and bfloat16 are."""
    wanted = (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "asimddp",
        "i8mm",
    )
    flags = (_cpu_field("flags") or _cpu_field("Features") or "").split()
    return [flag for flag in wanted if flag in flags]


def _version(package: str) -> str | None:
    """The installed version of a distribution; null when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(json.dumps(describe_machine(), indent=2))
