"""The two sides of the comparison attend alike, and the table shows both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import SessionSettings
from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import attention
from benchmarks.sides import SIDES
from benchmarks.speed_rows import ATTENTION_HEAD, attention_rows

WORKS = (attention.Work("all", 0, 70, 3, 3, 64, cached=False), attention.Work("behind", 65, 9, 4, 2, 64))


@pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_both_sides_attend_to_the_same(work: attention.Work, tmp_path: Path) -> None:
    graph = tmp_path / "attention.onnx"
    work.write(graph)
    ours, theirs = (
        OnnxRuntimeSession(graph, threads=1, settings=SessionSettings(products=side)).run(work.arrays())["y"]
        for side in SIDES
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert not np.array_equal(ours, theirs), "two kernels that add up in another order"


def test_what_causality_hides_is_not_counted() -> None:
    everything, behind = (work.multiply_adds for work in WORKS)
    assert everything == 2 * 70 * 70 * 3 * 64
    assert behind == 2 * sum(65 + token + 1 for token in range(9)) * 4 * 64


@pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)
def test_a_row_of_the_table_has_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WORKS", WORKS)
    monkeypatch.setattr(attention, "CALLS", 12)
    rows = attention_rows({"results": list(attention.results(rounds=1, threads=1))})
    assert [row[0] for row in rows] == ["all", "behind"]
    assert all(len(row) == len(ATTENTION_HEAD) and "-" not in row for row in rows)
