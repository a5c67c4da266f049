"""Hatchling's build hook: compiles the C of `fgr_edge/runtime/kernels` and `pictures` into a library beside each.

In: the C files and a C compiler: $CC, or the first of cc, gcc and clang. Out: the libraries in the source tree and,
when a wheel is built, in the wheel, whose tag is then py3-none-<platform>: they know no Python. Each C function says
its instruction set itself and what runs is chosen on the device: without -march, one library fits every processor.

The libraries only make things faster. Where one cannot be built (no compiler, compiling fails, another platform) or is
not wanted (FGR_EDGE_NO_NATIVE=1), one line says why, and the install goes on with a pure wheel, py3-none-any. Then
there is none in the source tree either: one of older sources is neither shipped nor loaded.

    python hatch_build.py        what an editable install does; needs Python and a C compiler, nothing else
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

LIBRARIES = {  # and a function that each must have
    Path("fgr_edge", "runtime", "kernels", "libkernels.so"): "RegisterCustomOps",
    Path("fgr_edge", "runtime", "pictures", "libpictures.so"): "fgr_resample",
}
SWITCH = "FGR_EDGE_NO_NATIVE"
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
]
MACHINES = ("x86_64", "aarch64", "arm64")  # macOS says arm64 where Linux says aarch64


class NoLibraryError(Exception):
    """Why there is no library, in one line."""


def build(root: Path) -> list[Path]:
    """Compile the libraries in the tree at `root` and give their paths.

    Raises:
        NoLibraryError: one cannot be built. Then there is none, and none from before either.
    """
    libraries = [root / library for library in LIBRARIES]
    for library, entry in zip(libraries, LIBRARIES.values(), strict=True):
        try:
            _compile(library, entry)
        except (NoLibraryError, OSError) as error:
            for one in libraries:
                with contextlib.suppress(OSError):
                    one.unlink(missing_ok=True)
            raise NoLibraryError(f"{library.name} is not built, the install is pure Python: {error}") from error
    return libraries


def platform_tag() -> str:
    """What pip calls this platform; on macOS the oldest release that the library is compiled for."""
    if sys.platform == "darwin":
        return f"macosx_11_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _compile(library: Path, entry: str) -> None:
    """Under a passing name first, and renamed once it loads: a process that has the old library open keeps it."""
    if os.environ.get(SWITCH, "") not in ("", "0"):
        raise NoLibraryError(f"{SWITCH} is set")
    if sys.platform not in ("linux", "darwin") or platform.machine() not in MACHINES or sys.maxsize < 2**32:
        raise NoLibraryError(f"nothing is written for {sysconfig.get_platform()}")
    sources = sorted(str(path) for path in library.parent.glob("*.c"))
    if not sources:
        raise NoLibraryError(f"no C sources in {library.parent}")
    made = library.with_name(f"{library.stem}.{os.getpid()}{library.suffix}")
    try:
        _run([*_compiler(), *FLAGS, *_platform_flags(), "-o", str(made), *sources, "-lm"])
        _try(made, entry)
        made.replace(library)
    finally:
        made.unlink(missing_ok=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise NoLibraryError(f"{command[0]} fails: {_complaint(done.stderr)}")


def _try(library: Path, entry: str) -> None:
    """Whether it is for this processor and whole: a symbol that nobody defines is found here, not on the device."""
    try:
        found = hasattr(ctypes.CDLL(str(library)), entry)
    except OSError as error:
        raise NoLibraryError(f"what was compiled does not load here: {error}") from error
    if not found:
        raise NoLibraryError(f"what was compiled does not export {entry}")


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    found = named or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not found:
        raise NoLibraryError("no C compiler (cc, gcc or clang in PATH, or $CC)")
    return found


def _platform_flags() -> list[str]:
    return ["-mmacosx-version-min=11.0", "-arch", platform.machine()] if sys.platform == "darwin" else []


def _complaint(text: str) -> str:
    """The first line of a compiler's output that says error, else its last line."""
    lines = [line for line in text.splitlines() if line.strip()] or ["it says nothing"]
    return next((line for line in lines if "error" in line), lines[-1])


def get_build_hook() -> type:
    """The hook's class, by the name that hatchling asks for; only here is hatchling imported."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class Libraries(BuildHookInterface[Any]):
        """`[tool.hatch.build.targets.wheel.hooks.custom]`."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            try:
                build(Path(self.root))
            except NoLibraryError as error:
                self.app.display_warning(str(error))
                return
            if version != "editable":  # that wheel has a link to the tree, and the tree has the library
                build_data["artifacts"].extend(f"/{library.as_posix()}" for library in LIBRARIES)
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform_tag()}"

    return Libraries


if __name__ == "__main__":
    try:
        print(*build(Path(__file__).resolve().parent), sep="\n")
    except NoLibraryError as error:
        print(f"warning: {error}", file=sys.stderr)
