"""The file of weights beside a graph, mapped by this process, so that weights do not stand in memory twice.

In: a graph's path, options of a session that will be opened. Out: the mapping, which must live as long as the session.

ONNX Runtime's kernels copy most weights into an order of their own. Left alone, it maps each weight, copies it and then
lets go, so that opening takes as much again as the largest weight, the output head; and it keeps the scales mapped that
it has copied. A mapping of ours can be emptied at any time: what is still read comes back from the page cache. Linux
brings back as much around it as lies in one piece of the cache, megabytes since 6.18, but never across the border of a
mapping: there is one of these around each weight.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from fgr_edge.runtime.sessions.onnxruntime_offsets import weight_offsets

_INTERVAL_S = 0.003  # in which some 10 MB are copied
_FIRST_VERSION = (1, 31)  # that reads a buffer where it lies; earlier ones would copy it whole


class MappedWeights:
    """`<graph>.data`, all weights of the graph in it."""

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self._path = path
        self._mapping = mapping

    @classmethod
    def beside(cls, graph: Path, version: str) -> MappedWeights | None:
        """The file of `graph`, mapped; None where there is none, or this ONNX Runtime or system cannot use it so."""
        path = graph.with_name(f"{graph.name}.data")
        if _numbers(version) < _FIRST_VERSION or not hasattr(mmap, "MADV_DONTNEED"):
            return None
        try:
            with path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: it is empty
            return None
        with contextlib.suppress(OSError, ValueError):  # ValueError: no graph, which the engine will say better
            _part(mapping, weight_offsets(graph.read_bytes()))
        return cls(path, mapping)

    def offer(self, options: Any) -> None:
        """Let a session with these options take its weights from here."""
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        options.add_external_initializers_from_files_in_memory([self._path.name], [self._mapping], [len(self._mapping)])
        # On all cores. Without `forgetting`, the whole file would be in memory beside the copies.
        options.add_session_config_entry("session.prepack.enable_parallel", "1")

    def forget(self) -> None:
        """Nothing of the file in this process's memory, until it is read again."""
        self._mapping.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Forget again and again meanwhile, and once more at the end."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(_INTERVAL_S):
                self.forget()

        thread = threading.Thread(target=work, name="fgr-edge-weights", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.forget()


def _part(mapping: mmap.mmap, offsets: Sequence[int]) -> None:
    """Borders at `offsets`: neighbours differ in whether they would be in a core dump, so Linux keeps them apart."""
    if not hasattr(mmap, "MADV_DONTDUMP"):
        return
    borders = sorted({offset // mmap.PAGESIZE * mmap.PAGESIZE for offset in offsets if offset < len(mapping)})
    for start, stop in list(pairwise([*borders, len(mapping)]))[::2]:
        mapping.madvise(mmap.MADV_DONTDUMP, start, stop - start)


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
