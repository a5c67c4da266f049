"""TensorRT-RTX builds engines ahead of time, on this machine, for GPUs that it does not have: `fgr-edge build --gpu`.

`pip install tensorrt-rtx` (235 MB; part of `make test` on Linux and x86-64); without it these tests are skipped. What
the engines compute is seen on a GPU only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

from benchmarks.random_checkpoint import QWEN_3B, write_checkpoint  # noqa: E402
from fgr_edge.errors import ConfigError, EngineError  # noqa: E402
from fgr_edge.export.engine_build import BuildConfig, build_engines  # noqa: E402
from fgr_edge.export.engine_graph import prepare_graph  # noqa: E402
from fgr_edge.export.engine_profiles import EngineSizes, head_ranges, profiles  # noqa: E402
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint  # noqa: E402
from fgr_edge.export.tensorrt import BuilderSettings, build_engine, load_library  # noqa: E402
from fgr_edge.runtime.bundle import Bundle  # noqa: E402
from fgr_edge.runtime.engine_record import find_engines  # noqa: E402

if TYPE_CHECKING:
    from tests.command import Done

THREE = ("sm86", "rtx-40", "rtx-50")  # SM86, 89 and 120
PARTS = {
    "int4": {"precision": "int4", "method": "nearest"},
    "int8-channel": {
        "precision": "int8",
        "vision": "int8-channel",
        "decoder": "int8-channel",
        "head": "int8-channel",
    },
}


@pytest.fixture(scope="module")
def nano(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`nano("fp16")`: models/nano for target tensorrt-rtx; a test that builds into it copies it."""
    made: dict[str, Path] = {}

    def bundle(precision: str) -> Path:
        if precision not in made:
            made[precision] = exported(nano_checkpoint, tmp_path_factory.mktemp("rtx") / "nano", precision)
        return made[precision]

    return bundle


def exported(checkpoint: Path, output: Path, precision: str, **options: Any) -> Path:
    parts: dict[str, Any] = PARTS.get(precision, {"precision": precision})
    config = ExportConfig(checkpoint, output, "tensorrt-rtx", proof=False, quiet=True, **parts, **options)
    return export_checkpoint(config)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_one_engine_of_nano_serves_three_generations(
    nano: Callable[[str], Path], tmp_path: Path, precision: str
) -> None:
    bundle = Path(shutil.copytree(nano(precision), tmp_path / "bundle"))
    built = build_engines(BuildConfig(bundle, gpus=THREE, cameras=((200, 190),), quiet=True))
    assert built.fresh and built.report is None and built.record.sms == (86, 89, 120)
    assert list(built.record.engines) == ["vision", "decoder", "head"]
    version = built.record.product_version
    for sm in (86, 89, 120):
        assert find_engines(bundle, "tensorrt-rtx", version, "any GPU", sm) == built.record
    with pytest.raises(EngineError, match=r"no engines for another \(SM75\)"):
        find_engines(bundle, "tensorrt-rtx", version, "another", 75)
    assert all(engine.size_bytes > 100_000 for engine in built.record.engines.values())
    assert not build_engines(BuildConfig(bundle, gpus=THREE, cameras=((200, 190),), quiet=True)).fresh


# Times the decoder's weights. TensorRT-RTX 1.7.1 stores some int8 weights with scales for blocks of 128 as float16, and
# none with scales for rows.
LARGEST = {"fp16": 1.1, "int8": 1.7, "int8-channel": 1.1, "int4": 1.15}


@pytest.mark.parametrize("precision", LARGEST)
def test_layers_of_the_3b_shape_are_built_in_engines_of_about_their_weights(
    nano_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    few = replace(
        QWEN_3B, layers=1, vocab=2048, vision_depth=2, full_attention_blocks=(1,), tied=True, stored_head=False
    )
    checkpoint = write_checkpoint(tmp_path / "checkpoint", few, tokenizer=nano_checkpoint / "tokenizer.json")
    bundle = exported(checkpoint, tmp_path / "bundle", precision, image_size=(640, 480))
    shutil.rmtree(checkpoint)
    config = BuildConfig(bundle, gpus=("sm89",), cameras=((640, 480),), one_profile=True, quiet=True)
    built = build_engines(config)
    assert [profile.name for profile in built.record.engines["vision"].profiles] == ["any", "640x480"]
    assert "one-profile" in built.record.flags
    files = Bundle.open(bundle).manifest["files"]
    ratio = built.record.engines["decoder"].size_bytes / files["decoder.onnx.data"]["size"]
    assert 1 <= ratio < LARGEST[precision]
    shutil.rmtree(bundle)


def test_a_cache_of_unknown_length_is_refused_with_its_node_and_what_to_do(
    nano: Callable[[str], Path], tmp_path: Path
) -> None:
    library = load_library("tensorrt-rtx")
    with pytest.raises(EngineError) as caught:
        build_engine(library, nano("fp16") / "decoder.onnx", tmp_path / "plan", (), BuilderSettings(sms=(89,)))
    message = str(caught.value)
    assert "cannot read decoder.onnx: node TensorScatter_1 (TensorScatter)" in message
    assert "static sequence length" in message and "build with --cache-length" in message


def test_a_full_disk_ends_the_build_and_not_the_process(nano: Callable[[str], Path], tmp_path: Path) -> None:
    bundle, library = Bundle.open(nano("fp16")), load_library("tensorrt-rtx")
    (tmp_path / "head.onnx.data").hardlink_to(bundle.path / "head.onnx.data")
    prepared = prepare_graph(bundle, "head.onnx", library.release, 1024, tmp_path / "head.onnx")
    ranges = profiles(prepared.inputs, head_ranges(bundle.manifest, EngineSizes(1024, 512)))
    with pytest.raises(OSError, match="No space left on device"):
        build_engine(library, prepared.path, Path("/dev/full"), ranges, BuilderSettings(sms=(89,)))


def spoiled(nano: Callable[[str], Path], folder: Path, change: Callable[[Any], None]) -> str:
    """What is said of nano's head with a change made to its graph."""
    bundle = Bundle.open(Path(shutil.copytree(nano("fp16"), folder / "bundle")))
    library = load_library("tensorrt-rtx")
    prepared = prepare_graph(bundle, "head.onnx", library.release, 1024, bundle.path / "spoiled.onnx")
    model = onnx.load(str(prepared.path), load_external_data=False)
    change(model)
    onnx.save(model, str(prepared.path))
    ranges = profiles(prepared.inputs, head_ranges(bundle.manifest, EngineSizes(1024, 512)))
    with pytest.raises(EngineError) as caught:
        build_engine(library, prepared.path, folder / "plan", ranges, BuilderSettings(sms=(89,)))
    return str(caught.value)


def test_an_operator_that_the_library_does_not_know_is_named(nano: Callable[[str], Path], tmp_path: Path) -> None:
    def change(model: Any) -> None:
        next(node for node in model.graph.node if node.op_type == "MatMul").op_type = "NeverHeardOf"

    message = spoiled(nano, tmp_path, change)
    assert "(NeverHeardOf): " in message and "does not know the operator: upgrade the library" in message


def test_missing_weights_are_named(nano: Callable[[str], Path], tmp_path: Path) -> None:
    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "absent.data" if entry.key == "location" else entry.value

    message = spoiled(nano, tmp_path, change)
    assert "lm_head" in message and "missing or cut: fgr-edge verify" in message


def test_types_that_a_generation_lacks_are_refused_before_anything_is_built(
    nano_checkpoint: Path, nano: Callable[[str], Path], tmp_path: Path
) -> None:
    bf16 = exported(nano_checkpoint, tmp_path / "bf16", "bf16")
    with pytest.raises(ConfigError, match=r"t4 \(SM75\) cannot compute in bf16.*choose fp16"):
        build_engines(BuildConfig(bf16, gpus=("t4",), quiet=True))
    with pytest.raises(ConfigError, match=r"TensorRT-RTX builds for SM75.*not for orin-nano \(SM87\)"):
        build_engines(BuildConfig(bf16, gpus=("orin-nano",), quiet=True))
    with pytest.raises(ConfigError, match=r"leave out --strip"):
        config = BuildConfig(nano("fp16"), gpus=("sm89",), builder=BuilderSettings(stripped=True), quiet=True)
        build_engines(config)


def test_the_command_builds_ahead_of_time(
    nano: Callable[[str], Path], tmp_path: Path, fgr_edge: Callable[..., Done]
) -> None:
    bundle = Path(shutil.copytree(nano("int8"), tmp_path / "bundle"))
    done = fgr_edge("build", str(bundle), "--gpu", "sm86", "--cache-length", "1536", "--chunk", "256", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["record"]["sms"] == [86] and document["record"]["cache_length"] == 1536
    assert document["verified"] is None and document["peak_bytes"] > 0
    assert set(document["seconds"]) == {"vision", "decoder", "head"}
