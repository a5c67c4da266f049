"""The C of products, by itself: `check_ways.c` compiled with it, on this processor and on an emulated aarch64."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hatch_build import FLAGS, LIBRARY
from tests.conftest import REPOSITORY

SOURCES = REPOSITORY / LIBRARY.parent
CHECK = Path(__file__).with_name("check_ways.c")
# What builds the library, but an executable, and every warning is an error; only GCC knows the attribute `optimize`.
OPTIONS = [*(flag for flag in FLAGS if flag != "-shared"), "-Werror", f"-I{SOURCES}"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
needs_aarch64 = pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"no {CROSS_COMPILER} or no {EMULATOR} (Debian: gcc-aarch64-linux-gnu, qemu-user-static)",
)


def compiled(folder: Path, compiler: str, *options: str) -> Path:
    """The check as an executable."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = folder / "check_ways"
    sources = [str(path) for path in (*SOURCES.glob("*.c"), CHECK)]
    done = subprocess.run(
        [compiler, *OPTIONS, *options, "-o", str(program), *sources, "-lm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def ways(command: Sequence[str | Path]) -> set[str]:
    """The instruction sets that the check went through; nothing was wrong."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split(":")[0] for line in done.stdout.splitlines()}


def test_every_way_of_this_processor_multiplies_right(tmp_path: Path) -> None:
    known = {path.stem for path in SOURCES.glob("*.c")}
    found = ways([compiled(tmp_path, "cc")])
    assert found <= known
    if not found:
        pytest.skip("this processor has none of the instruction sets")


@pytest.mark.slow
def test_no_way_of_this_processor_reads_or_writes_beside_its_memory(tmp_path: Path) -> None:
    ways([compiled(tmp_path, "cc", *SANITIZERS)])


@pytest.mark.slow
@needs_aarch64
@pytest.mark.parametrize(("processor", "expected"), [("max", {"neondot"}), ("cortex-a57", set())])
def test_aarch64_multiplies_right_where_it_has_dot_products(tmp_path: Path, processor: str, expected: set[str]) -> None:
    program = compiled(tmp_path, CROSS_COMPILER, "-static")
    assert ways([EMULATOR, "-cpu", processor, program]) == expected
