"""The device never pays for torch: what the lean commands import, seen from a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "sympy",
    "datasets",
    "peft",
}
# `import fgr_edge` opens no engine, draws no table and talks to no hub.
LATER = {
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "typer",
    "rich",
    "matplotlib",
    "av",
    "cv2",
    "jinja2",
    "psutil",
}

DRIVER = """
import json, sys
sys.argv = ["fgr-edge", *json.loads(sys.argv[1])]
from fgr_edge.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
print("MODULES", json.dumps([code, modules]), file=sys.stderr)
"""
LIST_MODULES = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def modules_of_command(*arguments: str) -> tuple[str, set[str]]:
    """Runs a command in a fresh interpreter: what it printed, and the top-level modules it imported."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(arguments)], capture_output=True, text=True, timeout=120
    )
    reports = [line for line in done.stderr.splitlines() if line.startswith("MODULES ")]
    assert reports, f"the command died before its end:\n{done.stderr}"
    code, modules = json.loads(reports[-1].removeprefix("MODULES "))
    assert code in (0, None), f"exit {code}:\n{done.stderr}"
    return done.stdout, set(modules)


def modules_of_statement(statement: str) -> set[str]:
    """The top-level modules that one statement imports in a fresh interpreter."""
    command = [sys.executable, "-c", f"{statement}\n{LIST_MODULES}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split())


def test_importing_the_package_imports_nothing_before_it_is_asked_for() -> None:
    modules = modules_of_statement("import fgr_edge")
    assert not modules & HEAVY
    assert not modules & LATER
    assert not modules & {"numpy", "PIL", "tokenizers"}


def test_importing_the_recognizer_opens_no_engine_and_draws_no_table() -> None:
    modules = modules_of_statement("from fgr_edge import Recognizer")
    assert not modules & HEAVY
    assert not modules & LATER


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recognize", "--help"],
        ["inspect", "--help"],
        ["export", "--help"],
        ["eval", "--help"],
        ["bench", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    printed, modules = modules_of_command(*arguments)
    assert "Usage" in printed
    assert not modules & HEAVY
    assert not modules & {"onnxruntime", "tensorrt"}


def test_recognizing_a_picture_imports_no_heavy_library(
    nano_bundle: Callable[..., Path], nano_labels: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)).save(picture)
    printed, modules = modules_of_command("recognize", str(nano_bundle("int8", nano_labels)), str(picture), "--json")
    assert json.loads(printed)
    assert "onnxruntime" in modules
    assert not modules & HEAVY


def test_evaluating_imports_no_heavy_library(
    nano_bundle: Callable[..., Path], nano_labels: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Ember Finch"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)).save(folder / "a.png")
    asked = ["eval", str(nano_bundle("int8", nano_labels)), "--data", str(tmp_path), "--protocol", "closed-all"]
    printed, modules = modules_of_command(*asked, "--json", "--report", str(tmp_path / "report"))
    assert json.loads(printed)["photographs"] == 1
    assert "onnxruntime" in modules
    assert not modules & (HEAVY | {"matplotlib"})
