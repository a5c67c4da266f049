"""The device's lists are complete, lean and agree with pyproject.toml and constraints.txt.

An environment is made of the distributions that a list names and nothing else, linked from this one: no network. Every
command of a device runs in it, and without any one entry some command does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LISTS = REPOSITORY / "requirements"
CPU_LIST = LISTS / "device-cpu.txt"
ENTRIES = ("annotated-doc", "numpy", "onnxruntime", "pillow", "rich", "shellingham", "tokenizers", "typer")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# Runs commands one after another in one process; the first that fails ends it.
DRIVER = """
import json, sys
from fgr_edge.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["fgr-edge", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"exit {stop.code} of {arguments}")
"""
PYTHON_API = """
import sys
from fgr_edge import Recognizer
bundle, labels, picture = sys.argv[1:]
print(Recognizer(bundle, labels=labels)(picture).label)
"""


def requirements(path: Path) -> list[Requirement]:
    """The entries of a list, and of those that it names."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found += requirements(path.parent / text.removeprefix("-r ").strip())
        elif text:
            found.append(Requirement(text))
    return found


def pins(path: Path, python: str = "") -> dict[str, str]:
    """Versions by canonical name, for that Python; for this one without it."""
    place = {"python_version": python} if python else {}
    chosen = [one for one in requirements(path) if one.marker is None or one.marker.evaluate(dict(place))]
    found: dict[str, str] = {}
    for one in chosen:
        (pin,) = one.specifier
        name = canonicalize_name(one.name)
        assert pin.operator == "==" and "*" not in pin.version, f"{one} in {path.name} is no pinned version"
        assert name not in found, f"{path.name} has two versions of {name} for Python {python}"
        found[name] = pin.version
    return found


def declared() -> list[Requirement]:
    """What pyproject.toml asks for in `fgr-edge[cpu]`."""
    project: Any = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["cpu"])]


def environment(folder: Path, names: Iterable[str]) -> Path:
    """The Python of a fresh environment that has this repository and these distributions, linked."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(str(distribution.locate_file(top)))
    (site / "fgr_edge.pth").write_text(f"{REPOSITORY}\n", encoding="utf-8")
    return folder / "bin" / "python"


def run(python: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHONDONTWRITEBYTECODE"] = "1"  # the files are this environment's own
    return subprocess.run([python, "-c", script, *arguments], env=clean, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """The list for this Python, whose versions are installed here."""
    found = pins(CPU_LIST)
    other = {}
    for name, version in found.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            other[name] = installed
    if other:
        pytest.skip(f"of what {CPU_LIST.name} lists, other versions are installed here: {other}; `make test` updates")
    return found


@pytest.fixture(scope="module")
def commands(
    nano_bundle: Callable[..., Path],
    nano_labels: Path,
    birds: Callable[[int], list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], list[list[str]]]:
    """What a device is asked, on nano and drawn birds, each call into folders of its own; recognition first."""
    from fgr_edge.data.aviary import SPECIES
    from tests.planted import with_golden

    root = tmp_path_factory.mktemp("device")
    bundle = str(with_golden(nano_bundle("fp32"), nano_bundle("int8"), root / "bundle"))
    pictures = root / "birds" / SPECIES[0].name
    pictures.mkdir(parents=True)
    picture = birds(1)[0].rename(pictures / "00.png")
    photographs = str(pictures.parent)
    named = ["--labels", str(nano_labels)]

    def asked() -> list[list[str]]:
        out = tmp_path_factory.mktemp("out")
        return [
            ["recognize", bundle, str(picture), *named],
            ["recognize", bundle, str(picture), *named, "--mode", "reason"],
            ["verify", bundle],
            ["inspect", bundle],
            ["inspect", bundle, "--plan", "orin-nano"],
            [
                "eval",
                bundle,
                "--data",
                photographs,
                "--protocol",
                "closed-all",
                *named,
                "--report",
                str(out / "report"),
            ],
            ["label", bundle, photographs, str(out / "records"), *named, "--workers", "2"],
            ["--help"],
            ["recognize", "--help"],
        ]

    return asked


def test_with_nothing_but_the_list_every_command_runs(
    listed: dict[str, str], commands: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    python = environment(tmp_path, listed)
    done = run(python, DRIVER, json.dumps(commands()))
    assert done.returncode == 0, done.stderr
    assert "Usage: fgr-edge recognize" in done.stdout
    bundle, picture, _, labels = commands()[0][1:]
    done = run(python, PYTHON_API, bundle, labels, picture)
    assert done.stdout.strip() == Path(picture).parent.name, done.stderr


@pytest.mark.parametrize("missing", ENTRIES)
def test_without_an_entry_of_the_list_a_command_fails_for_its_lack(
    missing: str, listed: dict[str, str], commands: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    python = environment(tmp_path, listed.keys() - {missing})
    done = run(python, DRIVER, json.dumps(commands()[:3]))
    assert done.returncode != 0
    modules = {file.parts[0] for file in metadata.distribution(missing).files or ()}
    words = [f"No module named '{module}" for module in modules] + [f"{missing} is not installed"]
    assert any(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["export", "models/nano", "-o", "out"], "export"), (["train", "sft", "recipe.toml"], "train")],
)
def test_a_command_of_the_workshop_names_the_extra_that_a_device_has_not(
    arguments: list[str], extra: str, listed: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment(tmp_path, listed), DRIVER, json.dumps([arguments]))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"is not installed, this command needs it: pip install 'fgr-edge[{extra}]'" in done.stderr


@pytest.mark.parametrize("python", PYTHONS)
def test_the_list_has_one_version_of_each_and_pyproject_admits_it(python: str) -> None:
    found = pins(CPU_LIST, python)
    assert tuple(sorted(found)) == ENTRIES
    assert pins(LISTS / "device.txt", python).items() == found.items() - {("onnxruntime", found["onnxruntime"])}
    for requirement in declared():
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), f"{requirement} refuses it"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_list_has_the_versions_that_are_tested_together(python: str) -> None:
    tested = pins(REPOSITORY / "constraints.txt", python)
    found = pins(CPU_LIST, python)
    assert {name: tested[name] for name in found.keys() & tested} == {
        name: found[name] for name in found.keys() & tested
    }
    if python != "3.10":  # there constraints.txt leaves most to pip
        assert found.keys() - tested == {"annotated-doc", "shellingham"}  # typer's own: nothing else asks for them


def test_what_the_listed_declare_is_listed_and_fits_or_named_as_left_out(listed: dict[str, str]) -> None:
    named = "".join(path.read_text(encoding="utf-8") for path in (LISTS / "device.txt", CPU_LIST)).lower()
    for name in listed:
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(requirement.name)
            if other in listed:
                assert requirement.specifier.contains(listed[other]), f"{name} wants {requirement}"
            else:
                assert other in named, f"{name} declares {other}, which the lists neither have nor name as left out"
