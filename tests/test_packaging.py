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
from hatch_build import LIBRARIES, SWITCH, NoLibraryError
from tests.conftest import REPOSITORY

SHIPPED = ("fgr_edge", "hatch_build.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore")
LIBRARY, ENTRY = next(iter(LIBRARIES.items()))


def entry_only(entry: str, value: str = "0") -> str:
    return f'__attribute__((visibility("default"))) int {entry}(void) {{ return {value}; }}\n'


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
    for library in LIBRARIES:
        (folder / library).write_bytes(b"of an older build")
    return folder


@pytest.fixture
def quick_tree(tree: Path) -> Path:
    """The same, with one C source a library that compiles at once."""
    for library, entry in LIBRARIES.items():
        for source in tree.joinpath(library).parent.glob("*.[ch]"):
            source.unlink()
        (tree / library).with_name("entry.c").write_text(entry_only(entry))
    return tree


def build(tree: Path, target: str, environment: Mapping[str, str]) -> tuple[Path, str]:
    """The one distribution that hatchling makes of the tree, and what it says."""
    out = tree.parent / "dist"
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made, done.stderr + done.stdout


def compiled(wheel: Path) -> dict[Path, bytes]:
    """The wheel's files beside the C sources' `__init__.py` that are not Python."""
    folders = {library.parent for library in LIBRARIES}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if Path(name).parent in folders and not name.endswith(".py")]
        return {Path(name): archive.read(name) for name in names}


@needs_compiler
def test_a_wheel_with_the_libraries_names_the_platform_and_no_python(tree: Path) -> None:
    wheel, said = build(tree, "wheel", {})
    assert wheel.name.endswith(f"-py3-none-{hatch_build.platform_tag()}.whl"), said
    assert compiled(wheel) == {library: (tree / library).read_bytes() for library in LIBRARIES}
    assert b"of an older build" not in compiled(wheel).values()
    assert wheel.stat().st_size <= WHEEL_BAR_BYTES


@pytest.mark.parametrize(
    ("environment", "source", "words"),
    [
        ({"PATH": "/no/such/folder"}, entry_only(ENTRY), "no C compiler"),
        ({"CC": "no-such-compiler -O1"}, entry_only(ENTRY), "no-such-compiler"),
        ({SWITCH: "1"}, entry_only(ENTRY), SWITCH),
        pytest.param({}, "int f( {\n", "entry.c:1", marks=needs_compiler),
        pytest.param({}, f"int nobody(void);\n{entry_only(ENTRY, 'nobody()')}", "not load", marks=needs_compiler),
        pytest.param({}, "int other(void) { return 0; }\n", f"not export {ENTRY}", marks=needs_compiler),
    ],
)
def test_without_a_library_the_wheel_is_pure_and_one_line_says_why(
    quick_tree: Path, environment: dict[str, str], source: str, words: str
) -> None:
    (quick_tree / LIBRARY).with_name("entry.c").write_text(source)
    wheel, said = build(quick_tree, "wheel", environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert compiled(wheel) == {}
    (line,) = (line for line in said.splitlines() if "is not built" in line)
    assert line.startswith(LIBRARY.name) and words in line
    assert list(quick_tree.rglob("*.so")) == []


@needs_compiler
def test_where_the_last_library_fails_there_is_none(quick_tree: Path) -> None:
    *_, last = LIBRARIES
    (quick_tree / last).with_name("entry.c").write_text("int f( {\n")
    with pytest.raises(NoLibraryError, match=f"{last.name}.*entry.c:1"):
        hatch_build.build(quick_tree)
    assert list(quick_tree.rglob("*.so")) == []


def test_the_source_distribution_has_what_builds_the_libraries_and_no_library(tree: Path) -> None:
    archive, _ = build(tree, "sdist", {})
    with tarfile.open(archive) as file:
        names = {Path(*Path(name).parts[1:]) for name in file.getnames()}
    for library in LIBRARIES:
        sources = {path.relative_to(REPOSITORY) for path in (REPOSITORY / library).parent.glob("*.[ch]")}
        assert sources and sources <= names
        assert library not in names
    assert {Path("hatch_build.py"), Path(".gitignore")} <= names


@needs_compiler
def test_a_wheel_of_the_source_distribution_has_the_libraries_too(quick_tree: Path, tmp_path: Path) -> None:
    archive, _ = build(quick_tree, "sdist", {})
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    (inside,) = unpacked.iterdir()
    wheel, said = build(inside, "wheel", {})
    assert compiled(wheel).keys() == LIBRARIES.keys(), said


@needs_compiler
def test_an_editable_install_has_the_libraries_in_the_tree(quick_tree: Path) -> None:
    pytest.importorskip("editables")
    script = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(quick_tree.parent)], cwd=quick_tree, check=True)
    for library in LIBRARIES:
        assert (quick_tree / library).read_bytes().startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe"))
    (wheel,) = quick_tree.parent.glob("*.whl")
    assert compiled(wheel) == {}


@needs_compiler
def test_a_process_keeps_the_library_that_it_has_open(quick_tree: Path) -> None:
    before, *_ = hatch_build.build(quick_tree)
    with before.open("rb") as file:
        old = file.read()
        (quick_tree / LIBRARY).with_name("entry.c").write_text(entry_only(ENTRY, "1"))
        hatch_build.build(quick_tree)
        assert before.read_bytes() != old
        file.seek(0)
        assert file.read() == old


def test_a_tree_without_sources_has_no_library(tree: Path) -> None:
    for library in LIBRARIES:
        for source in (tree / library).parent.glob("*.c"):
            source.unlink()
    with pytest.raises(NoLibraryError, match="no C sources"):
        hatch_build.build(tree)
