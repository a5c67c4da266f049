"""The C of pictures, by itself: `check_passes.c` compiled with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgr_edge.runtime.pictures.compiled import LIBRARY
from tests.runtime.c_checks import CROSS_COMPILER, EMULATOR, SANITIZERS, checked, compiled, needs_aarch64

SOURCES = LIBRARY.parent
CHECK = Path(__file__).with_name("check_passes.c")


def test_every_instruction_set_of_this_processor_computes_the_same(tmp_path: Path) -> None:
    found = checked([compiled(CHECK, SOURCES, tmp_path, "cc")])
    assert "plain" in found and found <= {"avx512", "avx2", "plain"}


@pytest.mark.slow
def test_no_pass_reads_or_writes_beside_its_memory(tmp_path: Path) -> None:
    checked([compiled(CHECK, SOURCES, tmp_path, "cc", *SANITIZERS)])


@pytest.mark.slow
@needs_aarch64
def test_aarch64_computes_the_same(tmp_path: Path) -> None:
    program = compiled(CHECK, SOURCES, tmp_path, CROSS_COMPILER, "-static")
    assert checked([EMULATOR, "-cpu", "cortex-a57", program]) == {"plain"}
