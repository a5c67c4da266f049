"""Energy of an NVIDIA GPU from the driver's counter (NVML, Volta and later). Not for Jetson: see `jetson`."""

from __future__ import annotations

from typing import Any

from fgr_edge.bench.meter import Unmetered

NAME = "nvml"


class Nvml:
    """The first GPU's counter of millijoules since the driver was loaded."""

    resolution_s = 0.1  # the driver averages power over some 20 to 100 ms

    def __init__(self, nvml: Any, device: Any) -> None:
        self.name = NAME
        gpu = nvml.nvmlDeviceGetName(device)
        self.covers = f"GPU 0 ({gpu.decode() if isinstance(gpu, bytes) else gpu})"
        self._nvml, self._device = nvml, device
        self._start_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(device)

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device) - self._start_mj) / 1e3

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def find_nvml() -> Nvml | Unmetered:
    """The GPU's counter, or why there is none."""
    try:
        import pynvml
    except ImportError:
        return Unmetered(NAME, "pynvml is not installed (pip install nvidia-ml-py)")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Unmetered(NAME, f"no NVIDIA driver answers ({error})")
    try:
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        return Unmetered(NAME, f"the GPU has no energy counter ({error})")
