"""Energy of processor packages and memory from the kernel's power capping counters (Intel and AMD: RAPL).

In: /sys/class/powercap. Out: a `Meter`. A zone counts microjoules and starts again at its range.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgr_edge.bench.meter import Unmetered

NAME = "rapl"
MEASURED = ("package", "dram")  # core and uncore are parts of a package; psys is the platform around it


@dataclass(slots=True)
class Zone:
    """One counter, and what it has counted since it was opened."""

    name: str
    counter: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def advance(self) -> int:
        """Read the counter; microjoules since it was opened. It may have started again once."""
        now = _number(self.counter)
        self.total_uj += now - self.last_uj if now >= self.last_uj else now + self.range_uj - self.last_uj
        self.last_uj = now
        return self.total_uj


class Rapl:
    """Zones added up."""

    resolution_s = 0.001

    def __init__(self, zones: list[Zone]) -> None:
        self.name = NAME
        self.covers = " + ".join(zone.name for zone in zones)
        self._zones = zones

    def joules(self) -> float:
        return sum(zone.advance() for zone in self._zones) / 1e6

    def close(self) -> None:
        """Nothing to stop: the kernel counts by itself."""


def find_rapl(root: Path = Path("/sys/class/powercap")) -> Rapl | Unmetered:
    """The machine's counters, or why there are none."""
    folders = sorted(folder for folder in root.glob("intel-rapl:*") if (folder / "name").is_file())
    if not folders:
        return Unmetered(NAME, f"{root} has no intel-rapl zones: no such counters, or a virtual machine or container")
    zones = []
    for folder in folders:
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith(MEASURED):
                counter = folder / "energy_uj"
                zones.append(Zone(name, counter, _number(folder / "max_energy_range_uj"), _number(counter)))
        except PermissionError:
            return Unmetered(NAME, f"{folder.name}/energy_uj may be read by root alone: run as root, or chmod a+r it")
        except (OSError, ValueError) as error:
            return Unmetered(NAME, f"{folder.name} cannot be read ({error})")
    return Rapl(zones) if zones else Unmetered(NAME, f"{root} has no zone of a package or of memory")


def _number(path: Path) -> int:
    return int(path.read_text())
