"""Devices by the names of `inspect --plan`: how much memory there is, who shares it, what is gone beforehand.

In: a name, or "auto" for this machine. Out: a `PlanDevice`. Reads /proc and asks the driver's library (NVML); runs
nothing and allocates nothing. The rows of the table are the vendors' data sheets; what a system keeps for itself is an
assumption, stated, not measured here: `auto` on the device itself replaces it by what the system says.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path

from fgr_edge.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20
AUTO = "auto"
_SUCCESS = 0  # of NVML


@dataclass(frozen=True, slots=True)
class PlanDevice:
    """Where a bundle is to be built and run.

    Attributes:
        memory_bytes: of the GPU, or of the whole machine where both share it or there is no GPU.
        reserved_bytes: of `memory_bytes`, taken before the model starts.
        reserved_for: what takes it, and where the number is from.
        shared: whether GPU and CPU use the same memory.
        has_gpu: whether graphs can run on a GPU.
        host_bytes: memory free for the CPU's part where the GPU has its own; None where that is not known.
    """

    name: str
    memory_bytes: int
    reserved_bytes: int
    reserved_for: str
    shared: bool
    has_gpu: bool = True
    host_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reserved_bytes < self.memory_bytes:
            raise ConfigError(f"{self.name} keeps {self.reserved_bytes} of {self.memory_bytes} bytes; expected fewer")

    @property
    def available_bytes(self) -> int:
        """Left for the model: on the GPU, or of what both share."""
        return self.memory_bytes - self.reserved_bytes


_DESKTOP = "the firmware's part and Ubuntu without a desktop (assumed; a desktop takes about 0.8 GiB more)"


def _jetson(name: str, gib: int, reserved: float) -> PlanDevice:
    return PlanDevice(name, gib * GIB, int(reserved * GIB), _DESKTOP, shared=True)


DEVICES = {
    device.name: device
    for device in (
        # Firmware leaves Linux about 7.4 of 8, 15.3 of 16, 61.4 of 64 and 122.8 of 128 GiB; Linux takes 0.7 itself.
        _jetson("orin-nano", 8, 1.3),
        _jetson("orin-nx", 16, 1.4),
        _jetson("agx-orin", 64, 3.3),
        _jetson("thor", 128, 6.0),
        PlanDevice("h100", 80 * GIB, GIB // 2, "the driver and its page tables (assumed)", shared=False),
    )
}


def find_device(name: str, root: Path = Path("/")) -> PlanDevice:
    """The row of that name, or this machine for "auto".

    Raises:
        ConfigError: there is no such row, or this machine does not say how much memory it has.
    """
    wanted = name.strip().lower()
    if wanted == AUTO:
        return this_machine(root)
    if wanted not in DEVICES:
        raise ConfigError(f"there is no memory plan for {name!r}; choose one of {', '.join(DEVICES)}, or {AUTO}")
    return DEVICES[wanted]


def this_machine(root: Path = Path("/")) -> PlanDevice:
    """What /proc, the cgroup and NVML say now; `reserved_bytes` is what others use at the moment.

    Args:
        root: of the file system; another for tests.

    Raises:
        ConfigError: /proc/meminfo does not tell.
    """
    total, free = _memory(root)
    model = _text(root / "proc/device-tree/model")
    if model is not None and "nvidia" in model.lower():  # a Jetson
        return PlanDevice(model, total, total - free, "what runs on it now (/proc/meminfo)", shared=True)
    gpu = nvml_memory()
    if gpu is None:
        name = f"this machine ({platform.machine()}, no NVIDIA GPU)"
        return PlanDevice(name, total, total - free, "what runs on it now (/proc/meminfo)", shared=True, has_gpu=False)
    name, memory, used = gpu
    return PlanDevice(name, memory, used, "what uses it now (NVML)", shared=False, host_bytes=free)


def nvml_memory() -> tuple[str, int, int] | None:
    """Name, memory and used bytes of the first NVIDIA GPU, from the driver's own library; None without one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    memory = (ctypes.c_ulonglong * 3)()  # total, free, used
    try:
        if nvml.nvmlInit_v2() != _SUCCESS:
            return None
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) != _SUCCESS:
            return None
        if nvml.nvmlDeviceGetName(handle, name, len(name)) != _SUCCESS:
            return None
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _SUCCESS:
            return None
        return name.value.decode(errors="replace"), int(memory[0]), int(memory[2])
    except AttributeError:  # a library without these functions
        return None
    finally:
        if hasattr(nvml, "nvmlShutdown"):
            nvml.nvmlShutdown()


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) bytes; a container's limit where it is lower."""
    path = root / "proc/meminfo"
    values = {}
    for line in (_text(path) or "").splitlines():
        key, _, rest = line.partition(":")
        if rest.split() and rest.split()[0].isdecimal():
            values[key] = int(rest.split()[0]) * 1024
    if "MemTotal" not in values or "MemAvailable" not in values:
        raise ConfigError(f"{path} does not say how much memory there is; name a device: {', '.join(DEVICES)}")
    total, free = values["MemTotal"], values["MemAvailable"]
    limit, used = (_text(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit.isdecimal() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(used) if used is not None and used.isdecimal() else total)
    return total, max(free, 1)


def _text(path: Path) -> str | None:
    """A small file's text without its closing zero byte; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None
