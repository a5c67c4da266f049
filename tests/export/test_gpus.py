"""What a GPU cannot compute with is refused by name, with what to use instead."""

from __future__ import annotations

import pytest

from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import ConfigError
from fgr_edge.export.gpus import GENERATIONS, NAMES, RTX_SM, check_gpu, find_gpu, runnable


def test_gpus_have_names_and_generations() -> None:
    assert find_gpu("orin-nano").sm == find_gpu("AGX-Orin").sm == find_gpu("sm87").sm == 87
    assert find_gpu("thor").sm == find_gpu("SM_110").sm == 110
    assert set(NAMES.values()) <= set(GENERATIONS) and set(RTX_SM) <= set(GENERATIONS)


@pytest.mark.parametrize("name", ["orin", "sm88", "sm", "", "87"])
def test_an_unknown_gpu_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not known; choose one of orin-nano, .*or a generation: sm75, sm80"):
        find_gpu(name)


@pytest.mark.parametrize("name", ["orin-nano", "orin-nx", "agx-orin", "a100", "rtx-30", "sm87"])
def test_fp8_is_refused_before_ada(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} \(SM8\d\) cannot compute in fp8.*SM89.*choose w8a8 .* or int8"):
        check_gpu(name, "tensorrt", ["fp16", "fp8"])


@pytest.mark.parametrize("name", ["l4", "h100", "thor", "rtx-50", "sm103"])
def test_newer_gpus_run_every_scheme(name: str) -> None:
    assert check_gpu(name, "tensorrt", SCHEMES).name == name


def test_turing_has_neither_bf16_nor_int4() -> None:
    refused = {name for name in SCHEMES if not runnable(find_gpu("t4"), name)}
    assert refused == {"bf16", "int4-32", "int4-128", "fp8"}
    with pytest.raises(ConfigError, match="choose int8"):
        check_gpu("t4", "cuda", ["int4-128"])


def test_orin_runs_all_but_fp8() -> None:
    assert {name for name in SCHEMES if not runnable(find_gpu("orin-nx"), name)} == {"fp8"}


@pytest.mark.parametrize("name", ["orin-nano", "h100", "thor"])
def test_rtx_engines_are_refused_where_the_library_builds_none(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"not for {name} \(SM\d+\); use target tensorrt"):
        check_gpu(name, "tensorrt-rtx", ["fp16"])


def test_rtx_engines_are_built_for_listed_gpus() -> None:
    for sm in RTX_SM:
        check_gpu(f"sm{sm}", "tensorrt-rtx", ["fp16", "w8a8"])


def test_a_gpu_named_for_the_cpu_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="target 'cpu' does not run on orin-nano; choose target tensorrt or cuda"):
        check_gpu("orin-nano", "cpu", ["int8"])
