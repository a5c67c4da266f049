"""Offsets are those that the onnx package reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fgr_edge.runtime.sessions.onnxruntime_offsets import weight_offsets

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("name", ["decoder.onnx", "vision.onnx"])
def test_offsets_are_those_of_the_graph(nano_bundle: Callable[..., Path], name: str) -> None:
    path = nano_bundle("int8") / name
    graph = onnx.load(path, load_external_data=False).graph
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
    expected = sorted({int(entry.get("offset", 0)) for entry in entries if entry})
    assert len(expected) > 10
    assert weight_offsets(path.read_bytes()) == expected


def test_a_graph_without_weights_beside_it_has_none() -> None:
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = onnx.helper.make_graph([], "graph", [], [], [tensor])
    assert weight_offsets(onnx.helper.make_model(graph).SerializeToString()) == []


@pytest.mark.parametrize("damaged", [b"\x3a\x05\xff\xff", b"\x3b", b"\xff" * 20])
def test_what_is_no_graph_is_refused_or_has_none(damaged: bytes) -> None:
    try:
        assert weight_offsets(damaged) == []
    except ValueError as error:
        assert "no ONNX graph" in str(error)
