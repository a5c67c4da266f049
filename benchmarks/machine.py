"""Where and how a number was measured: the part of a result document that says so.

Out: `describe_machine()`, a JSON-ready dict: the package's own description of CPU, memory, system and versions, with
those of the peers, load, a noise check, the commit and the command line. What cannot be found out is null. No host
name, no user.

    python benchmarks/machine.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from fgr_edge.bench import machine

PACKAGES = (*machine.PACKAGES, "onnx", "onnx-ir", "torch", "transformers")


def describe_machine() -> dict[str, Any]:
    """Everything that a reader needs to judge a number measured here. Takes about half a second."""
    return {
        **machine.describe_machine(PACKAGES),
        "load_average_1m": round(os.getloadavg()[0], 2),
        "noise_percent": machine.noise_percent(),
        "commit": git_commit(),
        "command": _command(),
    }


def git_commit() -> str | None:
    """The commit of the working tree, `-dirty` when tracked files differ; null outside a repository."""
    root = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _command() -> str:
    """The command line, the script named relative to the repository."""
    script = Path(sys.argv[0])
    root = Path(__file__).resolve().parents[1]
    name = str(script.resolve().relative_to(root)) if script.resolve().is_relative_to(root) else script.name
    return " ".join(["python", name, *sys.argv[1:]])


if __name__ == "__main__":
    print(json.dumps(describe_machine(), indent=2))
