"""Processes are measured from outside, and what a fresh one says of itself is true."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fgr_edge.bench.child import run_child
from fgr_edge.bench.first_answer import memory
from fgr_edge.bench.starts import Starter, measure_starts, processes, put_out_of_cache
from fgr_edge.errors import EngineError
from fgr_edge.runtime.bundle import Bundle


def test_the_first_line_is_timed_before_the_end() -> None:
    code = "import time; print('a', flush=True); time.sleep(0.3); print('b')"
    run = run_child([sys.executable, "-c", code])
    assert run.stdout == "a\nb\n"
    assert run.first_line_ms + 250 < run.wall_ms


def test_the_peak_is_the_child_s_and_not_the_parent_s() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    code = "import time; held = bytearray(150_000_000); print(1, flush=True); time.sleep(0.3)"
    run = run_child([sys.executable, "-c", code])
    assert run.peak_bytes is not None and 150e6 < run.peak_bytes < 250e6


def test_a_child_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(EngineError, match="exited with 3, expected 0; its last words: no room"):
        run_child([sys.executable, "-c", "import sys; sys.stderr.write('no room'); sys.exit(3)"])


def test_memory_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert memory(tmp_path / "nothing") == {"peak_bytes": None, "anonymous_bytes": None}
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nRssAnon:\t 512 kB\n")
    assert memory(tmp_path / "status") == {"peak_bytes": 2 * 1024**2, "anonymous_bytes": 512 * 1024}


def test_an_uncached_start_reads_the_bundle_again(
    nano_bundle: Callable[..., Path], birds: Callable[..., list[Path]]
) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("no posix_fadvise")
    bundle = Bundle.open(nano_bundle("int8"))
    starter = Starter(bundle, birds(1)[0], None, "cpu", 1, 4)
    put_out_of_cache(bundle)
    steps: list[int] = []
    cold, found = measure_starts(starter, 1, ["direct", "reason"], lambda: steps.append(1))
    assert len(steps) == processes(1, ["direct", "reason"]) == 4
    assert cold["cached"] is not None and cold["uncached"] is not None
    assert cold["uncached"]["disk_read_bytes"] >= cold["cached"]["disk_read_bytes"]
    assert set(found["peak_bytes"]) <= {"direct", "reason"}
