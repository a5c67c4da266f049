"""Weights that ONNX Runtime copied leave memory, those it reads where they lie come back, and nothing else changes."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.onnxruntime_weights import MappedWeights

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

ROWS, COLUMNS = 512, 2048
_RANDOM = np.random.default_rng(0)
PACKED = _RANDOM.standard_normal((ROWS, COLUMNS), np.float32)  # 4 MiB, which a kernel copies
READ = _RANDOM.standard_normal((ROWS, COLUMNS), np.float32)  # and as much, which it does not
X = _RANDOM.standard_normal((2, ROWS), np.float32)

usable = pytest.mark.skipif(
    not sys.platform.startswith("linux") or tuple(map(int, ort.__version__.split(".")[:2])) < (1, 31),
    reason="this ONNX Runtime or system maps the weights itself",
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x @ packed + rows of `read` that `ids` names, both weights in graph.onnx.data."""
    names = {"packed": PACKED, "read": READ}
    (tmp_path / "graph.onnx.data").write_bytes(PACKED.tobytes() + READ.tobytes())
    weights = []
    for place, (name, array) in enumerate(names.items()):
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {
            "location": "graph.onnx.data",
            "offset": place * PACKED.nbytes,
            "length": array.nbytes,
        }.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    info = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "packed"], ["product"]),
        onnx.helper.make_node("Gather", ["read", "ids"], ["rows"]),
        onnx.helper.make_node("Add", ["product", "rows"], ["y"]),
    ]
    inputs = [info("x", onnx.TensorProto.FLOAT, [2, ROWS]), info("ids", onnx.TensorProto.INT64, [2])]
    outputs = [info("y", onnx.TensorProto.FLOAT, [2, COLUMNS])]
    made = onnx.helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opsets = [onnx.helper.make_opsetid("", 18)]
    (tmp_path / "graph.onnx").write_bytes(
        onnx.helper.make_model(made, ir_version=10, opset_imports=opsets).SerializeToString()
    )
    return tmp_path / "graph.onnx"


def expected(ids: list[int]) -> np.ndarray:
    found: np.ndarray = X @ PACKED + READ[ids]
    return found


def resident_kb(path: Path) -> int:
    """Of a file, in this process."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@usable
def test_an_open_graph_keeps_no_page_of_its_file_and_computes_the_same(graph: Path) -> None:
    session = OnnxRuntimeSession(graph, threads=1)
    data = graph.with_name("graph.onnx.data")
    assert resident_kb(data) == 0
    for ids in ([0, 1], [ROWS - 1, 7]):
        found = session.run({"x": X, "ids": np.array(ids)})["y"]
        np.testing.assert_allclose(found, expected(ids), rtol=1e-4, atol=1e-3)
    assert resident_kb(data) <= READ.nbytes // 1024  # what is read where it lies came back, not what was copied


@usable
def test_a_bound_call_keeps_the_weights_that_it_reads(graph: Path) -> None:
    session = OnnxRuntimeSession(graph, threads=1)
    x, ids = session.buffer(X.shape, np.float32), session.buffer((2,), np.int64)
    y = session.buffer((2, COLUMNS), np.float32)
    call = session.bind({"x": x, "ids": ids}, {"y": y})
    x.array[...], ids.array[...] = X, [3, 4]
    del session
    gc.collect()
    call()
    np.testing.assert_allclose(y.array, expected([3, 4]), rtol=1e-4, atol=1e-3)


@usable
def test_a_cut_file_is_refused(graph: Path) -> None:
    data = graph.with_name("graph.onnx.data")
    data.write_bytes(data.read_bytes()[: PACKED.nbytes + 4096])
    with pytest.raises(EngineError, match=r"cannot load graph\.onnx"):
        OnnxRuntimeSession(graph, threads=1)


def test_without_such_a_file_or_with_an_older_engine_there_is_nothing_to_offer(graph: Path) -> None:
    assert MappedWeights.beside(graph, "1.30.2") is None
    assert MappedWeights.beside(graph.with_name("other.onnx"), "1.31.1") is None
    (graph.parent / "empty.onnx.data").touch()
    assert MappedWeights.beside(graph.with_name("empty.onnx"), "1.31.1") is None


def test_an_older_engine_opens_the_file_itself(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MappedWeights, "beside", classmethod(lambda cls, graph, version: None))
    found = OnnxRuntimeSession(graph, threads=1).run({"x": X, "ids": np.array([1, 2])})["y"]
    np.testing.assert_allclose(found, expected([1, 2]), rtol=1e-4, atol=1e-3)
