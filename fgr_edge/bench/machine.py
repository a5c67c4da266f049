"""On what machine and by which versions something was measured; no host name, no user. What is not known is None."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fgr_edge.bench.bandwidth import memory_bytes
from fgr_edge.runtime.threads import usable_cores

PACKAGES = ("fgr-edge", "numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
NOISE_RUNS = 15
# The instruction sets that decide how fast int8 and bfloat16 are.
VECTOR_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm"),
)


def describe_machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Plain JSON types.

    Args:
        packages: distributions whose versions are told, where they are installed.
    """
    return {
        "cpu": _cpu_field("model name") or _board() or platform.processor() or None,
        "cpu_flags": _vector_flags(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpus": _gpus(),
        "jetson": jetson(),
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name)) is not None},
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


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Size of the caches furthest from the cores, all together; None where the kernel does not tell."""
    levels: dict[int, dict[str, int]] = {}
    for folder in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level = int((folder / "level").read_text())
            size = (folder / "size").read_text().strip()
            shared = (folder / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue
        if size.endswith("K") and size[:-1].isdecimal():
            levels.setdefault(level, {})[shared] = int(size[:-1]) * 1024
    return sum(levels[max(levels)].values()) if levels else None


def jetson(root: Path = Path("/")) -> dict[str, str | None] | None:
    """Release of Jetson Linux and power mode; None on anything else. After NVIDIA's formats; not run on hardware.

    `# R36 (release), REVISION: 3.0, ...` in /etc/nv_tegra_release, `pmode:0002` in /var/lib/nvpmodel/status.
    """
    release = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if release is None:
        return None
    mode = re.match(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    return {"linux": f"{release[1]}.{release[2]}", "power_mode": None if mode is None else str(int(mode[1]))}


def _gpus(root: Path = Path("/proc/driver/nvidia")) -> list[str]:
    """NVIDIA GPUs as their driver names them, and its version."""
    driver = re.search(r"Kernel Module\D*([\d.]+)", _text(root / "version"))
    names = (re.search(r"Model:\s*(.+)", _text(file)) for file in sorted(root.glob("gpus/*/information")))
    return [f"{name[1].strip()}, driver {driver[1] if driver else 'unknown'}" for name in names if name]


def _text(path: Path) -> str:
    """Of a file of the system's; nothing where it is not there, or not for us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_field(key: str) -> str | None:
    """The first value of a key in /proc/cpuinfo; None where it is absent, as on many Arm boards."""
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    values = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in values if name.strip() == key), None)


def _board() -> str | None:
    """What the device tree calls an Arm board."""
    return _text(Path("/proc/device-tree/model")).strip("\0 \n") or None


def _vector_flags() -> list[str]:
    flags = (_cpu_field("flags") or _cpu_field("Features") or "").split()
    return [flag for flag in VECTOR_FLAGS if flag in flags]


def _version(package: str) -> str | None:
    """The installed version of a distribution; None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
