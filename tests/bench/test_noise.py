"""A machine that is not quiet is told so, from the kernel's own files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fgr_edge.bench.noise import Snapshot, judge

QUIET = Snapshot(
    seconds=0.0,
    own_seconds=0.0,
    busy_ticks=0,
    all_ticks=0,
    steal_ticks=0,
    throttle_events=0,
    quota_throttled_us=0,
    hottest_c=50.0,
    load_1m=0.0,
)


def test_a_quiet_machine_is_quiet(tmp_path: Path) -> None:
    after = replace(QUIET, own_seconds=10.0, busy_ticks=1000, all_ticks=2000)
    found = judge(QUIET, after, [50.0, 51.0, 50.5], {"direct answers": 0.02}, {}, tmp_path)
    assert (found["quiet"], found["findings"], found["others_share"]) == (True, [], 0.0)


@pytest.mark.parametrize(
    ("before", "after", "rates", "spreads", "sentence"),
    [
        ({}, {"busy_ticks": 900, "all_ticks": 1000, "own_seconds": 1.0}, [], {}, "other processes took 80 %"),
        ({}, {"steal_ticks": 30, "all_ticks": 1000}, [], {}, "took 3.0 % of the cores' time (steal)"),
        ({"load_1m": 99.0}, {}, [], {}, "load was 99.00"),
        ({}, {}, [40.0, 50.0, 60.0], {}, "bandwidth varied by 40 %"),
        ({}, {}, [], {"tg128": 0.5}, "tg128 varied: its interquartile range is 50 %"),
        ({}, {"throttle_events": 3}, [], {}, "throttled 3 times"),
        ({}, {"quota_throttled_us": 2_000_000}, [], {}, "held it back for 2000 ms"),
        ({}, {"hottest_c": 96.0}, [], {}, "96 degrees"),
    ],
)
def test_each_disturbance_has_its_sentence(
    before: dict[str, float],
    after: dict[str, float],
    rates: list[float],
    spreads: dict[str, float],
    sentence: str,
    tmp_path: Path,
) -> None:
    first, last = replace(QUIET, **before), replace(QUIET, **after)  # type: ignore[arg-type]
    found = judge(first, last, rates, spreads, {}, tmp_path)
    assert not found["quiet"]
    assert len(found["findings"]) == 1 and sentence in found["findings"][0]


def test_a_first_round_that_was_not_warm_asks_for_more_of_them(tmp_path: Path) -> None:
    found = judge(QUIET, QUIET, [], {}, {"pp512": 1.8}, tmp_path)
    assert found["findings"] == [
        "the first counted round of pp512 took 1.8 times as long as the others: give more --warmups"
    ]


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return write


def test_counters_are_read_as_the_kernel_writes_them(kernel: Callable[[dict[str, str]], Path]) -> None:
    root = kernel(
        {
            "proc/stat": "cpu  100 20 30 400 5 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0",
            "proc/loadavg": "0.42 0.50 0.60 1/234 5678",
            "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-3",
            "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500",
            "sys/class/thermal/thermal_zone0/temp": "45000",
            "sys/class/thermal/thermal_zone1/temp": "61500",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
            "sys/class/hwmon/hwmon2/oc3_event_cnt": "1",
        }
    )
    found = Snapshot.take(root)
    assert (found.busy_ticks, found.all_ticks, found.steal_ticks) == (163, 576, 8)
    assert (found.load_1m, found.hottest_c, found.throttle_events) == (0.42, 61.5, 5)
    assert found.quota_throttled_us == 1500
    noise = judge(found, found, [], {}, {}, root)
    assert noise["governors"] == ["schedutil"] and "schedutil" in noise["findings"][0]
    assert noise["cores_allowed"] == "0-3"


def test_a_system_that_tells_nothing_is_unknown_and_not_noisy(tmp_path: Path) -> None:
    found = Snapshot.take(tmp_path)
    noise = judge(found, found, [], {}, {}, tmp_path)
    assert noise["quiet"]
    assert noise["others_share"] is None and noise["steal_share"] is None and noise["hottest_c"] is None


def test_this_process_s_own_work_is_not_that_of_others() -> None:
    before = Snapshot.take()
    if before.busy_ticks is None:
        pytest.skip("no /proc/stat")
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    after = Snapshot.take()
    assert 0.09 < after.own_seconds - before.own_seconds < 0.5
