"""The external-data file of one ONNX graph, written front to back.

In: tensors as streams of arrays. Out: where each one lies. Memory in use is one chunk. Does not know ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_BYTES = 1024 * 1024
LARGE_ALIGNMENT = 4096  # a page: what ONNX Runtime needs to map a tensor instead of copying it
SMALL_ALIGNMENT = 64  # a cache line


class WeightFile:
    """Append-only weights: tensors of 1 MiB and more start at a page, smaller ones at a cache line.

    Args:
        path: the file, created or emptied.

    Raises:
        OSError: from every method that writes (a full disk); `BundleWriter` turns it into a `StorageError`.
            The file is closed then, so that removing it frees the space.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = 0
        # Unbuffered: a full disk shows at the write, not at some later close.
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._end

    def append(self, chunks: Iterable[npt.NDArray[Any]]) -> tuple[int, int]:
        """Write one tensor, its chunks one after the other in C order; return (offset, length) in bytes."""
        try:
            return self._append(chunks)
        except OSError:
            self.close()
            raise

    def _append(self, chunks: Iterable[npt.NDArray[Any]]) -> tuple[int, int]:
        offset = self._end
        length = 0
        for block in _blocks(chunks):
            if not length:  # only now is it known whether the tensor is large
                alignment = LARGE_ALIGNMENT if len(block) >= LARGE_BYTES else SMALL_ALIGNMENT
                offset += -offset % alignment
                self._file.seek(offset)
            self._write(block)
            length += len(block)
        self._end = offset + length
        return offset, length

    def _write(self, block: memoryview) -> None:
        done = 0
        while done < len(block):  # Linux writes at most 2 GiB a call
            done += self._file.write(block[done:]) or 0

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _blocks(chunks: Iterable[npt.NDArray[Any]]) -> Iterator[memoryview]:
    """The bytes of `chunks` in blocks of `LARGE_BYTES` or more, but for the last one; copies small chunks."""
    pending = bytearray()
    for chunk in chunks:
        data = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
        if not pending and len(data) >= LARGE_BYTES:
            yield data
            continue
        pending += data
        if len(pending) >= LARGE_BYTES:
            yield memoryview(pending)
            pending = bytearray()
    if pending:
        yield memoryview(pending)
