"""The memory plan against what was measured, and its arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import rtx_3b
from benchmarks.memory_plan import facts_of
from benchmarks.random_checkpoint import QWEN_3B, SHAPES
from fgr_edge.errors import BundleError, ConfigError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.decoder import CHUNK_TOKENS
from fgr_edge.runtime.memory.advice import advised, plan_table
from fgr_edge.runtime.memory.devices import DEVICES, GIB, MIB, PlanDevice, find_device
from fgr_edge.runtime.memory.facts import MemoryFacts, Target, read_facts
from fgr_edge.runtime.memory.plan import plan_memory
from tests.command import Done

if TYPE_CHECKING:
    from tests.tiny import TinyModels

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
WITHIN = 0.15
ROOMY = PlanDevice("roomy", 1 << 40, 0, "nothing", shared=True)

ANSWER = """
import sys
import numpy as np
from fgr_edge import Recognizer
recognizer = Recognizer(sys.argv[1], threads=2)
picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
for _ in range(2):
    recognizer(picture, mode="reason")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def facts_3b(target: Target = "cpu", precision: str = "int8", **changed: Any) -> MemoryFacts:
    """Qwen2.5-VL-3B in one precision, asked about 640 x 480."""
    return replace(facts_of(QWEN_3B, target, precision), **changed)


@pytest.mark.parametrize(
    ("name", "part", "precision"), [("export_3b", "answer", "int8"), ("decode_3b", "memory", "int4-128")]
)
def test_the_3b_model_took_what_is_predicted(name: str, part: str, precision: str) -> None:
    measured = json.loads((RESULTS / f"{name}.json").read_text())[part]["peak_bytes"]
    predicted = plan_memory(facts_3b(precision=precision), ROOMY).run_bytes
    assert abs(predicted / measured - 1) < WITHIN, predicted / measured


@pytest.mark.parametrize(
    ("shape", "scheme", "one_profile", "stored_mib", "peak_mib"),
    [
        # Peaks of TensorRT-RTX 1.7.1 building for one GPU on a machine without one, all graphs in one process.
        ("qwen2.5-vl-195m", "fp16", False, (34.7, 153.0, 222.6), 1004),
        ("qwen2.5-vl-195m", "fp16", True, (34.7, 153.0, 222.6), 993),
        ("qwen2.5-vl-195m", "int8", False, (17.7, 77.8, 113.0), 764),
        ("qwen2.5-vl-195m", "int4-128", False, (17.7, 39.5, 57.4), 933),
        # The decoder alone, the largest.
        ("qwen2.5-vl-3b", "fp16", True, (1276.0, 5292.0, 593.5), 14673),
        ("qwen2.5-vl-3b", "fp16", False, (1276.0, 5292.0, 593.5), 20807),
    ],
)
def test_builds_of_tensorrt_rtx_took_what_is_predicted(
    shape: str, scheme: str, one_profile: bool, stored_mib: tuple[float, float, float], peak_mib: float
) -> None:
    names = ("vision_bytes", "decoder_bytes", "head_bytes")
    stored: dict[str, Any] = {name: round(mib * MIB) for name, mib in zip(names, stored_mib, strict=True)}
    facts = replace(facts_of(SHAPES[shape], "tensorrt-rtx", scheme), one_profile=one_profile, **stored)
    predicted = plan_memory(facts, ROOMY).build_bytes / MIB
    assert abs(predicted / peak_mib - 1) < WITHIN, predicted


def test_the_whole_3b_model_was_built_in_what_is_predicted() -> None:
    path = RESULTS / "rtx_3b.json"
    if not path.is_file():
        pytest.skip("no results of benchmarks/rtx_3b.py")
    ratios = {
        (row["precision"], row["profiles"]): rtx_3b.predicted(row) / row["peak_bytes"]
        for row in json.loads(path.read_text())["rows"]
        if row["finished"]
    }
    assert ratios and all(abs(ratio - 1) < WITHIN for ratio in ratios.values()), ratios


def test_one_profile_makes_smaller_engines_and_is_suggested() -> None:
    small = PlanDevice("small", 8 * GIB, 0, "nothing", shared=True)
    plan = advised(plan_memory(facts_3b("tensorrt-rtx", "fp16"), small))
    (one,) = (s for s in plan.suggestions if s.change.endswith("build with --one-profile"))
    assert one.run_bytes < plan.run_bytes and one.build_bytes < plan.build_bytes
    engines = next(item for item in plan.items if item.name == "engines")
    assert engines.bytes > plan.facts.weight_bytes, "what is stored is not what is held"


def test_what_the_benchmark_recorded_is_within_the_bound() -> None:
    path = RESULTS / "memory_plan.json"
    if not path.is_file():
        pytest.skip("no results of benchmarks/memory_plan.py")
    ratios = {row["what"]: row["ratio"] for row in json.loads(path.read_text())["rows"] if row["ratio"] is not None}
    assert ratios and all(abs(ratio - 1) < WITHIN for ratio in ratios.values()), ratios


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nano_takes_what_is_predicted(nano_bundle: Callable[..., Path], precision: str) -> None:
    bundle = nano_bundle(precision)
    run = subprocess.run([sys.executable, "-c", ANSWER, str(bundle)], capture_output=True, text=True, check=True)
    measured = int(run.stdout) * 1024
    facts = replace(read_facts(Bundle.open(bundle).manifest), branches=0)
    predicted = plan_memory(facts, ROOMY).run_bytes
    assert abs(predicted / measured - 1) < WITHIN, predicted / measured


def test_cache_and_weights_are_exact(tiny_models: TinyModels) -> None:
    path = tiny_models.bundle("qwen2.5", "int8")
    manifest = Bundle.open(path).manifest
    plan = plan_memory(read_facts(manifest, tokens=600), ROOMY)
    items = {item.name.split(",")[0]: item.bytes for item in plan.items}
    assert items["KV cache"] == 2 * 3 * 2 * 16 * (768 + 1024) * 4  # key and value, layers, heads, width, slots, float32
    stored = [file.stat().st_size for file in path.glob("*.onnx.data")]
    assert items["weights"] == sum(stored)


def test_a_plan_adds_up_and_survives_json(tiny_models: TinyModels) -> None:
    plan = plan_memory(read_facts(Bundle.open(tiny_models.bundle("qwen3", "fp16", "tensorrt")).manifest), ROOMY)
    document = json.loads(json.dumps(plan.to_json()))
    for phase in ("run", "build"):
        assert document[f"{phase}_bytes"] == sum(i["bytes"] for i in document["items"] if i["phase"] == phase) > 0
    assert document["fits"] is True and document["suggestions"] == []


def test_a_3b_in_16_bits_cannot_be_built_on_an_orin_nx_and_int4_can() -> None:
    plan = advised(plan_memory(facts_3b("tensorrt", "fp16", tokens=1500), DEVICES["orin-nx"]))
    assert plan.fits is False and plan.run_bytes < plan.device.available_bytes < plan.build_bytes
    workspace = next(s for s in plan.suggestions if "--workspace-mb" in s.change)
    together = next(s for s in plan.suggestions if s.change.startswith("together"))
    assert together.fits and "int4" in together.change
    assert together.build_bytes < plan.build_bytes and together.run_bytes < plan.run_bytes
    assert workspace.run_bytes == plan.run_bytes and workspace.build_bytes < plan.build_bytes
    (swap,) = (s for s in plan.suggestions if "swap" in s.change)
    gib = int(swap.change.split()[0])
    assert 0 <= plan.device.available_bytes + gib * GIB - plan.build_bytes < GIB
    assert "does not fit" in plan_table(plan)


def test_every_suggestion_is_the_plan_of_the_changed_model() -> None:
    small = PlanDevice("small", 2 * GIB, 0, "nothing", shared=True)
    facts = replace(facts_3b("cpu", "int8"), pixels=1920 * 1080, tokens=4096)
    plan = advised(plan_memory(facts, small))
    for suggestion in plan.suggestions:
        if "--image-size 640x480" in suggestion.change:
            assert suggestion.run_bytes == plan_memory(facts.changed(pixels=640 * 480), small).run_bytes
            break
    else:
        pytest.fail("a smaller picture was not suggested")
    assert all(s.run_bytes < plan.run_bytes for s in plan.suggestions)


def test_a_smaller_picture_takes_its_tokens_off_the_cache() -> None:
    facts = replace(facts_3b(), pixels=1280 * 720, tokens=2048)
    smaller = facts.changed(pixels=640 * 480)
    assert facts.tokens - smaller.tokens == facts.image_tokens - smaller.image_tokens
    assert smaller.cache_slots < facts.cache_slots


def test_a_gpu_with_its_own_memory_is_asked_for_the_gpus_part_alone() -> None:
    facts = facts_3b("tensorrt", "fp16")
    host = sum(item.bytes for item in plan_memory(facts, ROOMY).items if item.phase == "run" and item.place == "host")
    on_gpu = plan_memory(facts, ROOMY).run_bytes - host
    own = PlanDevice("own", on_gpu + GIB * 2, 0, "nothing", shared=False)
    assert plan_memory(facts, own).fits is True
    assert plan_memory(facts, replace(own, memory_bytes=on_gpu - 1)).fits is False
    assert plan_memory(facts, replace(own, host_bytes=host - 1)).fits is False
    assert plan_memory(facts_3b("cpu"), own).fits is None  # a host of which nothing is known


def test_a_long_prompt_is_planned_in_the_chunks_that_the_decoder_reads() -> None:
    long, short = (facts_3b().changed(pixels=pixels) for pixels in (1920 * 1080, 224 * 224))
    assert long.prompt_tokens > long.prefill_tokens == CHUNK_TOKENS
    assert short.prompt_tokens == short.prefill_tokens < CHUNK_TOKENS


def test_no_plan_without_room_for_the_picture(tiny_models: TinyModels) -> None:
    manifest = Bundle.open(tiny_models.bundle("qwen2.5", "int8")).manifest
    with pytest.raises(ConfigError, match="no room for the largest picture"):
        read_facts(manifest, tokens=20)
    with pytest.raises(ConfigError, match="positions for"):
        read_facts(manifest, tokens=1_000_000)
    older = {key: value for key, value in manifest.items() if key != "widths"}
    with pytest.raises(BundleError, match="export it again"):
        read_facts(older)  # type: ignore[arg-type]


def test_unknown_devices_are_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"orin-nano.*thor.*auto"):
        find_device("jetson-9000")


def test_auto_reads_memory_container_and_board(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    with pytest.raises(ConfigError, match="does not say"):
        find_device("auto", tmp_path)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  7800000 kB\nMemFree: 100 kB\nMemAvailable: 6000000 kB\n")
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Engineering Reference Kit\0")
    board = find_device("auto", tmp_path)
    assert board.name.endswith("Kit") and board.shared and board.has_gpu
    assert (board.memory_bytes, board.available_bytes) == (7_800_000 * 1024, 6_000_000 * 1024)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4000000000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000000000\n")
    assert find_device("auto", tmp_path).available_bytes == 3_000_000_000


def test_the_command_prints_a_plan_and_its_json(tiny_models: TinyModels, fgr_edge: Callable[..., Done]) -> None:
    path = tiny_models.bundle("qwen2.5", "int8")
    table = fgr_edge("inspect", path, "--plan", "orin-nano")
    assert table.code == 0 and "to run:" in table.out and "fits into" in table.out
    document = json.loads(fgr_edge("inspect", path, "--plan", "auto", "--json").out)
    assert document["plan"]["fits"] is True and document["family"] == "qwen2_5_vl"
    assert fgr_edge("inspect", path, "--image-size", "640x480").code == 2
    assert fgr_edge("inspect", path, "--plan", "nothing").code == 1


def test_a_head_of_its_own_makes_the_largest_graph_smaller() -> None:
    inside = replace(facts_3b("tensorrt", "fp16"), head_inside=True)
    inside = replace(inside, decoder_bytes=inside.decoder_bytes + inside.head_bytes, head_bytes=0)
    apart = inside.with_head_apart()
    assert apart.weight_bytes == inside.weight_bytes
    before, after = (plan_memory(facts, ROOMY) for facts in (inside, apart))
    assert after.build_bytes < before.build_bytes and after.run_bytes == before.run_bytes


def test_shorter_answers_name_the_option_of_their_engine() -> None:
    small = PlanDevice("small", 2 * GIB, 0, "nothing", shared=True)
    for target, option in (("tensorrt", "--cache-length"), ("cpu", "--think-budget")):
        facts = replace(facts_3b(target, "int8"), tokens=12_000, branches=0)  # type: ignore[arg-type]
        changes = [s.change for s in advised(plan_memory(facts, small)).suggestions if "shorter" in s.change]
        assert changes and all(option in change for change in changes)
        assert len(changes) == len(set(changes))
