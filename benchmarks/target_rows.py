"""The README's table of targets: what was compiled in CI, what ran on hardware, what did neither; never mixed.

In: result documents and the repository. Out: rows. No mark is written by hand:

    compiled in CI    `make test` installs the library, and a test of the repository builds engines with it
    ran on hardware   a document in results/ says so: of `gpu.py` (its card, date, command), for the CPU of `latency.py`
    not run           neither
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgr_edge.errors import EngineError
from fgr_edge.export.tensorrt_versions import RELEASES, Release, find_release

ROOT = Path(__file__).resolve().parents[1]
HEAD = ("target", "engine", "mark", "where")
COMPILED, RAN, NOT_RUN = "compiled in CI", "ran on hardware", "not run"
RTX_TEST = ("tests/export/test_tensorrt_rtx.py", "test_the_builder_compiles_every_scheme_of_both_families")

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """One target on one machine."""

    where: str
    when: str
    command: str
    wrong: str | None = None

    def __str__(self) -> str:
        failed = "" if self.wrong is None else f"; FAILED: {self.wrong[:120]}"
        return f"{self.where}, {self.when}, `{self.command}`{failed}"


def target_rows(results: Results, root: Path = ROOT) -> list[Sequence[str]]:
    """Every target, with each engine's version that is told apart."""
    rows = [_row("cpu", f"ONNX Runtime, {name}", _on_cpu(results, name)) for name in ("x86_64", "aarch64")]
    rows.append(_row("cuda", "ONNX Runtime CUDA", _on_gpu(results, "onnxruntime", None)))
    for release in RELEASES:
        compiled = release.product == "tensorrt-rtx" and compiled_in_ci(root)
        runs = _on_gpu(results, release.product, release)
        rows.append(_row(release.product, _name(release), runs, compiled=compiled))
    return rows


def compiled_in_ci(root: Path) -> bool:
    """Whether `make test` has TensorRT-RTX, and the test that compiles with it exists."""
    path, name = RTX_TEST
    there = (root / path).is_file() and f"def {name}(" in (root / path).read_text(encoding="utf-8")
    return there and _installed_by_make_test(root)


def _installed_by_make_test(root: Path) -> bool:
    """The environment of `make test` is the extra `dev`, and what the Makefile installs into it beside that."""
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    dev = re.search(r"^dev = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    recipe = re.search(r"^\$\(FULL\):.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    ci = (root / ".ci" / "run").read_text(encoding="utf-8")
    return any("tensorrt-rtx" in text for text in (dev[1] if dev else "", recipe[1] if recipe else "", ci))


def _row(target: str, engine: str, runs: Sequence[Run], *, compiled: bool = False) -> Sequence[str]:
    if runs:
        return f"`{target}`", engine, RAN, "; ".join(str(run) for run in runs)
    return f"`{target}`", engine, COMPILED if compiled else NOT_RUN, f"`{RTX_TEST[0]}`" if compiled else "-"


def _name(release: Release) -> str:
    if release.product == "tensorrt-rtx":
        return "TensorRT-RTX"
    version = ".".join(str(part) for part in release.since).removesuffix(".0")
    return f"TensorRT {version}" + (f" (JetPack {release.jetpack})" if release.jetpack else "")


def _on_cpu(results: Results, architecture: str) -> list[Run]:
    """The last of the latency documents of that architecture."""
    found = [
        Run(_cpu(document["machine"]), _when(document), document["machine"]["command"])
        for name, document in sorted(results.items())
        if name.startswith("latency_") and document["machine"]["os"].endswith(architecture)
    ]
    return found[-1:]


def _on_gpu(results: Results, engine: str, release: Release | None) -> list[Run]:
    """Each GPU whose sections of that engine, and of that version, were run."""
    found = []
    for name, document in results.items():
        if not name.startswith("gpu") or document.get("device") != "cuda":
            continue
        sections = [section for title, section in _sections(document, engine) if _version_fits(section, release)]
        if sections:
            wrong = next((section["reason"] for section in sections if section["status"] != "done"), None)
            found.append(Run(document["card"], _when(document), document["machine"]["command"], wrong))
    return found


def _sections(document: Mapping[str, Any], engine: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those that ran at all."""
    for title, section in document["sections"].items():
        if title.startswith(f"{engine}/") and section["status"] in ("done", "failed"):
            yield title, section


def _version_fits(section: Mapping[str, Any], release: Release | None) -> bool:
    if release is None:
        return True
    version = section["steps"].get("installed", {}).get("version", "")
    try:
        return find_release(release.product, version) == release
    except EngineError:
        return False


def _cpu(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores"


def _when(document: Mapping[str, Any]) -> str:
    return str(document.get("date") or f"commit {document['machine']['commit']}")
