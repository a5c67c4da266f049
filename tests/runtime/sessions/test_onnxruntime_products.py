"""Sessions multiply with our products where they can, with ONNX Runtime's elsewhere, and say which."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fgr_edge import Recognizer
from fgr_edge.errors import EngineError
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import SessionSettings
from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT, Product

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

built = pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)

PRODUCT = Product.drawn(8, 128, (300, 512), bias=True)
X = PRODUCT.inputs(3)
THEIRS = SessionSettings(products="onnxruntime")


def close_to_expected(found: np.ndarray) -> bool:
    expected = PRODUCT.expected(X)
    return bool(np.abs(found - expected).max() < 1e-5 * np.abs(expected).max())


@built
def test_sessions_multiply_with_our_products_unless_told_otherwise(tmp_path: Path) -> None:
    graph = PRODUCT.graph(tmp_path)
    ours, theirs = OnnxRuntimeSession(graph, threads=2), OnnxRuntimeSession(graph, threads=2, settings=THEIRS)
    assert (ours.products, theirs.products) == (f"fgr-edge {library.instructions()}", "onnxruntime")
    first, second = (session.run({"x": X})["y"] for session in (ours, theirs))
    assert close_to_expected(first) and close_to_expected(second)
    assert not np.array_equal(first, second), "both sessions used the same kernels"


def test_without_the_library_onnxruntime_multiplies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libkernels.so")
    session = OnnxRuntimeSession(PRODUCT.graph(tmp_path), threads=2)
    assert session.products == "onnxruntime"
    assert close_to_expected(session.run({"x": X})["y"])


@built
def test_a_library_that_the_engine_refuses_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "libkernels.so")
    monkeypatch.setattr(library, "instructions", lambda: "some")
    with caplog.at_level("INFO", logger="fgr_edge"):
        session = OnnxRuntimeSession(PRODUCT.graph(tmp_path), threads=2)
    assert session.products == "onnxruntime" and "were refused" in caplog.text
    assert close_to_expected(session.run({"x": X})["y"])


@built
@pytest.mark.parametrize("level", [0, 1])
def test_nodes_that_ask_for_float_inputs_get_them(tmp_path: Path, level: int) -> None:
    session = OnnxRuntimeSession(PRODUCT.graph(tmp_path, accuracy_level=level), threads=2)
    assert session.products == "onnxruntime"
    weight = (PRODUCT.levels - 128.0) * PRODUCT.scales[..., None]
    expected = X.astype(np.float64) @ weight.reshape(300, 512).T + PRODUCT.bias
    np.testing.assert_allclose(session.run({"x": X})["y"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@built
def test_weights_that_are_given_with_each_call_are_left_to_onnxruntime(tmp_path: Path) -> None:
    import onnx

    path = PRODUCT.graph(tmp_path)
    model = onnx.load(path)
    bias = next(value for value in model.graph.initializer if value.name == "bias")
    model.graph.initializer.remove(bias)
    model.graph.input.append(onnx.helper.make_tensor_value_info("bias", onnx.TensorProto.FLOAT, [300]))
    onnx.save(model, path)
    session = OnnxRuntimeSession(path, threads=2)
    assert session.products == "onnxruntime"
    assert PRODUCT.bias is not None
    assert close_to_expected(session.run({"x": X, "bias": PRODUCT.bias})["y"])


def test_a_graph_that_multiplies_no_levels_has_no_products(tmp_path: Path) -> None:
    import onnx

    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["y"])],
        "other",
        [info("x", onnx.TensorProto.FLOAT, [2])],
        [info("y", onnx.TensorProto.FLOAT, [2])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx.helper.make_model(made, ir_version=10, opset_imports=opsets).SerializeToString())
    session = OnnxRuntimeSession(path, threads=1)
    assert session.products is None
    assert list(session.run({"x": np.array([1, -2], np.float32)})["y"]) == [-1, 2]


def test_a_damaged_graph_is_refused_as_ever(tmp_path: Path) -> None:
    graph = PRODUCT.graph(tmp_path)
    graph.write_bytes(graph.read_bytes()[:-1000])
    with pytest.raises(EngineError, match=r"cannot load product\.onnx"):
        OnnxRuntimeSession(graph, threads=1)


@built
def test_two_threads_may_use_one_session_and_one_each(tmp_path: Path) -> None:
    graph = PRODUCT.graph(tmp_path)
    shared = OnnxRuntimeSession(graph, threads=2)
    expected = shared.run({"x": X})["y"]
    wrong: list[str] = []

    def work(name: str) -> None:
        own = OnnxRuntimeSession(graph, threads=2)
        for _ in range(50):
            for kind, session in (("shared", shared), ("own", own)):
                if not np.array_equal(session.run({"x": X})["y"], expected):
                    wrong.append(f"{name}: {kind}")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@built
def test_sessions_are_closed_and_opened_again(tmp_path: Path) -> None:
    graph = PRODUCT.graph(tmp_path)
    expected = OnnxRuntimeSession(graph, threads=2).run({"x": X})["y"]
    gc.collect()
    for _ in range(20):
        session = OnnxRuntimeSession(graph, threads=2)
        assert np.array_equal(session.run({"x": X})["y"], expected)
        del session
        gc.collect()


@built
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for this process's memory")
def test_closed_sessions_give_their_memory_back(tmp_path: Path) -> None:
    graph = Product.drawn(8, 128, (4096, 4096)).graph(tmp_path)  # 16 MiB of levels

    def resident_mb() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

    def open_and_close() -> int:
        session = OnnxRuntimeSession(graph, threads=1)
        del session
        gc.collect()
        return resident_mb()

    before = [open_and_close() for _ in range(2)][-1]
    assert [open_and_close() for _ in range(10)][-1] < before + 80  # the allocator keeps some, a leak would be 160


def test_a_model_says_whose_products_it_uses(
    nano_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = library.instructions()
    assert Recognizer(nano_bundle("int8"), ["Kiwi"]).model.products == (
        "onnxruntime" if ours is None else f"fgr-edge {ours}"
    )
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    assert Recognizer(nano_bundle("int8"), ["Kiwi"]).model.products == "onnxruntime"
