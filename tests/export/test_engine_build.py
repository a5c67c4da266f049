"""`fgr-edge build` on a fake GPU with fake libraries of every version, which compute with ONNX Runtime.

What it shows: the engines are built from the bundle's graphs and no others, run through the runtime's own sessions,
verified, installed whole or not at all, found again, and rebuilt when something changed. What a real library makes of
the graphs is shown by `test_tensorrt_rtx.py`, and on hardware.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

from fgr_edge.calibrate.plan import Plan  # noqa: E402
from fgr_edge.calibrate.schemes import SCHEMES  # noqa: E402
from fgr_edge.errors import BundleError, ConfigError, EngineError, MissingExtraError  # noqa: E402
from fgr_edge.export.assembly import BundleOptions, write_bundle  # noqa: E402
from fgr_edge.export.checkpoint import Checkpoint  # noqa: E402
from fgr_edge.export.engine_build import BuildConfig, build_engines  # noqa: E402
from fgr_edge.export.engine_graph import prepare_graph  # noqa: E402
from fgr_edge.export.engine_profiles import EngineSizes, head_ranges, profiles  # noqa: E402
from fgr_edge.export.gpus import Gpu  # noqa: E402
from fgr_edge.export.model import open_model  # noqa: E402
from fgr_edge.export.targets import TARGETS  # noqa: E402
from fgr_edge.export.tensorrt import BuilderSettings, build_engine, load_library  # noqa: E402
from fgr_edge.runtime.bundle import Bundle  # noqa: E402
from fgr_edge.runtime.engine_record import find_engines, read_record, read_records  # noqa: E402
from tests.export.fake_builder import LATER_OPERATORS, add_builder  # noqa: E402
from tests.planted import with_golden  # noqa: E402
from tests.runtime.sessions.fake_cuda import FakeCuda  # noqa: E402
from tests.runtime.sessions.fake_tensorrt import VERSIONS, FakeLibrary  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

Install = Callable[..., list[Any]]
NAME = "NVIDIA Fake 9000"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    from types import ModuleType

    played, package, bindings = FakeCuda(), ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, played  # type: ignore[attr-defined]
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", played)):
        monkeypatch.setitem(sys.modules, name, module)
    return played


@pytest.fixture
def installed(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`installed("10.3.0")`: that version can be imported, and builds; returns the configurations of its builds."""

    def install(version: str, spoil: Callable[[Any], None] | None = None) -> list[Any]:
        library = FakeLibrary(version, cuda)
        monkeypatch.setitem(sys.modules, library.__name__, library)
        return add_builder(library, tmp_path / "kept" / version, spoil)

    return install


@pytest.fixture(scope="module")
def verifiable(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """`verifiable("tensorrt", "qwen2.5")`: an fp32 bundle with golden outputs; a test copies it."""
    made: dict[tuple[str, str], Path] = {}

    def bundle(target: str, shape: str) -> Path:
        if (target, shape) not in made:
            folder = tmp_path_factory.mktemp("engines")
            plain = folder / "plain"
            model = open_model(Checkpoint.open(tiny_models.checkpoint(shape)))
            options = BundleOptions("tiny", "", quiet=True)
            write_bundle(model, TARGETS[target], Plan.uniform(SCHEMES["fp32"]), plain, options)
            made[target, shape] = with_golden(tiny_models.bundle(shape), plain, folder / "golden")
        return made[target, shape]

    return bundle


@pytest.fixture
def bundle(verifiable: Callable[[str, str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(verifiable("tensorrt", "qwen2.5"), tmp_path / "bundle"))


def built(path: Path, **options: Any) -> Any:
    return build_engines(BuildConfig(path, quiet=True, **options))


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_engines_that_verify_and_answer(
    verifiable: Callable[[str, str], Path], tmp_path: Path, installed: Install, version: str
) -> None:
    from fgr_edge import Recognizer
    from tests.tiny import drawing

    product: Any = "tensorrt-rtx" if version.startswith("rtx-") else "tensorrt"
    path = Path(shutil.copytree(verifiable(product, "qwen2.5"), tmp_path / "bundle"))
    before = files(path)
    installed(version)
    result = built(path, cameras=((160, 120),))
    assert result.report["passed"] and result.fresh
    record = result.record
    assert (record.product, record.product_version) == (product, version.removeprefix("rtx-"))
    assert list(record.engines) == ["vision", "decoder", "head"]
    assert record.verified and set(record.verified["stages"].values()) == {"passed"}
    assert {key: value for key, value in files(path).items() if not key.startswith("engines/")} == before
    names = {file.name for file in record.folder.iterdir()}
    timed = {"timing.cache"} if product == "tensorrt" else set()
    assert names == {"vision.engine", "decoder.engine", "head.engine", "engine.json"} | timed
    assert list(path.parent.glob(".bundle.*")) == []
    # The engines answer what the graphs answer on the CPU.
    labels = ["Robin", "Blue Tit", "Great Tit"]
    for size in ((160, 120), (90, 200)):
        on_engine, on_cpu = (
            Recognizer(path, labels, device=device, threads=1)(drawing(*size), top_k=3) for device in (product, "cpu")
        )
        assert on_engine.label == on_cpu.label
        assert on_engine.probability == pytest.approx(on_cpu.probability, abs=1e-4)


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_a_family_whose_layers_take_features_of_the_picture_verifies_too(
    verifiable: Callable[[str, str], Path], tmp_path: Path, installed: Install, version: str
) -> None:
    installed(version)
    path = Path(shutil.copytree(verifiable("tensorrt", "qwen3"), tmp_path / "bundle"))
    assert Bundle.open(path).manifest["vision"]["deepstack"] > 0
    assert built(path).report["passed"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_full_disk_is_an_error_while_the_engine_is_written(
    verifiable: Callable[[str, str], Path], tmp_path: Path, installed: Install, version: str
) -> None:
    installed(version)
    product: Any = "tensorrt-rtx" if version.startswith("rtx-") else "tensorrt"
    bundle, library = Bundle.open(verifiable(product, "qwen2.5")), load_library(product)
    (tmp_path / "head.onnx.data").hardlink_to(bundle.path / "head.onnx.data")
    prepared = prepare_graph(bundle, "head.onnx", library.release, 1024, tmp_path / "head.onnx")
    ranges = profiles(prepared.inputs, head_ranges(bundle.manifest, EngineSizes(1024, 512)))
    with pytest.raises(OSError, match="No space left on device"):
        build_engine(library, prepared.path, Path("/dev/full"), ranges, BuilderSettings())


def test_old_versions_get_basic_operators_and_new_ones_the_graph_as_it_is(bundle: Path, installed: Install) -> None:
    for version, later in (("10.3.0", False), ("10.13.3.9", False), ("10.16.1.11", True), ("11.4.0.106", True)):
        installed(version)
        record = built(bundle, force=True).record
        plan = json.loads(record.path("decoder").read_bytes())
        model = onnx.load(plan["graph"], load_external_data=False)
        assert bool({node.op_type for node in model.graph.node} & LATER_OPERATORS) == later, version
        assert {entry.version for entry in model.opset_import} == {24 if later else 21}
    assert len(read_records(bundle)) == 4, "each version's engines lie beside the others'"


def test_prefill_and_decode_are_profiles_of_one_engine_with_a_cache_of_that_length(
    bundle: Path, installed: Install
) -> None:
    installed("10.16.1.11")
    record = built(bundle, cache_length=1536, chunk=128).record
    prefill, decode = record.engines["decoder"].profiles
    hidden = Bundle.open(bundle).manifest["decoder"]["hidden"]
    assert (prefill.name, decode.name) == ("prefill", "decode")
    # As many tokens as label scoring takes at once: with a small vocabulary more than a chunk.
    assert prefill.inputs["inputs_embeds"] == ((1, 1, hidden), (1, 128, hidden), (1, 512 + 32, hidden))
    assert decode.inputs["inputs_embeds"] == ((1, 1, hidden),) * 3
    assert decode.inputs["attention_mask"] == ((1, 1, 1, 1536),) * 3
    assert not any(name.startswith(("past_", "cos_", "sin_")) for name in prefill.inputs), "their shapes are numbers"
    assert record.cache_length == 1536


def test_one_profile_for_prompts_and_single_tokens_verifies_too(bundle: Path, installed: Install) -> None:
    installed("10.3.0")
    result = built(bundle, one_profile=True)
    assert result.report["passed"]
    assert [len(result.record.engines[graph].profiles) for graph in ("decoder", "head")] == [1, 1]
    assert built(bundle).fresh, "other profiles are other engines"


def spoiled(model: Any) -> None:
    """One norm's epsilon is a weight's size: what a wrong kernel might do."""
    if model.graph.name == "decoder":
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = 10.0


def test_engines_that_are_wrong_are_not_installed_and_the_message_names_the_stage(
    bundle: Path, installed: Install
) -> None:
    installed("11.4.0.106", spoiled)
    before = files(bundle)
    with pytest.raises(EngineError, match=r"wrong and were not installed: stage prefill.*Likely cause") as caught:
        built(bundle)
    assert "optimization-level" in str(caught.value)
    assert files(bundle) == before and list(bundle.parent.glob(".bundle.*")) == []


def test_wrong_engines_leave_the_right_ones_in_their_place(bundle: Path, installed: Install) -> None:
    installed("11.4.0.106")
    folder = built(bundle).record.folder
    right = files(folder)
    installed("11.4.0.106", spoiled)
    with pytest.raises(EngineError, match="not installed"):
        built(bundle, force=True)
    assert files(folder) == right


def test_engines_that_are_there_are_kept_and_rebuilt_for_other_flags_or_graphs(
    bundle: Path, installed: Install
) -> None:
    configs = installed("10.3.0")
    assert built(bundle).fresh and len(configs) == 3
    assert not built(bundle).fresh and len(configs) == 3
    assert built(bundle, force=True).fresh and len(configs) == 6
    assert built(bundle, chunk=64).fresh and len(configs) == 9
    assert built(bundle, builder=BuilderSettings(optimization_level=2)).fresh and len(configs) == 12
    assert configs[-1].builder_optimization_level == 2
    from tests.planted import change_bytes

    change_bytes(bundle, "head.onnx", lambda stored: stored.extend(b""))
    assert not built(bundle, builder=BuilderSettings(optimization_level=2)).fresh, "the same bytes"
    record = next(iter(read_records(bundle)))
    assert record.folder is not None
    (record.folder / "head.engine").write_bytes(b"cut")
    assert built(bundle, builder=BuilderSettings(optimization_level=2)).fresh, "a damaged engine is built again"


def test_the_timing_cache_is_kept_and_another_versions_is_left_aside(
    bundle: Path, installed: Install, caplog: pytest.LogCaptureFixture
) -> None:
    installed("10.3.0")
    folder = built(bundle).record.folder
    assert (folder / "timing.cache").read_bytes() == b"timed by 10.3.0: vision decoder head"
    built(bundle, force=True)
    assert (folder / "timing.cache").read_bytes() == b"timed by 10.3.0: vision decoder head vision decoder head"
    (folder / "timing.cache").write_bytes(b"of another GPU")
    built(bundle, force=True)
    assert (folder / "timing.cache").read_bytes() == b"timed by 10.3.0: vision decoder head"
    assert "of another GPU or version" in caplog.text


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_stripped_engines_keep_the_graph_that_their_weights_come_from(
    bundle: Path, installed: Install, version: str
) -> None:
    configs = installed(version)
    record = built(bundle, builder=BuilderSettings(stripped=True)).record
    assert all({"STRIP_PLAN", "REFIT"} <= config._flags for config in configs)
    assert all(engine.stripped for engine in record.engines.values())
    for graph in ("vision", "decoder", "head"):
        weights = record.path(graph).with_suffix(".onnx")
        assert weights.with_name(f"{graph}.onnx.data").samefile(bundle / f"{graph}.onnx.data"), "no second copy"
        model = onnx.load(str(weights), load_external_data=False)
        assert {entry.version for entry in model.opset_import} == {21 if version == "10.3.0" else 24}
    assert "stripped" in record.flags


def test_rtx_engines_are_told_their_generations_and_that_memory_is_the_users(
    verifiable: Callable[[str, str], Path], tmp_path: Path, installed: Install
) -> None:
    path = Path(shutil.copytree(verifiable("tensorrt-rtx", "qwen2.5"), tmp_path / "bundle"))
    configs = installed("rtx-1.7.1.116")
    result = built(path, gpus=("rtx-50", "sm86", "l4"))
    assert result.report is None and result.record.verified is None
    assert result.record.sms == (86, 89, 120) and result.record.gpu_name == ""
    assert [[sm.name for sm in config._sms.values()] for config in configs] == [["SM86", "SM89", "SM120"]] * 3
    assert all(config._flags == {"REQUIRE_USER_ALLOCATION"} for config in configs)
    assert find_engines(path, "tensorrt-rtx", "1.7.1.116", "whatever it is called", 89).folder == result.record.folder
    with pytest.raises(
        EngineError, match=r"no engines for NVIDIA H100 \(SM90\).*it has tensorrt-rtx 1.7.1.116 for SM86"
    ):
        find_engines(path, "tensorrt-rtx", "1.7.1.116", "NVIDIA H100", 90)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_without_a_driver_nothing_is_built_and_rtx_says_what_it_can_do(
    verifiable: Callable[[str, str], Path], installed: Install, cuda: FakeCuda, target: str
) -> None:
    configs = installed("rtx-1.7.1.116" if target == "tensorrt-rtx" else "10.3.0")
    cuda.driver = 0
    with pytest.raises(EngineError, match="no NVIDIA driver is loaded") as caught:
        built(verifiable(target, "qwen2.5"))
    assert ("fgr-edge build BUNDLE --gpu rtx-40" in str(caught.value)) == (target == "tensorrt-rtx")
    assert configs == []


def test_a_gpu_by_name_is_refused_where_kernels_are_timed(bundle: Path, installed: Install) -> None:
    installed("10.3.0")
    with pytest.raises(ConfigError, match="run `fgr-edge build` on the device"):
        built(bundle, gpus=("orin-nano",))


def test_a_gpu_that_cannot_compute_in_a_scheme_is_refused_before_building(
    tiny_models: TinyModels, tmp_path: Path, installed: Install
) -> None:
    path = tmp_path / "bundle"
    model = open_model(Checkpoint.open(tiny_models.checkpoint("qwen2.5")))
    plan = Plan.uniform(SCHEMES["int4-32"])
    write_bundle(model, TARGETS["tensorrt"], plan, path, BundleOptions("tiny", "", quiet=True))
    configs = installed("10.3.0")
    with pytest.raises(ConfigError, match=r"T4 \(SM75\) cannot compute in int4-32.*choose int8"):
        build_engines(BuildConfig(path, quiet=True), here=Gpu("T4", 75))
    assert configs == []


def test_a_bundle_without_golden_outputs_is_refused_before_building(
    tiny_models: TinyModels, installed: Install
) -> None:
    configs = installed("10.3.0")
    with pytest.raises(BundleError, match=r"no golden outputs.*export the bundle again"):
        built(tiny_models.bundle("qwen2.5", "fp16", "tensorrt"))
    assert configs == []


def test_a_bundle_for_the_cpu_needs_no_engines(tiny_models: TinyModels) -> None:
    with pytest.raises(BundleError, match="is for target 'cpu', which needs no engines"):
        built(tiny_models.bundle("qwen2.5"))


@pytest.mark.parametrize(("target", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt-rtx")])
def test_without_the_library_the_extra_is_named(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, target: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, extra.replace("-", "_"), None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'fgr-edge\[{extra}\]'"):
        built(tiny_models.bundle("qwen2.5", "fp16", target))


def test_a_library_that_is_too_old_is_named(bundle: Path, installed: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("10.3.0")
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "8.6.1")
    with pytest.raises(EngineError, match=r"tensorrt 8.6.1 is installed, expected 10.3 or newer.*JetPack"):
        built(bundle)


def test_a_complaint_of_the_parser_names_node_operator_and_remedy(
    bundle: Path, installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgr_edge.export import tensorrt
    from fgr_edge.export.tensorrt_versions import find_release

    installed("10.3.0")
    newest = find_release("tensorrt", "11.0")
    monkeypatch.setattr(tensorrt, "find_release", lambda *_: newest)  # as if 10.3 could do what 11 does
    with pytest.raises(EngineError) as caught:
        built(bundle)
    assert "tensorrt 10.3.0 cannot read vision.onnx: node " in str(caught.value)
    assert "(RMSNormalization): No importer registered" in str(caught.value)
    assert "upgrade the library" in str(caught.value)


def test_the_command_prints_what_was_built_and_says_when_it_was_before(
    bundle: Path, installed: Install, fgr_edge: Callable[..., Any]
) -> None:
    installed("10.16.1.11")
    done = fgr_edge("build", str(bundle), "--cache-length", "1536", "--image-size", "160x120", "--workspace-mb", "64")
    assert done.code == 0, done.err
    assert "prefill, decode" in done.out and "any, 160x120" in done.out and "verified  passed" in done.out
    done = fgr_edge(
        "build", str(bundle), "--cache-length", "1536", "--image-size", "160x120", "--workspace-mb", "64", "--json"
    )
    document = json.loads(done.out)
    assert document["fresh"] is False and document["record"]["cache_length"] == 1536
    assert read_record(Path(document["record"]["folder"])).flags == tuple(document["record"]["flags"])
    assert fgr_edge("build", str(bundle), "--image-size", "big").code == 2


def test_a_record_reads_back_as_it_was_written(bundle: Path, installed: Install) -> None:
    installed("10.3.0")
    record = built(bundle).record
    assert read_record(record.folder) == record
    assert record.flags == tuple(sorted(record.flags)) and np.all(
        [len(e.sha256) == 64 for e in record.engines.values()]
    )
    assert replace(record, folder=None) != record
