"""engines/onnxruntime-<machine>/tuning.json: session settings that were measured on one machine, for one bundle.

In: a bundle. Out: the settings to open its graphs with: those that `fgr-edge tune` found here, or the defaults. No
manifest lists the file: it is made on the device, from the bundle, and says nothing about any other machine. Settings
change results by no more than rounding (see `SessionSettings.products`), so a record that is damaged, or of other
graphs, is left aside with a warning. What a record of an older version does not name has its default.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fgr_edge.errors import ConfigError, StorageError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.engine_record import ENGINES
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.threads import usable_cores

TUNING = "tuning.json"
TUNING_SCHEMA = 1
_GRAPHS = ("vision.onnx", "decoder.onnx")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """What settings depend on.

    Attributes:
        cpu: the processor's name.
        features: its instruction sets, as the kernel lists them.
        cores: that this process may use.
        onnxruntime: the engine's version; "" where it is not installed.
    """

    cpu: str
    features: str
    cores: int
    onnxruntime: str

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that differ between machines."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured, and the settings that it speaks for.

    Attributes:
        sources: SHA-256 of the graphs, by name.
        measured: one row a candidate, fastest settings among them: see `bench/tune.py`.
        noise: what else the machine did meanwhile, in sentences; empty where it was quiet.
    """

    settings: SessionSettings
    machine: Machine
    sources: Mapping[str, str]
    measured: tuple[Mapping[str, Any], ...] = ()
    noise: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"schema_version": TUNING_SCHEMA, **asdict(self)}


def this_machine() -> Machine:
    """The machine that this process runs on."""
    cores = usable_cores()
    name = _cpu_field("model name") or " ".join(filter(None, map(_cpu_field, ("CPU implementer", "CPU part"))))
    return Machine(
        cpu=name or platform.processor() or platform.machine(),
        features=" ".join(sorted((_cpu_field("flags") or _cpu_field("Features")).split())),
        cores=cores,
        onnxruntime=_onnxruntime_version(),
    )


def tuning_path(bundle: Path, machine: Machine) -> Path:
    """Where the record of `machine` lies in the bundle's folder."""
    return bundle / ENGINES / f"onnxruntime-{machine.key}" / TUNING


def sources_of(bundle: Bundle) -> dict[str, str]:
    """SHA-256 of the graphs, by name, as the manifest has them."""
    return {name: bundle.manifest["files"][name]["sha256"] for name in _GRAPHS}


def tuned_settings(bundle: Bundle) -> SessionSettings:
    """The settings measured for this bundle on this machine; the defaults where there are none."""
    if not (bundle.path / ENGINES).is_dir():
        return SessionSettings()  # without looking at the machine, which takes a millisecond
    path = tuning_path(bundle.path, this_machine())
    try:
        document = json.loads(path.read_bytes())
        if document["schema_version"] != TUNING_SCHEMA or document["sources"] != sources_of(bundle):
            log.warning("%s is of other graphs or another version, and left aside: run fgr-edge tune again", path)
            return SessionSettings()
        return SessionSettings(**document["settings"])
    except FileNotFoundError:
        return SessionSettings()
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        log.warning("%s cannot be read (%s), and is left aside: run fgr-edge tune again", path, error)
        return SessionSettings()


def write_tuning(bundle: Bundle, tuning: Tuning) -> Path:
    """Put the record into the bundle's folder, whole or not at all; returns its path.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = tuning_path(bundle.path, tuning.machine)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(tuning.to_json(), indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}); free some space, or allow writing"
        ) from error
    return path


def _onnxruntime_version() -> str:
    from importlib import metadata  # slow to import, and most starts have no need of it

    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _cpu_field(key: str) -> str:
    """The first value of a key in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
