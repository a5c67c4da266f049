"""Weights are appended in order, aligned, whatever the sizes of the chunks they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.export.weight_file import LARGE_BYTES, WeightFile

Array = np.ndarray[Any, Any]


def stored(path: Path, offset: int, length: int) -> bytes:
    return path.read_bytes()[offset : offset + length]


def test_tensors_come_back_from_where_append_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = [rng.integers(0, 256, size, dtype=np.uint8) for size in (1, 63, 64, 0, LARGE_BYTES, 5, LARGE_BYTES + 1)]
    with WeightFile(tmp_path / "w.data") as file:
        places = [file.append(np.array_split(tensor, 7)) for tensor in tensors]
        size = file.size
    assert size == (tmp_path / "w.data").stat().st_size
    end = 0
    for tensor, (offset, length) in zip(tensors, places, strict=True):
        assert offset >= end
        assert offset % (4096 if length >= LARGE_BYTES else 64) == 0 or not length
        assert stored(file.path, offset, length) == tensor.tobytes()
        end = offset + length


@pytest.mark.parametrize("chunks", [1, 3, 1000])
def test_alignment_follows_the_tensor_not_its_chunks(tmp_path: Path, chunks: int) -> None:
    with WeightFile(tmp_path / "w.data") as file:
        file.append([np.zeros(3, np.uint8)])
        assert file.append(np.array_split(np.zeros(LARGE_BYTES, np.uint8), chunks)) == (4096, LARGE_BYTES)
        offset, _ = file.append(np.array_split(np.zeros(LARGE_BYTES - 1, np.uint8), chunks))
        assert offset == 4096 + LARGE_BYTES


def test_strided_scalar_and_foreign_arrays_are_stored_in_c_order(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays: list[Array] = [matrix.T, matrix[:, ::2], np.float16(2) * np.ones(()), matrix.astype(ml_dtypes.bfloat16)]
    with WeightFile(tmp_path / "w.data") as file:
        for array in arrays:
            assert stored(file.path, *file.append([array])) == array.tobytes()


def test_a_generator_is_consumed_chunk_by_chunk(tmp_path: Path) -> None:
    with WeightFile(tmp_path / "w.data") as file:
        written = []

        def chunks() -> Any:
            for _ in range(4):
                written.append((tmp_path / "w.data").stat().st_size)
                yield np.ones(LARGE_BYTES, np.uint8)

        file.append(chunks())
    assert written == [0, LARGE_BYTES, 2 * LARGE_BYTES, 3 * LARGE_BYTES]
