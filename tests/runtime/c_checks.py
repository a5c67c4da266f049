"""Programs that check the C of a library by itself, on this processor and on an emulated aarch64."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hatch_build import FLAGS

SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover")
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
needs_aarch64 = pytest.mark.skipif(
    shutil.which(CROSS_COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"no {CROSS_COMPILER} or no {EMULATOR} (Debian: gcc-aarch64-linux-gnu, qemu-user-static)",
)


def compiled(check: Path, sources: Path, folder: Path, compiler: str, *options: str) -> Path:
    """The check and the C files of `sources` as an executable: built as the library is, every warning an error."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = folder / check.stem
    flags = [
        *(flag for flag in FLAGS if flag != "-shared"),
        "-Werror",
        f"-I{sources}",
        f"-I{Path(__file__).parent}",
        *options,
    ]
    files = [str(path) for path in (*sources.glob("*.c"), check)]
    done = subprocess.run([compiler, *flags, "-o", str(program), *files, "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def checked(command: Sequence[str | Path]) -> set[str]:
    """The instruction sets that a check went through; nothing was wrong."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split(":")[0] for line in done.stdout.splitlines()}
