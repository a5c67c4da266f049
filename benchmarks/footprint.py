"""What an installation takes on the disk: ours with one engine, and the closest peers'; and the wheel.

In: the checkout. Out: a table, then one line of JSON. Every contender gets a fresh environment that has nothing else in
it, not even pip; `pip install` fills it from the registry, ours from a wheel built from this checkout (with compiled
kernels, where there is a C compiler). A *device list* (`requirements/`) is installed with `--no-deps`: exactly what the
runtime needs. The bar is the device's, with one engine. An environment is measured when its import works.

bytes     blocks that the environment's files take on the disk, bytecode included, beyond those of an empty one.
packages  the same, of each distribution's own files.
bytecode_bytes  of all compiled files, which `pip install --no-compile` does not write.
goes_with  of our own dependencies: what would leave the environment with each, itself and what nobody else needs.

What has no wheel for this platform is null, unless `--from-source` may build it (minutes, a compiler).

    python -m benchmarks.footprint [--only NAME...] [--from-source] [--json FILE]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.machine import describe_machine
from benchmarks.report import cell, publish, ratio, table

ROOT = Path(__file__).resolve().parents[1]
OURS = "fgr-edge[cpu], device list"
RESOLVED = "fgr-edge[cpu]"
RUNTIME_BAR_BYTES = 200_000_000
WHEEL_BAR_BYTES = 1_000_000
SHOWN_PACKAGES = 6


@dataclass(frozen=True, slots=True)
class Environment:
    """A contender: its name, what pip is asked for, and Python that must run in it.

    `ours` is installed from the checkout's wheel, whatever the registry has, with `extras`; with a `device_list`, a
    file of the checkout, from that and the wheel alone.
    """

    name: str
    requirements: tuple[str, ...]
    check: str
    ours: bool = False
    extras: tuple[str, ...] = ()
    device_list: str | None = None

    def pip_arguments(self, wheel: Path, *, from_source: bool) -> list[str]:
        """What `pip install` is told to bring."""
        if not self.ours:
            return [*([] if from_source else ["--only-binary", ":all:"]), *self.requirements]
        if self.device_list is None:
            return [f"{name} @ {wheel.as_uri()}" for name in self.requirements]
        return ["--no-deps", "-r", str(ROOT / self.device_list), str(wheel)]


WITH_ENGINE = "import onnxruntime; from fgr_edge import Recognizer; Recognizer"
WITHOUT_ENGINE = "from fgr_edge import Recognizer; Recognizer"
ENVIRONMENTS = (
    Environment(OURS, ("fgr-edge",), WITH_ENGINE, True, ("cpu",), "requirements/device-cpu.txt"),
    # The runtime alone, for a device that brings its engine, as JetPack does.
    Environment("fgr-edge, device list", ("fgr-edge",), WITHOUT_ENGINE, True, (), "requirements/device.txt"),
    Environment(RESOLVED, ("fgr-edge[cpu]",), WITH_ENGINE, True, ("cpu",)),
    Environment("fgr-edge", ("fgr-edge",), WITHOUT_ENGINE, True),
    # Pillow opens the pictures; the library has no decoder of its own for them.
    Environment("onnxruntime-genai", ("onnxruntime-genai", "pillow"), "import onnxruntime_genai, PIL"),
    Environment("openvino-genai", ("openvino-genai", "pillow"), "import openvino_genai, PIL"),
    Environment("llama-cpp-python", ("llama-cpp-python",), "import llama_cpp"),
    Environment(
        "transformers, torch (CPU)",
        ("transformers", "torch==2.13.0", "pillow"),
        "import torch; from transformers import Qwen2_5_VLForConditionalGeneration",
    ),
)


def build_wheel(folder: Path) -> Path:
    """The checkout's wheel, built into `folder`."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("fgr_edge-*.whl")
    return wheel


def measure(environment: Environment, wheel: Path, folder: Path, *, from_source: bool) -> dict[str, Any]:
    """Install, try and weigh one environment; sizes are null where it cannot be installed, and `note` says why."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    empty = disk_bytes(folder.rglob("*"))
    asked = environment.pip_arguments(wheel, from_source=from_source)
    python = folder / "bin" / "python"
    document: dict[str, Any] = {
        "requirements": list(environment.requirements),
        "device_list": environment.device_list,
        "bytes": None,
        "packages": {},
    }
    try:
        _pip("--python", str(python), "install", "--no-cache-dir", *asked)
    except subprocess.CalledProcessError as error:
        if environment.ours or "No matching distribution" not in error.stderr:
            raise RuntimeError(f"{environment.name} cannot be installed:\n{error.stderr}") from error
        return {**document, "note": "no wheel for this platform"}
    subprocess.run([str(python), "-c", environment.check], check=True, cwd=folder, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return {
        **document,
        "bytes": disk_bytes(folder.rglob("*")) - empty,
        "bytecode_bytes": disk_bytes(site.rglob("*.pyc")),
        "packages": packages_in(site),
        "goes_with": goes_with(site, "fgr-edge", environment.extras) if environment.ours else None,
        "note": None,
    }


def packages_in(site: Path) -> dict[str, dict[str, Any]]:
    """Version and size of every distribution, the largest first; of its own files, bytecode included."""
    found: dict[str, dict[str, Any]] = {}
    for distribution in metadata.distributions(path=[str(site)]):
        files = (Path(str(distribution.locate_file(file))) for file in distribution.files or ())
        found[distribution.name] = {"version": distribution.version, "bytes": disk_bytes(files)}
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def goes_with(site: Path, name: str, extras: Sequence[str]) -> dict[str, int]:
    """Bytes that would leave with each direct dependency of the distribution `name`, the most first."""
    needs: dict[str, set[str]] = {
        canonicalize_name(one.name): _needs(one, ()) for one in metadata.distributions(path=[str(site)])
    }
    (ours,) = metadata.distributions(name=name, path=[str(site)])
    direct = _needs(ours, extras)
    sizes: dict[str, int] = {canonicalize_name(one): entry["bytes"] for one, entry in packages_in(site).items()}
    everything = _closure(needs, direct)
    gone = {one: everything - _closure(needs, direct - {one}) for one in direct}
    found = {one: sum(sizes.get(each, 0) for each in gone[one]) for one in direct}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _needs(distribution: metadata.Distribution, extras: Sequence[str]) -> set[str]:
    """Names of what a distribution requires here, with the extras that are asked for."""
    found: set[str] = set()
    for text in distribution.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.add(canonicalize_name(requirement.name))
    return found


def _closure(needs: dict[str, set[str]], start: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = set(start)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= needs.get(name, set()) - found
    return found


def disk_bytes(paths: Iterable[Path]) -> int:
    """Blocks that files take, each file once however many names it has; folders and links' targets are not counted."""
    sizes = {}
    for path in paths:
        try:
            stat = path.lstat()
        except FileNotFoundError:  # listed, and removed by its own installer
            continue
        if not path.is_dir():
            sizes[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(sizes.values())


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def summarize(found: dict[str, dict[str, Any]], wheel_bytes: int) -> dict[str, Any]:
    """The document: sizes beside their bars, peers as multiples of ours."""
    ours = found.get(OURS, {}).get("bytes")
    for document in found.values():
        document["ratio"] = ratio(document["bytes"], ours)
    return {
        "benchmark": "footprint",
        "wheel": {"bytes": wheel_bytes, "bar_bytes": WHEEL_BAR_BYTES, "met": wheel_bytes <= WHEEL_BAR_BYTES},
        "runtime": {
            "environment": OURS,
            "bytes": ours,
            "bar_bytes": RUNTIME_BAR_BYTES,
            "met": None if ours is None else ours <= RUNTIME_BAR_BYTES,
        },
        "environments": found,
    }


def show(document: dict[str, Any]) -> None:
    """A row an environment, with its largest packages."""
    rows = [
        (name, _megabytes(entry["bytes"]), cell(entry["ratio"], 2), entry["note"] or largest(entry["packages"]))
        for name, entry in document["environments"].items()
    ]
    print(table(("environment", "MB", "x", "most of it"), rows))
    wheel = document["wheel"]
    for name, size in (document["environments"].get(RESOLVED) or {"goes_with": {}})["goes_with"].items():
        print(f"with {name} would go {_megabytes(size)} MB")
    print(f"\nwheel: {wheel['bytes'] / 1e6:.2f} MB (bar {wheel['bar_bytes'] / 1e6:.0f} MB)")


def largest(packages: dict[str, dict[str, Any]], count: int = SHOWN_PACKAGES) -> str:
    """The largest distributions of an environment, as text."""
    return ", ".join(f"{name} {_megabytes(entry['bytes'])}" for name, entry in list(packages.items())[:count])


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", help="names of environments; all without it")
    parser.add_argument("--from-source", action="store_true", help="build what has no wheel")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args(arguments)
    names = [environment.name for environment in ENVIRONMENTS]
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        parser.error(f"no environment {', '.join(unknown)}; there are {', '.join(names)}")
    machine = describe_machine()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        for environment in ENVIRONMENTS:
            if options.only is None or environment.name in options.only:
                folder = Path(scratch) / "environment"
                print(environment.name, file=sys.stderr, flush=True)
                found[environment.name] = measure(environment, wheel, folder, from_source=options.from_source)
                shutil.rmtree(folder, ignore_errors=True)
        document = summarize(found, wheel.stat().st_size)
    document["machine"] = machine
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
