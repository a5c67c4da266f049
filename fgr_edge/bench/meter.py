"""What an energy meter is, and one made of power samples. Knows no machine: `rapl`, `nvml` and `jetson` do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol


class Meter(Protocol):
    """Counts joules since it was opened.

    Attributes:
        name: of the source.
        covers: which parts of the machine it measures.
        resolution_s: how far apart its readings are: work shorter than a few of them is not resolved.
    """

    name: str
    covers: str
    resolution_s: float

    def joules(self) -> float:
        """Since it was opened."""

    def close(self) -> None:
        """Stop; the meter is not read any more."""


class Unmetered(NamedTuple):
    """A source that this machine does not have, or does not let this user read."""

    name: str
    reason: str


class Integral:
    """Joules from power samples: each sample holds until the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._joules = 0.0
        self._watts: float | None = None
        self._at_s = 0.0
        self.samples = 0

    def add(self, watts: float, at_s: float | None = None) -> None:
        """A sample, taken now or at that time of `time.perf_counter`."""
        at_s = time.perf_counter() if at_s is None else at_s
        with self._lock:
            self._joules = self._until(at_s)
            self._watts, self._at_s = watts, at_s
            self.samples += 1

    def joules(self, at_s: float | None = None) -> float:
        """Up to now, or to that time."""
        with self._lock:
            return self._until(time.perf_counter() if at_s is None else at_s)

    def _until(self, at_s: float) -> float:
        return self._joules if self._watts is None else self._joules + self._watts * (at_s - self._at_s)


class SampledMeter:
    """Reads a machine's power again and again in a thread of its own.

    Args:
        name, covers: see `Meter`.
        watts: reads the power now.
    """

    def __init__(self, name: str, covers: str, watts: Callable[[], float], resolution_s: float = 0.05) -> None:
        self.name, self.covers, self.resolution_s = name, covers, resolution_s
        self._watts = watts
        self._integral = Integral()
        self._integral.add(watts())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        self._integral.add(self._watts())  # a fresh sample: the last one may be old by a whole interval
        return self._integral.joules()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(self.resolution_s):
            self._integral.add(self._watts())


def module_watts(rails_mw: Mapping[str, float]) -> tuple[float, tuple[str, ...]]:
    """Power of a Jetson module from its rails, and the rails that were added up.

    An input rail (VDD_IN of Orin NX and Nano, POM_5V_IN of the first Nano) is the whole. Without one the others are
    added: AGX Orin's are VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0, and VDDQ_VDD2_1V8AO is fed by the last of them.
    Source: NVIDIA's Jetson Linux Developer Guide, electrical management of each module.
    """
    whole = [name for name in rails_mw if name in ("VDD_IN", "POM_5V_IN")]
    parts = [
        name for name in rails_mw if name != "NC" and not (name.startswith("VDDQ_VDD2") and "VIN_SYS_5V0" in rails_mw)
    ]
    chosen = tuple(whole or parts)
    return sum(rails_mw[name] for name in chosen) / 1e3, chosen
