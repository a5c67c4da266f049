"""What was freed leaves the process."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from fgr_edge.runtime.freed_memory import give_back_freed_memory


def _resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")
def test_memory_freed_under_something_kept_is_given_back() -> None:
    pieces = [bytearray(64 * 1024) for _ in range(1024)]  # 64 MiB, in pieces too small for mappings of their own
    kept = pieces[-1]
    del pieces
    before = _resident_mb()
    give_back_freed_memory()
    assert _resident_mb() < before - 32
    assert len(kept) == 64 * 1024
