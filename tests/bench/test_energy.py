"""Joules from counters and from power samples. Files and lines are in the recorded format of real machines; the meters
themselves were not run on hardware."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fgr_edge.bench import jetson
from fgr_edge.bench.energy import measure_energy
from fgr_edge.bench.jetson import find_ina3221, find_tegrastats, parse_tegrastats, read_ina3221
from fgr_edge.bench.meter import Integral, Unmetered, module_watts
from fgr_edge.bench.nvml import find_nvml
from fgr_edge.bench.rapl import Rapl, find_rapl

# JetPack 6, Orin Nano; JetPack 5, AGX Orin; JetPack 4, Nano and TX2.
ORIN_NANO = (
    "05-15-2025 18:30:28 RAM 6982/7620MB (lfb 5x1MB) SWAP 2640/16384MB (cached 202MB) CPU [97%@1984,95%@1984] "
    "EMC_FREQ 18%@3199 GR3D_FREQ 84%@[713] VIC 31%@115 APE 174 cv0@63.031C cpu@65.562C tj@65.562C "
    "VDD_IN 17946mW/15710mW VDD_CPU_GPU_CV 8896mW/7585mW VDD_SOC 3923mW/3515mW"
)
AGX_ORIN = (
    "RAM 3812/30623MB (lfb 5827x4MB) SWAP 0/15311MB (cached 0MB) CPU [3%@729,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "CV0@-256C CPU@43.1C VDD_GPU_SOC 2400mW/2396mW VDD_CPU_CV 400mW/399mW VIN_SYS_5V0 3032mW/3018mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 302mW/301mW NC 0mW/0mW"
)
NANO = (
    "RAM 1345/3964MB (lfb 48x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [7%@102,4%@102] EMC_FREQ 0% "
    "PLL@32C CPU@35C thermal@33.5C POM_5V_IN 1532/1496 POM_5V_GPU 41/41 POM_5V_CPU 204/175"
)


def test_rails_of_every_jetpack_are_read_and_memory_is_not_one() -> None:
    assert parse_tegrastats(ORIN_NANO) == {"VDD_IN": 17946, "VDD_CPU_GPU_CV": 8896, "VDD_SOC": 3923}
    assert parse_tegrastats(NANO) == {"POM_5V_IN": 1532, "POM_5V_GPU": 41, "POM_5V_CPU": 204}
    assert set(parse_tegrastats(AGX_ORIN)) == {
        *("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "NC", "VDDQ_VDD2_1V8AO"),
    }
    assert parse_tegrastats("RAM 1/2MB SWAP 0/1MB") == {}


def test_a_module_is_its_input_rail_or_the_sum_of_rails_that_do_not_feed_each_other() -> None:
    assert module_watts(parse_tegrastats(ORIN_NANO)) == (17.946, ("VDD_IN",))
    assert module_watts(parse_tegrastats(NANO)) == (1.532, ("POM_5V_IN",))
    watts, rails = module_watts(parse_tegrastats(AGX_ORIN))
    assert watts == pytest.approx(2.4 + 0.4 + 3.032)
    assert rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def test_sensors_give_volts_times_amperes_of_labelled_channels(tmp_path: Path) -> None:
    sensor, other = tmp_path / "hwmon3", tmp_path / "hwmon1"
    for folder, name in ((sensor, "ina3221"), (other, "tmp451")):
        folder.mkdir()
        (folder / "name").write_text(name + "\n")
    for number, label, millivolts, milliamperes in ((1, "VDD_IN", 5072, 960), (2, "VDD_SOC", 5064, 280)):
        (sensor / f"in{number}_label").write_text(label + "\n")
        (sensor / f"in{number}_input").write_text(f"{millivolts}\n")
        (sensor / f"curr{number}_input").write_text(f"{milliamperes}\n")
    (sensor / "in7_label").write_text("sum of shunt voltages\n")
    (sensor / "in7_input").write_text("7\n")
    assert read_ina3221(tmp_path) == {"VDD_IN": 5072 * 0.960, "VDD_SOC": 5064 * 0.280}
    meter = find_ina3221(tmp_path)
    assert not isinstance(meter, Unmetered)
    assert "VDD_IN" in meter.covers
    first = meter.joules()
    assert meter.joules() > first
    meter.close()
    missing = find_ina3221(tmp_path / "none")
    assert isinstance(missing, Unmetered) and "no Jetson" in missing.reason


def test_tegrastats_is_read_while_it_runs_and_stopped_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "tegrastats"
    command.write_text(f"#!/bin/sh\nwhile true; do echo '{ORIN_NANO}'; sleep 0.05; done\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    meter = find_tegrastats()
    assert not isinstance(meter, Unmetered)
    assert meter.covers == "Jetson module (VDD_IN)"
    first = meter.joules()
    assert meter.joules() > first
    meter.close()
    assert meter._process.returncode is not None


def test_a_tegrastats_that_tells_no_power_is_stopped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "tegrastats"
    command.write_text("#!/bin/sh\nexec sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(jetson.Tegrastats.started, "__defaults__", (0.1,))
    found = find_tegrastats()
    assert isinstance(found, Unmetered) and "told no power" in found.reason


def write_zone(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = 1_000_000_000) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (zone / file).write_text(f"{text}\n")
    return zone / "energy_uj"


def test_rapl_adds_packages_and_memory_and_leaves_out_what_is_inside_them(tmp_path: Path) -> None:
    package = write_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    core = write_zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    memory = write_zone(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    write_zone(tmp_path, "intel-rapl:1", "psys", 0)
    meter = find_rapl(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.covers == "package-0 + dram"
    for counter in (package, core, memory):
        counter.write_text("7500000\n")
    assert meter.joules() == pytest.approx(2.5 + 5.5)


def test_a_rapl_counter_that_starts_again_goes_on_counting(tmp_path: Path) -> None:
    counter = write_zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    meter = find_rapl(tmp_path)
    assert isinstance(meter, Rapl)
    counter.write_text("500000\n")
    assert meter.joules() == pytest.approx(1.5)
    counter.write_text("1500000\n")
    assert meter.joules() == pytest.approx(2.5)


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    missing = find_rapl(tmp_path)
    assert isinstance(missing, Unmetered) and "no intel-rapl zones" in missing.reason
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text("not a number")
    broken = find_rapl(tmp_path)
    assert isinstance(broken, Unmetered) and "cannot be read" in broken.reason


def test_a_gpu_counts_millijoules_from_where_the_driver_was(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((1_000_000, 1_002_500))
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda device: b"NVIDIA L4",
        nvmlDeviceGetTotalEnergyConsumption=lambda device: next(counts),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    meter = find_nvml()
    assert not isinstance(meter, Unmetered)
    assert meter.covers == "GPU 0 (NVIDIA L4)" and meter.joules() == 2.5


def test_a_driver_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=RuntimeError, nvmlInit=refuse))
    found = find_nvml()
    assert isinstance(found, Unmetered) and "Driver Not Loaded" in found.reason


def test_power_is_held_between_samples() -> None:
    power = Integral()
    assert power.joules(5.0) == 0
    for watts, at_s in ((10.0, 0.0), (20.0, 2.0), (0.0, 3.0)):
        power.add(watts, at_s)
    assert power.joules(10.0) == pytest.approx(10 * 2 + 20 * 1)


class Counter:
    """A meter that counts a joule for each unit of work."""

    name, covers, resolution_s = "counter", "the test", 0.0

    def __init__(self) -> None:
        self.done = 0.0

    def joules(self) -> float:
        return self.done

    def close(self) -> None:
        pass


def test_joules_are_those_of_one_unit_of_work() -> None:
    meter = Counter()

    def work(units: int, joules: float) -> int:
        meter.done += joules
        return units

    energy = measure_energy(
        {"answer": lambda: work(1, 3.0), "token": lambda: work(8, 2.0)}, [meter], [], work_s=0.01, idle_s=0.001
    )
    (row,) = energy["meters"]
    assert row["joules_each"] == {"answer": 3.0, "token": 0.25}
    assert row["idle_watts"] == 0 and row["units"]["token"] % 8 == 0


def test_without_a_meter_nothing_is_done_and_every_source_has_its_reason() -> None:
    def work() -> int:
        raise AssertionError("there is nothing to measure it with")

    energy = measure_energy({"answer": work}, [], [Unmetered("rapl", "none"), Unmetered("nvml", "no driver")])
    assert energy == {"meters": [], "not_measured": {"rapl": "none", "nvml": "no driver"}}
