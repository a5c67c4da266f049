"""The driver's side of a peer's process (`worker.py`): start it, ask it, read its memory, end it.

In: a command. Out: its answers as dictionaries. What it says on stderr goes to a file beside the models.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
READ_BYTES = 1 << 16


class PeerError(RuntimeError):
    """The peer cannot do what it was asked, or is gone."""


class PeerProcess:
    """A worker that has said that it is ready.

    Args:
        command: program and arguments.
        log: file for its stderr.
        timeout_s: for it to open its model.

    Attributes:
        ready: its first line.

    Raises:
        PeerError: it ended, or said nothing in time.
    """

    def __init__(self, command: Sequence[str], log: Path, timeout_s: float) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._stderr: TextIO = log.open("w", encoding="utf-8")
        settings = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        settings["TORCHINDUCTOR_CACHE_DIR"] = str(log.parent / "inductor")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=ROOT,
            env={**os.environ, **settings},
        )
        self._rest = b""
        self.ready = self._read(timeout_s)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One answer.

        Raises:
            PeerError: it could not, or it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._last_words()) from error
        answer = self._read(timeout_s)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def memory(self) -> dict[str, int | None]:
        """Peak of resident memory, mapped files counted, and what is resident now without them; null without /proc."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            lines = []
        found = {key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines)
                 if key in ("VmHWM", "RssAnon")}  # fmt: skip
        return {"peak_bytes": found.get("VmHWM"), "anonymous_bytes": found.get("RssAnon")}

    def close(self) -> None:
        """End the process; it has nothing to save."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise PeerError(f"no answer within {timeout_s:.0f} s; its log is {self._log}")
                piece = os.read(self._process.stdout.fileno(), READ_BYTES)
                if not piece:
                    raise PeerError(self._last_words())
                self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        document: dict[str, Any] = json.loads(line)
        return document

    def _last_words(self) -> str:
        self.close()
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return f"it ended; its last words: {lines[-1][:300] if lines else 'none'}"
