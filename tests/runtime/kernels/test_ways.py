"""The C of products, by itself: `check_ways.c` compiled with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgr_edge.runtime.kernels.library import LIBRARY
from tests.runtime.c_checks import CROSS_COMPILER, EMULATOR, SANITIZERS, checked, compiled, needs_aarch64

SOURCES = LIBRARY.parent
CHECK = Path(__file__).with_name("check_ways.c")


def test_every_way_of_this_processor_multiplies_right(tmp_path: Path) -> None:
    known = {path.stem for path in SOURCES.glob("*.c")}
    found = checked([compiled(CHECK, SOURCES, tmp_path, "cc")])
    assert found <= known
    if not found:
        pytest.skip("this processor has none of the instruction sets")


@pytest.mark.slow
def test_no_way_of_this_processor_reads_or_writes_beside_its_memory(tmp_path: Path) -> None:
    checked([compiled(CHECK, SOURCES, tmp_path, "cc", *SANITIZERS)])


@pytest.mark.slow
@needs_aarch64
@pytest.mark.parametrize(("processor", "expected"), [("max", {"neondot"}), ("cortex-a57", set())])
def test_aarch64_multiplies_right_where_it_has_dot_products(tmp_path: Path, processor: str, expected: set[str]) -> None:
    program = compiled(CHECK, SOURCES, tmp_path, CROSS_COMPILER, "-static")
    assert checked([EMULATOR, "-cpu", processor, program]) == expected
