"""The two sides of the comparison compute the same, on graphs of the size that is said, and the table shows both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import SessionSettings
from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks import products
from benchmarks.sides import SIDES
from benchmarks.speed_rows import PRODUCT_HEAD, product_rows


@pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)
@pytest.mark.parametrize("scheme", products.SCHEMES, ids=lambda scheme: scheme.name)
def test_both_sides_multiply_the_same_weights(scheme: products.Scheme, tmp_path: Path) -> None:
    graph = tmp_path / "products.onnx"
    size = products.write_graph(scheme, (256, 256), 2, graph)
    assert size < graph.stat().st_size < 1.05 * size + 2000
    x = np.random.default_rng(0).standard_normal((3, 256), np.float32)
    found = {side: OnnxRuntimeSession(graph, threads=1, settings=SessionSettings(products=side)) for side in SIDES}
    assert [session.products == "onnxruntime" for session in found.values()] == [False, True]
    ours, theirs = (session.run({"x": x})["y.1"] for session in found.values())
    assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()  # the second layer rounds what the first gave


@pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)
def test_a_row_of_the_table_has_both_times_and_what_memory_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SCHEMES", products.SCHEMES[:1])
    monkeypatch.setattr(products, "CALLS", 8)
    found = list(products.results(rounds=1, threads=1, megabytes=9))
    rows = product_rows({"results": found})
    assert [row[1] for row in rows] == ["1", "4", "16", "400", "1"]
    assert all(len(row) == len(PRODUCT_HEAD) for row in rows)
    assert rows[-1][0].endswith("from memory") and "-" not in rows[-1] and rows[0][-3:] == ["-", "-", "-"]
