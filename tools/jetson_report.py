#!/usr/bin/env python3
"""Prints one block to paste into an issue: what this Jetson is, how it is set, and whether a bundle is right on it.

In: nothing, or a bundle. Out: the block, on stdout; always, and exit 0. What cannot be found out is "unknown": on a
machine that is no Jetson nearly everything is. Needs Python 3.10 and nothing else; changes nothing; no host name, user
or address gets into the block. Written after NVIDIA's documentation and recorded outputs; not run on hardware.

    python3 tools/jetson_report.py [--bundle BUNDLE] [--json]

Run it with the Python that has fgr-edge. Some clocks are shown to root only: sudo -E env "PATH=$PATH" python3 ...
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

UNKNOWN = "unknown"
COMMAND_S = 20
VERIFY_S = 900
# JetPack by release of Jetson Linux (L4T), where no package says it.
JETPACKS = {"36.3": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "38.2": "7.0", "38.4": "7.1"}
DISTRIBUTIONS = ("fgr-edge", "onnxruntime", "onnxruntime-gpu", "tensorrt", "cuda-python", "cuda-bindings", "numpy")


def read_text(path: Path) -> str | None:
    """A small file without its closing zero byte; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return None


def output_of(*command: str, seconds: float = COMMAND_S) -> str | None:
    """What a command prints; None where it is not there, fails or takes too long."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def package_version(*patterns: str) -> str | None:
    """Version of the first Debian package that is installed."""
    wanted = "${Package} ${Version} ${db:Status-Status}\n"
    for pattern in patterns:
        for line in (output_of("dpkg-query", "-W", "-f", wanted, pattern) or "").splitlines():
            parts = line.split()
            if len(parts) == 3 and parts[2] == "installed":
                return parts[1]
    return None


def board(root: Path) -> str | None:
    """As the device tree calls it."""
    return read_text(root / "proc/device-tree/model")


def l4t(root: Path) -> str | None:
    """Release of Jetson Linux: "# R36 (release), REVISION: 4.3, ..." is 36.4.3."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else package_version("nvidia-l4t-core")


def jetpack(root: Path) -> str | None:
    """Of the metapackage; else by the release of Jetson Linux, which most images have alone."""
    stated = package_version("nvidia-jetpack")
    if stated:
        return stated
    release = l4t(root) or ""
    fitting = [name for name in JETPACKS if release == name or release.startswith(f"{name}.")]
    return f"{JETPACKS[max(fitting, key=len)]} (by L4T)" if fitting else None


def system(root: Path) -> str | None:
    """Distribution and kernel."""
    stated = re.search(r'PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or "")
    return f"{stated[1] if stated else UNKNOWN}, {platform.release()}, {platform.machine()}"


def container(root: Path) -> str:
    """Whether this runs in one."""
    return "yes" if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists() else "no"


def cuda(root: Path) -> str | None:
    """Of the toolkit, and what the driver takes."""
    try:
        stated = json.loads(read_text(root / "usr/local/cuda/version.json") or "{}")["cuda"]["version"]
    except (ValueError, LookupError, TypeError):
        return package_version("cuda-toolkit-1[0-9]*", "cuda-cudart-1[0-9]*")
    return str(stated)


def tensorrt(root: Path) -> str:
    """The library of the system, and what this Python imports."""
    code = "import tensorrt; print(tensorrt.__version__)"
    imported = output_of(sys.executable, "-c", code)
    library = package_version("libnvinfer10", "libnvinfer11", "libnvinfer[0-9]*")
    return f"{library or UNKNOWN}, in this Python {imported or 'not importable'}"


def python_packages(root: Path) -> str:
    """Versions in this Python, of what matters here."""
    from importlib import metadata

    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found) or 'none of fgr-edge'}"


def power_mode(root: Path) -> str | None:
    """`nvpmodel -q`: a line with the name, a line with the number."""
    told = output_of("nvpmodel", "-q") or ""
    name = re.search(r"NV Power Mode: *(\S+)", told)
    number = re.search(r"^(\d+)$", told, re.MULTILINE)
    return f"{name[1]}{f' ({number[1]})' if number else ''}" if name else None


def gpu_clock(root: Path) -> str | None:
    """Now and its bounds; both bounds equal is what jetson_clocks sets."""
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"gpu|ga10b|gv11b|gpc", folder.name):
            return clock(folder / "cur_freq", folder / "min_freq", folder / "max_freq", 1_000_000)
    return None


def cpu_clock(root: Path) -> str | None:
    """Of the first core."""
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    return clock(folder / "scaling_cur_freq", folder / "scaling_min_freq", folder / "scaling_max_freq", 1000)


def memory_clock(root: Path) -> str | None:
    """EMC; shown to root only."""
    folder = root / "sys/kernel/debug/bpmp/debug/clk/emc"
    return clock(folder / "rate", folder / "min_rate", folder / "max_rate", 1_000_000)


def clock(now: Path, low: Path, high: Path, per_mhz: int) -> str | None:
    """MHz, and whether it is held."""
    values = [read_text(path) or "" for path in (now, low, high)]
    if not all(value.isdigit() for value in values):
        return None
    current, least, most = (int(value) // per_mhz for value in values)
    return f"{current} MHz, {'held' if least == most else f'free between {least} and {most} MHz'}"


def memory(root: Path) -> str | None:
    """All, available, swap; zram is part of swap."""
    values = dict(re.findall(r"^(\w+): +(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE))
    if "MemTotal" not in values:
        return None
    total, free, swap = (int(values.get(name, 0)) / 1048576 for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    zram = len(re.findall(r"^/dev/zram", read_text(root / "proc/swaps") or "", re.MULTILINE))
    return f"{total:.1f} GiB, {free:.1f} available; swap {swap:.1f} GiB{f', {zram} of its parts zram' if zram else ''}"


def desktop(root: Path) -> str | None:
    """Whether one is started at boot: it takes memory."""
    target = output_of("systemctl", "get-default")
    return None if target is None else "yes" if target == "graphical.target" else "no"


def storage(root: Path) -> str | None:
    """What the system lies on."""
    for line in (read_text(root / "proc/mounts") or "").splitlines():
        parts = line.split()
        if len(parts) > 2 and parts[1] == "/":
            return f"{parts[0]} ({parts[2]})"
    return None


PROBES: tuple[tuple[str, Callable[[Path], str | None]], ...] = (
    ("board", board),
    ("JetPack", jetpack),
    ("L4T", l4t),
    ("system", system),
    ("container", container),
    ("CUDA", cuda),
    ("TensorRT", tensorrt),
    ("packages", python_packages),
    ("power mode", power_mode),
    ("GPU clock", gpu_clock),
    ("CPU clock", cpu_clock),
    ("memory clock", memory_clock),
    ("memory", memory),
    ("desktop", desktop),
    ("storage", storage),
)


def report(root: Path, bundle: Path | None) -> dict[str, str]:
    """Every probe's answer; one that raises is "unknown" with the reason."""
    found = {}
    for name, probe in PROBES:
        try:
            found[name] = probe(root) or UNKNOWN
        except Exception as error:  # a report that fails helps nobody
            found[name] = f"{UNKNOWN} ({type(error).__name__}: {error})"
    found["verify"] = "no bundle was given" if bundle is None else verified(bundle)
    if bundle is not None:
        found["engines"] = engines(bundle)
    return found


def verified(bundle: Path) -> str:
    """`fgr-edge verify`: passed, or the first stage that is wrong, or why it did not run."""
    command = [sys.executable, "-c", "from fgr_edge.cli import main; main()", "verify", str(bundle), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=VERIFY_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{UNKNOWN} ({type(error).__name__})"
    try:
        found = json.loads(done.stdout)
        precision = ", ".join(f"{part} {kind}" for part, kind in found["precision"].items())
        subject = f"{found['model']} for {found['target']} ({precision})"
        if found["passed"]:
            return f"passed: {subject}"
        return f"FAILED in stage {found['first_wrong']}: {subject}; {found['likely_cause']}"
    except (ValueError, LookupError, TypeError, AttributeError):
        words = done.stderr.decode(errors="replace").strip().splitlines()
        last = words[-1].replace(str(bundle), bundle.name) if words else f"exit code {done.returncode}"
        return f"did not run: {last[:300]}"


def engines(bundle: Path) -> str:
    """What was built into the bundle, and whether it was verified then."""
    rows: list[str] = []
    for path in sorted((bundle / "engines").glob("*/engine.json")):
        try:
            record = json.loads(path.read_text())
            passed = (record.get("verified") or {}).get("passed")
        except (OSError, ValueError, AttributeError):
            rows.append(f"{path.parent.name} (damaged)")
            continue
        rows.append(f"{path.parent.name} ({'verified' if passed else 'not verified'})")
    return ", ".join(rows) or "none"


def block(found: dict[str, str]) -> str:
    """As it is pasted: a fenced block, so that nothing in it is read as markup."""
    width = max(len(name) for name in found)
    lines = [f"{name:<{width}}  {value}" for name, value in found.items()]
    return "\n".join(("```text", *lines, "```"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bundle", type=Path, help="also verify this bundle, which may take minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = report(options.root, options.bundle)
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else block(found))


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"  # what is parsed is English
    main()
