"""Joules of a piece of work, from whatever meters the machine has; null, with the reason, where it has none.

In: work to repeat. Out: joules a repetition by meter, and the watts of the idle machine beside them. Work is repeated
for seconds, because meters are slow: joules are a mean over all repetitions. They are the machine's, idle power and
other work included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from fgr_edge.bench.jetson import find_ina3221, find_tegrastats
from fgr_edge.bench.meter import Meter, Unmetered
from fgr_edge.bench.nvml import find_nvml
from fgr_edge.bench.rapl import find_rapl
from fgr_edge.bench.spread import rounded

WORK_S = 3.0  # each piece of work, at least
IDLE_S = 2.0
Work = Callable[[], int]
"""Does a piece of work once; returns how many units (answers, tokens) that was."""


class Metered(TypedDict):
    """One meter. joules_each: of one unit of each piece of work; units: how many it is a mean of."""

    meter: str
    covers: str
    resolution_s: float
    idle_watts: float
    joules_each: dict[str, float]
    units: dict[str, int]


class Energy(TypedDict):
    """meters: empty where nothing can be measured; not_measured: every source that is not there, and why."""

    meters: list[Metered]
    not_measured: dict[str, str]


def find_meters() -> tuple[list[Meter], list[Unmetered]]:
    """All that this machine has. `tegrastats` is asked only where the kernel does not show the sensors."""
    found: list[Meter | Unmetered] = [find_rapl(), find_nvml(), find_ina3221()]
    if isinstance(found[-1], Unmetered):
        found.append(find_tegrastats())
    absent = [one for one in found if isinstance(one, Unmetered)]
    return [one for one in found if not isinstance(one, Unmetered)], absent


def measure_energy(
    work: Mapping[str, Work],
    meters: Sequence[Meter],
    absent: Sequence[Unmetered],
    *,
    work_s: float = WORK_S,
    idle_s: float = IDLE_S,
) -> Energy:
    """Joules of each piece of work; does none of it where there is no meter.

    Args:
        work: by name; each is repeated for `work_s` seconds at least.
    """
    not_measured = {one.name: one.reason for one in absent}
    if not meters:
        return Energy(meters=[], not_measured=not_measured)
    idle = _joules_of(meters, lambda: time.sleep(idle_s))
    rows = [
        Metered(
            meter=meter.name,
            covers=meter.covers,
            resolution_s=meter.resolution_s,
            idle_watts=rounded(joules / idle_s),
            joules_each={},
            units={},
        )
        for meter, joules in zip(meters, idle, strict=True)
    ]
    for name, once in work.items():
        units: list[int] = []
        spent = _joules_of(meters, lambda once=once, units=units: _repeat(once, units, work_s))  # type: ignore[misc]
        for row, joules in zip(rows, spent, strict=True):
            row["joules_each"][name] = rounded(joules / max(1, sum(units)))
            row["units"][name] = sum(units)
    return Energy(meters=rows, not_measured=not_measured)


def _joules_of(meters: Sequence[Meter], job: Callable[[], None]) -> list[float]:
    before = [meter.joules() for meter in meters]
    job()
    return [meter.joules() - joules for meter, joules in zip(meters, before, strict=True)]


def _repeat(once: Work, units: list[int], seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while not units or time.perf_counter() < deadline:
        units.append(once())
