"""What is shipped, built from a copy of the tree: wheels with the kernels of our own and without, and the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import hatch_build
from benchmarks.footprint import WHEEL_BAR_BYTES
from hatch_build import ENTRY, LIBRARY, SWITCH, NoLibraryError
from tests.conftest import REPOSITORY

SHIPPED = ("fgr_edge", "hatch_build.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore")
ENTRY_ONLY = f'__attribute__((visibility("default"))) int {ENTRY}(void) {{ return 0; }}\n'
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform == "win32", reason="no C compiler (cc, gcc or clang)"
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is shipped, with a library of an older build in it; nothing set that changes builds."""
    pytest.importorskip("hatchling")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    folder = tmp_path / "tree"
    folder.mkdir()
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, folder / name)
    (folder / LIBRARY).write_bytes(b"of an older build")
    return folder


@pytest.fixture
def quick_tree(tree: Path) -> Path:
    """The same, with one C source that compiles at once."""
    for source in tree.joinpath(LIBRARY).parent.glob("*.[ch]"):
        source.unlink()
    (tree / LIBRARY).with_name("entry.c").write_text(ENTRY_ONLY)
    return tree


def build(tree: Path, target: str, environment: Mapping[str, str]) -> tuple[Path, str]:
    """The one distribution that hatchling makes of the tree, and what it says."""
    out = tree.parent / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made, done.stderr + done.stdout


def products(wheel: Path) -> dict[str, bytes]:
    """The wheel's files beside `fgr_edge/runtime/products/__init__.py` that are not Python."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(LIBRARY.parent.as_posix())]
        return {Path(name).name: archive.read(name) for name in names if not name.endswith(".py")}


@needs_compiler
def test_a_wheel_with_the_library_names_the_platform_and_no_python(tree: Path) -> None:
    wheel, said = build(tree, "wheel", {})
    assert wheel.name.endswith(f"-py3-none-{hatch_build.platform_tag()}.whl"), said
    assert products(wheel).keys() == {LIBRARY.name}
    assert products(wheel)[LIBRARY.name] == (tree / LIBRARY).read_bytes() != b"of an older build"
    assert wheel.stat().st_size <= WHEEL_BAR_BYTES


@pytest.mark.parametrize(
    ("environment", "source", "words"),
    [
        ({"PATH": "/no/such/folder"}, ENTRY_ONLY, "no C compiler"),
        ({"CC": "no-such-compiler -O1"}, ENTRY_ONLY, "no-such-compiler"),
        ({SWITCH: "1"}, ENTRY_ONLY, SWITCH),
        pytest.param({}, "int f( {\n", "entry.c:1", marks=needs_compiler),
        pytest.param({}, f"int nobody(void);\n{ENTRY_ONLY.replace('0', 'nobody()')}", "not load", marks=needs_compiler),
        pytest.param({}, "int other(void) { return 0; }\n", f"not export {ENTRY}", marks=needs_compiler),
    ],
)
def test_without_the_library_the_wheel_is_pure_and_one_line_says_why(
    quick_tree: Path, environment: dict[str, str], source: str, words: str
) -> None:
    (quick_tree / LIBRARY).with_name("entry.c").write_text(source)
    wheel, said = build(quick_tree, "wheel", environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert products(wheel) == {}
    (line,) = (line for line in said.splitlines() if "is not built" in line)
    assert line.startswith(LIBRARY.name) and words in line
    assert list((quick_tree / LIBRARY).parent.glob("*.so")) == []


def test_the_source_distribution_has_what_builds_the_library_and_no_library(tree: Path) -> None:
    archive, _ = build(tree, "sdist", {})
    with tarfile.open(archive) as file:
        names = {Path(*Path(name).parts[1:]) for name in file.getnames()}
    sources = {path.relative_to(REPOSITORY) for path in (REPOSITORY / LIBRARY).parent.glob("*.[ch]")}
    assert {Path("hatch_build.py"), Path(".gitignore"), *sources} <= names
    assert LIBRARY not in names


@needs_compiler
def test_a_wheel_of_the_source_distribution_has_the_library_too(quick_tree: Path, tmp_path: Path) -> None:
    archive, _ = build(quick_tree, "sdist", {})
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    wheel, said = build(inside, "wheel", {})
    assert LIBRARY.name in products(wheel), said


@needs_compiler
def test_an_editable_install_has_the_library_in_the_tree(quick_tree: Path) -> None:
    pytest.importorskip("editables")
    script = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(quick_tree.parent)], cwd=quick_tree, check=True)
    assert (quick_tree / LIBRARY).read_bytes().startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe"))
    (wheel,) = quick_tree.parent.glob("*.whl")
    assert products(wheel) == {}


@needs_compiler
def test_a_process_keeps_the_library_that_it_has_open(quick_tree: Path) -> None:
    before = hatch_build.build(quick_tree)
    with before.open("rb") as file:
        old = file.read()
        (quick_tree / LIBRARY).with_name("entry.c").write_text(ENTRY_ONLY.replace("0", "1"))
        assert hatch_build.build(quick_tree).read_bytes() != old
        file.seek(0)
        assert file.read() == old


def test_a_tree_without_sources_has_no_library(tree: Path) -> None:
    for source in (tree / LIBRARY).parent.glob("*.c"):
        source.unlink()
    with pytest.raises(NoLibraryError, match="no C sources"):
        hatch_build.build(tree)
