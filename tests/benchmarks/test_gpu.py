"""The GPU benchmark's own behaviour, on a machine without one: sections, time limits, crashes, going on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL")

from benchmarks import gpu
from benchmarks.gpu_card import find_card
from benchmarks.gpu_plot import draw

GPU_TESTS = Path(__file__).resolve().parents[1] / "gpu"
TOLD = 'print(\'{"step": "export", "ok": true, "seconds": 1}\', flush=True);'


def child(code: str) -> list[str]:
    return [sys.executable, "-c", TOLD + code]


def latency(tokens_per_s: float, ttft_ms: float) -> dict[str, Any]:
    steps = {"ok": True, "tokens_per_s": tokens_per_s, "bytes_per_token": 5e9, "ttft_ms": {"p50": ttft_ms}}
    return {"status": "done", "reason": None, "seconds": 1, "steps": {"latency": steps}}


@pytest.fixture
def no_card() -> None:
    if find_card()[0] is not None:
        pytest.skip("there is a GPU here")


def test_without_a_gpu_it_says_so_in_one_line_and_exits_1(no_card: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no NVIDIA GPU" in said.err


def test_a_crash_keeps_the_steps_before_it_and_names_the_signal() -> None:
    found = gpu.run_section(child("import os; os.kill(os.getpid(), 11)"), 30)
    assert found["status"] == "failed" and "SIGSEGV after export" in found["reason"]
    assert found["steps"]["export"]["ok"]


def test_an_exception_outside_of_a_step_is_kept_in_words() -> None:
    found = gpu.run_section(child("raise ValueError('the driver is gone')"), 30)
    assert found["status"] == "failed" and "the driver is gone" in found["reason"]


def test_a_time_limit_ends_the_section_and_keeps_its_steps() -> None:
    started = time.monotonic()
    found = gpu.run_section(child("import time; time.sleep(60)"), 3)
    assert time.monotonic() - started < 20
    assert found["status"] == "cut" and list(found["steps"]) == ["export"]


def test_what_is_not_installed_is_no_failure() -> None:
    line = json.dumps({"step": "installed", "ok": False, "absent": True, "reason": "tensorrt is not installed"})
    found = gpu.run_section([sys.executable, "-c", f"print({line!r})"], 30)
    assert (found["status"], found["reason"]) == ("absent", "tensorrt is not installed")


def test_a_wrong_stage_fails_the_section_but_its_times_stay() -> None:
    lines = [
        {"step": "verify", "ok": False, "reason": "decode: 0.5"},
        {"step": "latency", "ok": True, "tokens_per_s": 5.0},
    ]
    code = "".join(f"print({json.dumps(line)!r});" for line in lines)
    found = gpu.run_section([sys.executable, "-c", code], 30)
    assert found["status"] == "failed" and found["steps"]["latency"]["tokens_per_s"] == 5.0


def test_every_engine_model_and_precision_has_a_section() -> None:
    names = gpu.sections(["nano", "3b"])
    assert len(names) == len(set(names)) == 1 + 2 * (3 * 3 + 2)
    assert gpu.wanted(["nano"], "onnxruntime/*") == [
        "card", "onnxruntime/nano/fp16", "onnxruntime/nano/int8", "onnxruntime/nano/int4",
    ]  # fmt: skip


def test_bars_compare_the_fastest_engine_with_transformers_and_the_cards_bandwidth() -> None:
    document: dict[str, Any] = {
        "sections": {
            "card": {"steps": {"card": {"bandwidth_gbps": 1000.0}}},
            "onnxruntime/3b/fp16": latency(100, 40),
            "tensorrt/3b/fp16": latency(150, 30),
            "transformers/3b/eager": latency(50, 60),
        }
    }
    gpu.derive(document)
    assert document["models"] == ["3b"]
    assert document["bars"]["3b"] == {
        "engine": "tensorrt", "decode_over_eager": 3.0, "roofline_share": 0.75, "ttft_over_eager": 0.5,
    }  # fmt: skip


def test_unknown_stays_null() -> None:
    document: dict[str, Any] = {"sections": {"onnxruntime/3b/fp16": latency(100, 40)}}
    gpu.derive(document)
    bars = document["bars"]["3b"]
    assert bars["decode_over_eager"] is None and bars["roofline_share"] is None and bars["engine"] == "onnxruntime"


def test_a_second_run_goes_on_and_another_gpu_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    gpu.write(path, {"device": "cuda", "card": "H100", "sections": {"card": {"status": "done"}}})
    assert gpu.resumed(path, "cuda", "H100") == {"card": {"status": "done"}}
    assert gpu.resumed(path, "cuda", "L4") == {} == gpu.resumed(path, "cpu", None)
    assert list(tmp_path.iterdir()) == [path]


def test_no_time_left_is_written_for_every_section_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_section", lambda *_: pytest.fail("a section was begun"))
    options = gpu.parse(["--device", "cpu", "--models", "nano", "--minutes", "0", "--json", str(tmp_path / "a.json")])
    document = gpu.run(options, None)
    assert {section["status"] for section in document["sections"].values()} == {"cut"}
    assert json.loads((tmp_path / "a.json").read_text())["sections"].keys() == document["sections"].keys()


def test_the_plot_shows_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document: dict[str, Any] = {"card": "H100", "sections": {"onnxruntime/nano/fp16": latency(100, 40)}}
    gpu.derive(document)
    assert draw(document, tmp_path / "gpu.png") and (tmp_path / "gpu.png").stat().st_size > 1000
    assert not draw({**document, "models": []}, tmp_path / "none.png")


def test_tests_of_the_gpu_are_left_out_where_there_is_none() -> None:
    for path in GPU_TESTS.glob("test_*.py"):
        assert "pytestmark = pytest.mark.gpu" in path.read_text(), f"{path.name} would run without a GPU"


@pytest.mark.slow
@pytest.mark.parametrize(
    "section", ["onnxruntime/nano/int8", "tensorrt-rtx/nano/fp16", "tensorrt/nano/int4", "transformers/nano/eager"]
)
def test_every_kind_of_section_runs_on_the_cpu(section: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    arguments = ["--device", "cpu", "--models", "nano", "--only", section, "--rounds", "1", "--new-tokens", "4"]
    options = gpu.parse([*arguments, "--work", str(tmp_path / "work"), "--json", str(tmp_path / "gpu.json")])
    found = gpu.run(options, None)["sections"][section]
    assert found["status"] == "done", found["reason"]
    steps = found["steps"]
    assert steps["latency"]["ttft_ms"]["p50"] > 0 and steps["latency"]["bytes_per_token"] > 0
    # transformers' time per token is a difference of two runs, and may be anything over four tokens on a busy machine.
    if not section.startswith("transformers"):
        assert steps["verify"]["ok"] and "build" not in steps
        assert steps["latency"]["tokens_per_s"] > 0 and steps["latency"]["roofline_share"] > 0
