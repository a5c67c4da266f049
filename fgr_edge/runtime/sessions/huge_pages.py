"""Large weights of this process onto huge pages, so that reading them misses the address cache less often.

In: nothing. Out: how many bytes were moved. Linux only; elsewhere, and where the kernel says no, nothing happens.

ONNX Runtime repacks weights into memory of its allocator, in pages of 4 KiB, unless the system hands out huge pages
to whoever asks for memory (`/sys/kernel/mm/transparent_hugepage/enabled` is `always`). Afterwards is not too late:
MADV_COLLAPSE (Linux 6.1) copies what is there onto pages of 2 MiB, in a second or two a gigabyte; before 6.1
MADV_HUGEPAGE lets the kernel do it by and by. Contents and addresses stay as they are.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

HUGE_BYTES = 2 * 2**20
LEAST_BYTES = 2 * HUGE_BYTES  # smaller areas are no weights worth the copying

_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25

log = logging.getLogger(__name__)


def collapse_large_areas() -> int:
    """Move every large area of the process's own memory; returns the bytes that the kernel accepted."""
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    moved = 0
    for start, size in list(_large_areas(Path("/proc/self/maps").read_text())):
        # An area may be gone by now, or lack memory for the copy: then it stays as it was.
        if any(madvise(start, size, advice) == 0 for advice in (_MADV_COLLAPSE, _MADV_HUGEPAGE)):
            moved += size
    log.debug("%.1f MB on huge pages", moved / 1e6)
    return moved


def _large_areas(maps: str) -> Iterator[tuple[int, int]]:
    """Start and size of the anonymous, writable, private areas, cut to whole huge pages."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if fields[1] != "rw-p" or (len(fields) > 5 and fields[5] != "[heap]"):
            continue
        low, high = (int(end, 16) for end in fields[0].split("-"))
        start = -(-low // HUGE_BYTES) * HUGE_BYTES
        size = high // HUGE_BYTES * HUGE_BYTES - start
        if size >= LEAST_BYTES:
            yield start, size
