"""Every member of TensorRT's objects that the code touches exists in every version where the code gets there.

The versions' members are in tests/data/tensorrt_api, listed from the published bindings by tools/tensorrt_surface.py;
the library itself is not needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgr_edge.errors import EngineError
from fgr_edge.export.gpus import RTX_SM
from fgr_edge.export.tensorrt_versions import RELEASES, Release, find_release
from fgr_edge.runtime.engine_record import Product
from fgr_edge.runtime.sessions.tensorrt_library import PRODUCTS
from tests.export.trt_uses import ANY_VERSION, MODULE, Use, unknown, uses

REPOSITORY = Path(__file__).resolve().parents[2]
SURFACES = {
    path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "tests/data/tensorrt_api").glob("*.json"))
}
MODULES = (
    "fgr_edge/export/tensorrt.py",
    *sorted(
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "fgr_edge/runtime/sessions").glob("tensorrt*.py")
    ),
)
# The versions of JetPack 6.1 to 7.2, the newest, and the other product.
EXPECTED = ("10.13.3.9", "10.16.1.11", "10.3.0", "11.4.0.106", "rtx-1.7.1.116")


def product_of(version: str) -> Product:
    return "tensorrt-rtx" if version.startswith("rtx-") else "tensorrt"


def release_of(version: str) -> Release:
    return find_release(product_of(version), version.removeprefix("rtx-"))


def members(version: str) -> dict[str, set[str]]:
    return {kind: set(names) for kind, names in SURFACES[version]["members"].items()}


def reached(use: Use, version: str) -> bool:
    """Whether the conditions that `use` stands below can hold with a version."""
    conditions = {
        **{name: getattr(release_of(version), name) for name in Release.__slots__},
        "compiles_kernels": PRODUCTS[product_of(version)].compiles_kernels,
    }
    return all(conditions.get(name, True) for name in use.below)


def lacking(source: str, version: str) -> list[str]:
    """Uses in `source` that a version does not have."""
    has = members(version)
    found = [use for use in uses(source) if not use.member.startswith("__") and reached(use, version)]
    found = [use for use in found if ANY_VERSION not in use.below]
    assert not list(unknown(found, set(has))), "tests/export/trt_uses.py has to learn what these come from"
    return [f"line {use.line}: {use.kind}.{use.member}" for use in found if use.member not in has[use.kind]]


def test_the_surfaces_are_those_of_the_versions_that_count() -> None:
    assert tuple(SURFACES) == EXPECTED
    for version, surface in SURFACES.items():
        assert surface["version"] == version.removeprefix("rtx-")
        assert {"Builder", "IExecutionContext", MODULE} <= surface["members"].keys()


@pytest.mark.parametrize("version", EXPECTED)
@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_called_that_a_version_lacks(module: str, version: str) -> None:
    assert lacking((REPOSITORY / module).read_text(), version) == []


def test_every_module_that_touches_the_library_is_looked_at() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "fgr_edge").rglob("*.py")
        if any(use.kind == MODULE and not use.member.startswith("__") for use in uses(path.read_text()))
    }
    assert found and found <= set(MODULES)


def test_asking_whether_a_member_is_there_names_one_that_some_version_has() -> None:
    for module in MODULES:
        for use in uses((REPOSITORY / module).read_text()):
            if ANY_VERSION in use.below:
                assert any(use.member in members(version)[use.kind] for version in SURFACES), use


def test_enough_is_seen_to_trust_what_is_not_complained_about() -> None:
    seen = {f"{use.kind}.{use.member}" for module in MODULES for use in uses((REPOSITORY / module).read_text())}
    assert {
        "Builder.build_serialized_network",
        "Builder.build_serialized_network_to_stream",
        "module.IStreamWriter",
        "IBuilderConfig.set_flag",
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
        "ITimingCache.serialize",
        "ParserError.desc",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.get_tensor_profile_shape",
        "OnnxParserRefitter.refit_from_file",
    } <= seen
    assert len(seen) > 50


# What each version would stumble over, were it called.
PLANTED = {
    "builder.platform_has_fast_fp16": ("11.4.0.106", "rtx-1.7.1.116"),
    "config.set_flag(trt.BuilderFlag.FP16)": ("11.4.0.106", "rtx-1.7.1.116"),
    "config.int8_calibrator = None": ("11.4.0.106", "rtx-1.7.1.116"),
    "builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))": (
        "11.4.0.106",
        "rtx-1.7.1.116",
    ),
    "parser.supports_model(b'')": ("11.4.0.106", "rtx-1.7.1.116"),
    "engine.create_execution_context_without_device_memory()": ("11.4.0.106", "rtx-1.7.1.116"),
    "config.num_compute_capabilities = 2": ("10.13.3.9", "10.16.1.11", "10.3.0", "11.4.0.106"),
    "config.set_flag(trt.BuilderFlag.MONITOR_MEMORY)": ("10.3.0",),
    "engine.create_runtime_config()": ("10.3.0",),
    "builder.create_network(0).add_rotary_embedding()": ("10.13.3.9", "10.3.0"),
    "class Writer(trt.IStreamWriter): pass": ("10.3.0",),
    "builder.build_serialized_network_to_stream(1, config, 2)": ("10.3.0",),
    "config.set_falg(1)": EXPECTED,
}


@pytest.mark.parametrize("call", PLANTED)
def test_a_call_that_a_version_lacks_is_found(call: str) -> None:
    source = (REPOSITORY / MODULES[0]).read_text()
    planted = f"{source}\n\ndef planted(trt, builder, config, parser, engine):\n    {call}\n"
    assert tuple(version for version in EXPECTED if lacking(planted, version)) == PLANTED[call]


def test_a_condition_on_the_release_lets_through_what_the_others_lack() -> None:
    body = "def f(config, release):\n    if release.names_gpus:\n        config.num_compute_capabilities = 1\n"
    assert not any(lacking(body, version) for version in EXPECTED)
    other = body.replace("names_gpus", "times_tactics")
    assert [version for version in EXPECTED if lacking(other, version)] == [
        version for version in EXPECTED if product_of(version) == "tensorrt"
    ]


def test_what_comes_from_an_unknown_call_may_not_be_used_unseen() -> None:
    with pytest.raises(AssertionError, match="has to learn"):
        lacking("def f(config):\n    config.get_preview_feature(1).anything()\n", "10.3.0")


def test_rtx_names_the_generations_that_the_table_of_gpus_has() -> None:
    named = members("rtx-1.7.1.116")["ComputeCapability"]
    assert {f"SM{sm}" for sm in RTX_SM} == {name for name in named if name.startswith("SM")}


def test_every_listed_version_has_a_row_and_attention_comes_with_10_16() -> None:
    for version in EXPECTED:
        layers = {"add_attention", "add_kv_cache_update", "add_rotary_embedding"}
        has = layers <= members(version)["INetworkDefinition"]
        assert has == (release_of(version).dialect == "standard"), version
    assert {release_of(version) for version in EXPECTED} == set(RELEASES)


@pytest.mark.parametrize(
    ("product", "version", "since"),
    [
        ("tensorrt", "10.3.0", (10, 3)),
        ("tensorrt", "10.12.0.36", (10, 3)),
        ("tensorrt", "10.15.1.29", (10, 13)),
        ("tensorrt", "10.99", (10, 16)),
        ("tensorrt", "11.4.0.106", (11, 0)),
        ("tensorrt-rtx", "1.8.2", (1, 7)),
    ],
)
def test_a_version_between_two_rows_can_do_what_the_older_can(
    product: Product, version: str, since: tuple[int, int]
) -> None:
    assert find_release(product, version).since == since


@pytest.mark.parametrize(
    ("product", "version"),
    [("tensorrt", "10.2.0"), ("tensorrt", "8.6.1"), ("tensorrt-rtx", "1.6.0"), ("tensorrt", "dev")],
)
def test_versions_before_the_first_row_are_refused(product: Product, version: str) -> None:
    with pytest.raises(EngineError, match=rf"{product} {version} is installed, expected .* or newer: upgrade"):
        find_release(product, version)
