"""Runs a command and measures it from outside: time to its first line, to its end, memory, reads from the disk.

The peak is the kernel's high-water mark (VmHWM), which counts mapped file pages, too; the part that is the process's
own (RssAnon) is sampled. `ru_maxrss` is not used: it starts at what the parent had when it forked.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fgr_edge.errors import EngineError

SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class ChildRun:
    """One run.

    Attributes:
        first_line_ms: From the start of the process until it printed a line; of `wall_ms` when it printed none.
        peak_bytes: High-water mark of resident memory; null where /proc does not tell.
        peak_anonymous_bytes: Largest sample of resident memory without mapped files; null likewise.
        disk_read_bytes: What the block devices delivered for it; 0 when all files were in the page cache.
    """

    first_line_ms: float
    wall_ms: float
    peak_bytes: int | None
    peak_anonymous_bytes: int | None
    disk_read_bytes: int
    stdout: str


class _MemorySampler(threading.Thread):
    """Reads /proc/PID/status until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.peaks: dict[str, int] = {}

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.sample()

    def sample(self) -> None:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:  # gone
            return
        for line in lines:
            key, _, value = line.partition(":")
            if key in ("VmHWM", "RssAnon"):
                self.peaks[key] = max(self.peaks.get(key, 0), int(value.split()[0]) * 1024)

    def stop(self) -> None:
        self._over.set()
        self.join()


def run_child(command: Sequence[str], *, sample_memory: bool = True) -> ChildRun:
    """Run `command` to its end; its stderr is shown only if it fails.

    Args:
        command: Program and arguments.
        sample_memory: Off for runs of milliseconds, which sampling would disturb.

    Raises:
        EngineError: it did not exit with 0.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        sampler = _MemorySampler(process.pid)
        errors: list[str] = []
        drain = threading.Thread(target=lambda stream: errors.append(stream.read()), args=(process.stderr,))
        drain.start()
        if sample_memory:
            sampler.start()
        first = process.stdout.readline()
        first_line_ms = (time.perf_counter() - start) * 1e3
        rest = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_ms = (time.perf_counter() - start) * 1e3
        process.returncode = os.waitstatus_to_exitcode(status)
        if sample_memory:
            sampler.stop()
        drain.join()
    if process.returncode != 0:
        raise EngineError(
            f"{' '.join(command)} exited with {process.returncode}, expected 0; its last words: {errors[0][-2000:]}"
        )
    peaks = sampler.peaks
    # The kernel counts blocks of 512 bytes.
    return ChildRun(
        first_line_ms, wall_ms, peaks.get("VmHWM"), peaks.get("RssAnon"), usage.ru_inblock * 512, first + rest
    )
