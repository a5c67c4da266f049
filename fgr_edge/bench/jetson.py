"""Power of a Jetson module: from the INA3221 sensors that the kernel shows, else from NVIDIA's `tegrastats`.

In: /sys/class/hwmon, or lines of tegrastats. Out: a `Meter` that integrates samples. Written after NVIDIA's
documentation and recorded lines of JetPack 4, 5 and 6; not run on hardware.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from fgr_edge.bench.meter import Integral, SampledMeter, Unmetered, module_watts

INA3221, TEGRASTATS = "ina3221", "tegrastats"
FIRST_LINE_S = 3.0
INTERVAL_MS = 100
# "VDD_IN 4960mW/4960mW", in JetPack 4 "POM_5V_IN 2532/2532": now and average. RAM and SWAP end in MB.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")


def parse_tegrastats(line: str) -> dict[str, float]:
    """Milliwatts by rail of one line; empty where it has none."""
    return {name: float(now) for name, now in _RAIL.findall(line)}


def read_ina3221(root: Path = Path("/sys/class/hwmon")) -> dict[str, float]:
    """Milliwatts by rail, volts times amperes of each labelled channel; empty where there is no such sensor.

    Raises:
        PermissionError: the sensors may not be read by this user.
    """
    rails = {}
    for folder in sorted(root.glob("hwmon*")):
        name = folder / "name"
        if not name.is_file() or name.read_text().strip() != INA3221:
            continue
        for label in sorted(folder.glob("in[0-9]_label")):
            number = label.name[2]
            volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
            if volts.is_file() and amperes.is_file():  # the seventh is a sum of shunt voltages
                rails[label.read_text().strip()] = int(volts.read_text()) * int(amperes.read_text()) / 1e3
    return rails


def find_ina3221(root: Path = Path("/sys/class/hwmon")) -> SampledMeter | Unmetered:
    """The module's sensors, or why there are none."""
    try:
        rails = read_ina3221(root)
    except PermissionError as error:
        return Unmetered(INA3221, f"{error.filename} may not be read: run as root")
    except (OSError, ValueError) as error:
        return Unmetered(INA3221, f"the sensors cannot be read ({error})")
    if not rails:
        return Unmetered(INA3221, f"{root} has no INA3221 sensor: no Jetson, or an older JetPack")
    return SampledMeter(INA3221, _named(rails), lambda: module_watts(read_ina3221(root))[0])


class Tegrastats:
    """Reads the tool's lines while it runs."""

    resolution_s = INTERVAL_MS / 1e3

    def __init__(self, command: str) -> None:
        self.name, self.covers = TEGRASTATS, ""
        self._integral = Integral()
        self._first = threading.Event()
        self._process = subprocess.Popen(
            [command, "--interval", str(INTERVAL_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def started(self, seconds: float = FIRST_LINE_S) -> bool:
        """Whether a line with rails came within so many seconds."""
        return self._first.wait(seconds)

    def joules(self) -> float:
        return self._integral.joules()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            rails = parse_tegrastats(line)
            if rails:
                self._integral.add(module_watts(rails)[0], time.perf_counter())
                self.covers = _named(rails)
                self._first.set()


def find_tegrastats() -> Tegrastats | Unmetered:
    """The tool, running, or why it is not."""
    command = shutil.which(TEGRASTATS)
    if command is None:
        return Unmetered(TEGRASTATS, "there is no tegrastats command: no Jetson")
    meter = Tegrastats(command)
    if not meter.started():
        meter.close()
        return Unmetered(TEGRASTATS, f"tegrastats told no power within {FIRST_LINE_S:g} s: run as root")
    return meter


def _named(rails_mw: Mapping[str, float]) -> str:
    return f"Jetson module ({' + '.join(module_watts(rails_mw)[1])})"
