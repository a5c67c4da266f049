"""Large areas go onto huge pages and keep their contents; small and mapped ones are left alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.sessions.huge_pages import HUGE_BYTES, _large_areas, collapse_large_areas

MAPS = """\
558000000000-558000100000 rw-p 00000000 00:00 0                          [heap]
558100000000-558101000000 rw-p 00000000 00:00 0                          [heap]
7f0000001000-7f0001001000 rw-p 00000000 00:00 0
7f1000000000-7f1002000000 r--p 00000000 fe:00 1234                       /srv/bundle/decoder.onnx.data
7f2000000000-7f2002000000 rw-p 00000000 fe:00 1234                       /srv/bundle/decoder.onnx.data
7f3000000000-7f3002000000 r--p 00000000 00:00 0
7ffd00000000-7ffd01000000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_large_areas_of_the_process_s_own_are_taken() -> None:
    assert list(_large_areas(MAPS)) == [
        (0x558100000000, 16 * 2**20),
        (0x7F0000200000, 14 * 2**20),  # without the ends that fill no huge page
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_contents_stay() -> None:
    values = np.arange(8 * HUGE_BYTES // 8, dtype=np.int64)
    assert collapse_large_areas() >= 0
    assert np.array_equal(values, np.arange(len(values)))
    huge = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert huge is not None
