"""`optimum-cli export fgr-edge`, by optimum's own entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from fgr_edge.cli import app

pytest.importorskip("optimum.commands.optimum_cli")
OPTIMUM = [sys.executable, "-c", "from optimum.commands.optimum_cli import main; main()", "export"]


def optimum_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OPTIMUM, *map(str, arguments)], capture_output=True, text=True, timeout=240)


def test_it_writes_the_bundle_that_fgr_edge_export_writes(nano_checkpoint: Path, tmp_path: Path) -> None:
    given = ("--model", nano_checkpoint, "--precision", "int8", "--image-size", "640x480", "--no-proof")
    done = optimum_cli("fgr-edge", *given, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["target"] == "cpu"
    assert str(tmp_path / "bundle") in done.stdout or "int8" in done.stdout


def test_every_option_of_fgr_edge_export_is_there() -> None:
    shown = optimum_cli("fgr-edge", "--help").stdout
    options = get_command(app).commands["export"].params  # type: ignore[attr-defined]
    names = [name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]
    assert len(names) > 15
    assert [name for name in names if name not in shown] == ["--output"]


def test_a_known_failure_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = optimum_cli("fgr-edge", "-m", tmp_path, tmp_path / "bundle", "--no-proof")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("fgr-edge: ")
    assert "Traceback" not in done.stderr
