"""Running the command in this process, by its entry point."""

from __future__ import annotations

import io
import sys
from typing import NamedTuple

import pytest

from fgr_edge.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object, stdin: bytes = b""
) -> Done:
    monkeypatch.setattr(sys, "argv", ["fgr-edge", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    capsys.readouterr()
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    assert isinstance(code, int)
    return Done(code, *capsys.readouterr())
