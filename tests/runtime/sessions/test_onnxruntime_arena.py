"""What one graph's activations took serves the next graph's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import SessionSettings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

COUNT = 2**23
MB = COUNT * 4 / 1e6  # of each activation

GROWTH = """
import sys
from pathlib import Path
import numpy as np
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from tests.runtime.sessions.test_onnxruntime_arena import COUNT

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))

x, grown = np.ones(COUNT, np.float32), []
for _ in range(2):
    session = OnnxRuntimeSession(Path(sys.argv[1]), threads=1)
    before = anonymous_mb()
    session.run({"x": x})
    grown.append(anonymous_mb() - before)
    kept = [*globals().get("kept", []), session]
print(*grown)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = sum(sqrt(exp(sin(x)))), one activation after another."""
    info = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node(kind, [given], [found])
        for kind, given, found in (("Sin", "x", "a"), ("Exp", "a", "b"), ("Sqrt", "b", "c"), ("ReduceSum", "c", "y"))
    ]
    floats = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(nodes, "graph", [info("x", floats, ["n"])], [info("y", floats, None)])
    model = onnx.helper.make_model(made, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "graph.onnx"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_graphs_share_the_memory_of_their_activations(graph: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(graph)], capture_output=True, text=True, check=True, timeout=60
    )
    first, second = map(float, done.stdout.split())
    assert first > MB / 2
    assert second < first / 4


@pytest.mark.parametrize("arena", [True, False])
def test_a_pool_changes_no_result(graph: Path, arena: bool) -> None:
    x = np.linspace(0, 1, 1000, dtype=np.float32)
    session = OnnxRuntimeSession(graph, threads=1, settings=SessionSettings(arena=arena))
    np.testing.assert_allclose(session.run({"x": x})["y"], np.sqrt(np.exp(np.sin(x))).sum(), rtol=1e-5)
