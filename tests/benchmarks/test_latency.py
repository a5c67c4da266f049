"""What the latency benchmark says of a screened head: bytes that are read, and rows that were left."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL")

from benchmarks.latency import screened, weight_bytes
from benchmarks.peers.peer import Decoded


def test_tokens_that_the_full_head_chose_are_counted_apart() -> None:
    found = screened([Decoded((1, 2, 3), 9.0, (1, None)), Decoded((1, 2, 3), 9.0, (5, 3))])
    assert found is not None
    assert (found["candidates"]["p50"], found["candidates"]["max"]) == (3, 5)
    assert (found["full_head_tokens"], found["tokens"]) == (1, 4)
    assert screened([Decoded((1, 2), 9.0)]) is None
    never = screened([Decoded((1, 2), 9.0, (None,))])
    assert never is not None and never["candidates"]["max"] is None and never["full_head_tokens"] == 1


def test_bytes_are_those_of_the_graphs_that_are_there(tmp_path: Path) -> None:
    for name, size in (("decoder", 10), ("screen", 3), ("head", 12)):
        (tmp_path / f"{name}.onnx.data").write_bytes(bytes(size))
    assert weight_bytes(tmp_path, "decoder", "screen") == 13
    assert weight_bytes(tmp_path, "decoder", "head", "nothing") == 22
