"""Was the machine quiet while it measured? What else it did, and what held it back, from the start to the end of a run.

In: the kernel's counters (/proc, /sys), read twice, and the bandwidth of each round. Out: sentences, and the numbers
behind them. A counter that the kernel does not have is None and makes no sentence. Changes nothing on the machine.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

BANDWIDTH_SPREAD = 0.15  # (max - min) / median of the rounds
OTHERS_SHARE = 0.05  # of all cores' time, by other processes
STEAL_SHARE = 0.01  # of all cores' time, taken by the hypervisor
TIMING_SPREAD = 0.15  # interquartile range over the median, of a measure that repeats the same work
LOAD_SHARE = 0.25  # runnable tasks a core before the run began
HOT_C = 90.0


class Noise(TypedDict):
    """quiet: nothing was found; findings: sentences. Shares are of all cores' time during the run, None if unknown."""

    quiet: bool
    findings: list[str]
    load_average_1m_at_start: float | None
    others_share: float | None
    steal_share: float | None
    bandwidth_spread: float | None
    governors: list[str]
    throttle_events: int | None
    quota_throttled_ms: float | None
    hottest_c: float | None
    cores_allowed: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The kernel's counters at one moment; `_ticks` are jiffies of all cores together."""

    seconds: float
    own_seconds: float
    busy_ticks: int | None
    all_ticks: int | None
    steal_ticks: int | None
    throttle_events: int | None
    quota_throttled_us: int | None
    hottest_c: float | None
    load_1m: float | None

    @classmethod
    def take(cls, root: Path = Path("/")) -> Snapshot:
        """Read them now; `root` holds proc and sys."""
        busy, total, steal = _cpu_ticks(root)
        own = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return cls(
            seconds=time.perf_counter(),
            own_seconds=sum(usage.ru_utime + usage.ru_stime for usage in own),
            busy_ticks=busy,
            all_ticks=total,
            steal_ticks=steal,
            throttle_events=_sum_of(_throttle_files(root)),
            quota_throttled_us=_quota_throttled_us(root),
            hottest_c=_hottest_c(root),
            load_1m=_load_1m(root),
        )


def judge(
    before: Snapshot,
    after: Snapshot,
    bandwidth_gbps: Sequence[float],
    timing_spreads: Mapping[str, float],
    slow_first_rounds: Mapping[str, float],
    root: Path = Path("/"),
) -> Noise:
    """Compare two snapshots.

    Args:
        bandwidth_gbps: of each round.
        timing_spreads: interquartile range over median of measures that repeat the same work.
        slow_first_rounds: of measures whose first round took more than the others, how many times as long.
    """
    noise = Noise(
        quiet=True,
        findings=[],
        load_average_1m_at_start=before.load_1m,
        others_share=_others_share(before, after),
        steal_share=_share(before.steal_ticks, after.steal_ticks, before, after),
        bandwidth_spread=_spread(bandwidth_gbps),
        governors=_governors(root),
        throttle_events=_grown(before.throttle_events, after.throttle_events),
        quota_throttled_ms=_ms(_grown(before.quota_throttled_us, after.quota_throttled_us)),
        hottest_c=max((c for c in (before.hottest_c, after.hottest_c) if c is not None), default=None),
        cores_allowed=_cores_allowed(root),
    )
    noise["findings"] = [*_findings(noise), *_unsteady(timing_spreads), *_not_warm(slow_first_rounds)]
    noise["quiet"] = not noise["findings"]
    return noise


def _findings(noise: Noise) -> Iterator[str]:
    """A sentence for each number that is out of bounds."""
    cores = os.cpu_count() or 1
    load, others, steal = noise["load_average_1m_at_start"], noise["others_share"], noise["steal_share"]
    if others is not None and others > OTHERS_SHARE:
        yield f"other processes took {100 * others:.0f} % of the cores' time"
    if load is not None and load > LOAD_SHARE * cores:
        yield f"the load was {load:.2f} on {cores} cores before the run began"
    if steal is not None and steal > STEAL_SHARE:
        yield f"the hypervisor took {100 * steal:.1f} % of the cores' time (steal)"
    if noise["bandwidth_spread"] is not None and noise["bandwidth_spread"] > BANDWIDTH_SPREAD:
        yield f"the memory bandwidth varied by {100 * noise['bandwidth_spread']:.0f} % between rounds"
    slow = [name for name in noise["governors"] if name != "performance"]
    if slow:
        yield f"the frequency governor is {', '.join(slow)}, not performance: clocks rise and fall with the load"
    if noise["throttle_events"]:
        yield f"the processor was throttled {noise['throttle_events']} times (heat or current)"
    if noise["quota_throttled_ms"]:
        yield f"the process's CPU quota held it back for {noise['quota_throttled_ms']:.0f} ms"
    if noise["hottest_c"] is not None and noise["hottest_c"] >= HOT_C:
        yield f"the hottest sensor read {noise['hottest_c']:.0f} degrees Celsius"


def _unsteady(timing_spreads: Mapping[str, float]) -> Iterator[str]:
    for name, value in timing_spreads.items():
        if value > TIMING_SPREAD:
            yield f"{name} varied: its interquartile range is {100 * value:.0f} % of its median"


def _not_warm(slow_first_rounds: Mapping[str, float]) -> Iterator[str]:
    for name, ratio in slow_first_rounds.items():
        yield f"the first counted round of {name} took {ratio:.1f} times as long as the others: give more --warmups"


def _cpu_ticks(root: Path) -> tuple[int | None, int | None, int | None]:
    """Busy, all and stolen jiffies: /proc/stat's line of all cores (man 5 proc_stat)."""
    line = next((one for one in _lines(root / "proc/stat") if one.startswith("cpu ")), None)
    if line is None:
        return None, None, None
    fields = [int(one) for one in line.split()[1:9]]  # older kernels have fewer
    user, nice, system, idle, iowait, irq, softirq, steal = [*fields, *[0] * (8 - len(fields))]
    busy = user + nice + system + irq + softirq
    return busy, busy + idle + iowait + steal, steal


def _others_share(before: Snapshot, after: Snapshot) -> float | None:
    """Of all cores' time, what was neither idle nor this process's and its children's."""
    busy = _grown(before.busy_ticks, after.busy_ticks)
    total = _grown(before.all_ticks, after.all_ticks)
    if busy is None or not total:
        return None
    own = (after.own_seconds - before.own_seconds) * os.sysconf("SC_CLK_TCK")
    return round(max(0.0, (busy - own) / total), 4)


def _share(first: int | None, last: int | None, before: Snapshot, after: Snapshot) -> float | None:
    grown, total = _grown(first, last), _grown(before.all_ticks, after.all_ticks)
    return None if grown is None or not total else round(grown / total, 4)


def _grown(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1e3


def _spread(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    ranked = sorted(values)
    return round((ranked[-1] - ranked[0]) / ranked[len(ranked) // 2], 4)


def _throttle_files(root: Path) -> list[Path]:
    """Counters of thermal throttling on x86, and of over-current throttling on Jetson."""
    return [
        *root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"),
        *root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt"),
    ]


def _sum_of(files: Sequence[Path]) -> int | None:
    counts = [int(line) for file in files for line in _lines(file)[:1] if line.strip().isdecimal()]
    return sum(counts) if counts else None


def _quota_throttled_us(root: Path) -> int | None:
    """Of the control group that this process sees as its root (cgroup v2)."""
    found = (line.split() for line in _lines(root / "sys/fs/cgroup/cpu.stat"))
    return next((int(words[1]) for words in found if words[:1] == ["throttled_usec"]), None)


def _hottest_c(root: Path) -> float | None:
    readings = [
        int(line) / 1e3
        for file in root.glob("sys/class/thermal/thermal_zone*/temp")
        for line in _lines(file)[:1]
        if line.strip().isdecimal()
    ]
    return max(readings, default=None)


def _governors(root: Path) -> list[str]:
    files = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    return sorted({line.strip() for file in files for line in _lines(file)[:1]})


def _load_1m(root: Path) -> float | None:
    lines = _lines(root / "proc/loadavg")
    return float(lines[0].split()[0]) if lines else None


def _cores_allowed(root: Path) -> str | None:
    found = (line.partition(":") for line in _lines(root / "proc/self/status"))
    return next((value.strip() for key, _, value in found if key == "Cpus_allowed_list"), None)


def _lines(path: Path) -> list[str]:
    """Lines of a file of the kernel's; none where it is not there, or not for us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
