"""The table of targets says "ran" and "compiled" only where something shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.results_table import TABLES
from benchmarks.target_rows import COMPILED, NOT_RUN, RAN, RTX_TEST, target_rows


def gpu_document(**sections: Any) -> dict[str, Any]:
    named = {name.replace("__", "/").replace("_rtx", "-rtx"): section for name, section in sections.items()}
    machine = {"command": "python -m benchmarks.gpu --minutes 25", "commit": "abc"}
    return {"device": "cuda", "card": "NVIDIA L4", "date": "2026-11-22", "machine": machine, "sections": named}


def section(status: str, version: str = "1.7.1.116", reason: str | None = None) -> dict[str, Any]:
    steps = {"installed": {"ok": True, "version": version}, "latency": {"ok": False}}
    return {"status": status, "reason": reason, "steps": steps, "seconds": 1}


def marks(results: dict[str, Any], root: Path | None = None) -> dict[str, str]:
    rows = target_rows(results) if root is None else target_rows(results, root)
    return {row[1].split(" (")[0]: row[2] for row in rows}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One whose `make test` has TensorRT-RTX, and the test that compiles with it."""
    path, name = RTX_TEST
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f"def {name}() -> None: ...\n")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text("make test\n")
    (tmp_path / "Makefile").write_text(
        "$(FULL): $(SETTINGS)\n\tpip install .[dev]\n\n$(GPU):\n\tpip install tensorrt-rtx\n"
    )
    (tmp_path / "pyproject.toml").write_text('dev = [\n    "fgr-edge[cpu,tensorrt-rtx]",\n]\n')
    return tmp_path


def test_without_documents_nothing_ran(repository: Path) -> None:
    found = marks({}, repository)
    assert found.pop("TensorRT-RTX") == COMPILED
    assert set(found.values()) == {NOT_RUN} and len(found) == 7


def test_a_test_that_ci_skips_compiles_nothing(repository: Path) -> None:
    (repository / "pyproject.toml").write_text('dev = [\n    "fgr-edge[cpu]",\n]\n')
    assert marks({}, repository)["TensorRT-RTX"] == NOT_RUN


def test_a_test_that_is_gone_compiles_nothing(repository: Path) -> None:
    (repository / RTX_TEST[0]).write_text("")
    assert marks({}, repository)["TensorRT-RTX"] == NOT_RUN


def test_a_run_names_card_date_and_command_and_only_its_own_version() -> None:
    document = gpu_document(tensorrt__nano__fp16=section("done", "10.3.0.30"), onnxruntime__nano__fp16=section("done"))
    rows = {row[1]: row for row in target_rows({"gpu": document})}
    assert rows["TensorRT 10.3 (JetPack 6.1 and 6.2)"][2:] == (
        RAN, "NVIDIA L4, 2026-11-22, `python -m benchmarks.gpu --minutes 25`",
    )  # fmt: skip
    assert rows["ONNX Runtime CUDA"][2] == RAN
    assert rows["TensorRT 10.13 (JetPack 7.0 and 7.1)"][2] == NOT_RUN == rows["TensorRT 11"][2]


def test_a_run_that_was_wrong_says_so() -> None:
    document = gpu_document(tensorrt_rtx__nano__fp16=section("failed", reason="verify: decode is off"))
    (row,) = [row for row in target_rows({"gpu": document}) if row[1] == "TensorRT-RTX"]
    assert row[2] == RAN and "FAILED: verify: decode is off" in row[3]


def test_sections_that_found_nothing_installed_or_no_time_did_not_run(repository: Path) -> None:
    document = gpu_document(tensorrt_rtx__nano__fp16=section("absent"), tensorrt__nano__fp16=section("cut", "10.3"))
    found = marks({"gpu": document}, repository)
    assert found["TensorRT-RTX"] == COMPILED and found["TensorRT 10.3"] == NOT_RUN


def test_the_cpu_standing_in_for_a_gpu_is_no_run() -> None:
    document = {**gpu_document(onnxruntime__nano__fp16=section("done")), "device": "cpu"}
    assert marks({"gpu": document})["ONNX Runtime CUDA"] == NOT_RUN


def test_tables_without_documents_are_empty_and_with_them_are_not() -> None:
    assert "not measured" in TABLES["gpu"]({}) and "not measured" in TABLES["memory_plan"]({})
    document = gpu_document(onnxruntime__nano__fp16=section("failed"))
    assert "| NVIDIA L4: onnxruntime/nano/fp16 | - (failed) |" in TABLES["gpu"]({"gpu": document})
