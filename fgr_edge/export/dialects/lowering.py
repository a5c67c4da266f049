"""Rewrites a graph of the standard dialect in the operators of the basic one, for TensorRT before 10.16.

In: a graph as `StandardDialect` spelled it (opset 24). Out: the same graph in opset 21, as `BasicDialect` spells it,
over the same weights: external data is named, not read. So one exported bundle serves every version of TensorRT, and
the device that builds engines decides what it needs.

Four operators differ: RMSNormalization, RotaryEmbedding, TensorScatter and Attention. Each is one node that one method
of the dialect made (`standard.py`: "what another version of ONNX spells otherwise"), and the other dialect's method
makes its replacement. All other nodes are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from fgr_edge.errors import EngineError
from fgr_edge.export.dialects.basic import BasicDialect
from fgr_edge.export.dialects.dialect import AttentionShape
from fgr_edge.export.graphs.builder import GraphBuilder

Inputs = list[ir.Value | None]

BASIC_IR_VERSION = 10  # ONNX 1.16, the first with opset 21: what the parser of TensorRT 10.3 was built with
QKV_WIDTHS = "qkv_widths"  # the constant that splits a decoder's projection into query, key and value


@dataclass(frozen=True, slots=True)
class Heads:
    """What attention's nodes do not say about themselves.

    Attributes:
        decoder: of cached attention; None in graphs without a cache.
        vision_head_dim: of attention over [B, N, heads * D].
    """

    decoder: AttentionShape | None
    vision_head_dim: int


def lowered(model: ir.Model, dialect: BasicDialect, heads: Heads) -> ir.Model:
    """The same graph in `dialect`'s operators; shares its initializers with `model`, which must not be used any more.

    Raises:
        EngineError: a node is not as the standard dialect spells it.
    """
    graph = model.graph
    g = GraphBuilder(None, str(graph.name), dialect.opset_imports)
    known: dict[ir.Value | None, ir.Value | None] = {None: None}
    for value in graph.inputs:
        assert value.dtype is not None and value.shape is not None
        dims = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
        known[value] = g.input(str(value.name), value.dtype.numpy(), dims)
    for value in graph.initializers.values():
        known[value] = g.keep(_copied(value))
    respell = _spellings(g, dialect, heads)
    for node in graph:
        inputs = [known[value] for value in node.inputs]
        if node.op_type in respell:
            known[node.outputs[0]] = respell[node.op_type](inputs, node)
        else:
            attributes: dict[str, Any] = dict(node.attributes)
            made = g.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
            known.update(zip(node.outputs, made, strict=True))
    for value in graph.outputs:
        made_value = known[value]
        assert made_value is not None and value.dtype is not None and value.shape is not None
        dims = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
        g.output(made_value, str(value.name), value.dtype.numpy(), dims)
    result = g.model()
    result.ir_version = BASIC_IR_VERSION
    return result


def decoder_heads(model: ir.Model, head_dim: int) -> AttentionShape | None:
    """Heads of a decoder graph's cached attention; None where it has none.

    Raises:
        EngineError: the graph does not say.
    """
    if not any(value.name is not None and value.name.startswith("past_key.") for value in model.graph.inputs):
        return None
    widths = model.graph.initializers.get(QKV_WIDTHS)
    if widths is None or widths.const_value is None:
        raise EngineError(
            f"decoder.onnx has no constant {QKV_WIDTHS!r}, which tells its heads; expected a graph of the standard "
            "dialect: export the bundle again with this version"
        )
    query, key, _ = widths.const_value.numpy().tolist()
    return AttentionShape(query // head_dim, key // head_dim, head_dim)


def _spellings(
    g: GraphBuilder, dialect: BasicDialect, heads: Heads
) -> Mapping[str, Callable[[Inputs, ir.Node], ir.Value]]:
    """Operator -> what makes its replacement from its inputs."""

    def normed(inputs: Inputs, node: ir.Node) -> ir.Value:
        eps = float(str(np.float32(_attribute(node, "epsilon"))))  # 1e-06, as it was before ONNX stored it
        return dialect.normed(g, _given(inputs, 0, node), _given(inputs, 1, node), eps)

    def rotated(inputs: Inputs, node: ir.Node) -> ir.Value:
        x, cos, sin = (_given(inputs, index, node) for index in range(3))
        if "num_heads" in node.attributes:
            return dialect.rotated(g, x, cos, sin, _attribute(node, "num_heads"))
        return dialect.rotated_heads(g, x, cos, sin)

    def written(inputs: Inputs, node: ir.Node) -> ir.Value:
        past, rows, start = (_given(inputs, index, node) for index in range(3))
        return dialect.written(g, past, rows, start)

    def attended(inputs: Inputs, node: ir.Node) -> ir.Value:
        q, k, v = (_given(inputs, index, node) for index in range(3))
        mask = inputs[3] if len(inputs) > 3 else None
        if "q_num_heads" in node.attributes:
            query_heads, key_heads = (_attribute(node, name) for name in ("q_num_heads", "kv_num_heads"))
            return dialect.attended(g, q, k, v, mask, AttentionShape(query_heads, key_heads, heads.vision_head_dim))
        if heads.decoder is None:
            raise _unexpected(node, "a graph with a KV cache")
        return dialect.attended_heads(g, q, k, v, mask, heads.decoder)

    return {
        "RMSNormalization": normed,
        "RotaryEmbedding": rotated,
        "TensorScatter": written,
        "Attention": attended,
    }


def _copied(value: ir.Value) -> ir.Value:
    """An initializer of its own, over the same numbers: a value belongs to one graph."""
    assert value.const_value is not None
    return ir.val(str(value.name), const_value=value.const_value, dtype=value.dtype, shape=value.shape)


def _given(inputs: Inputs, index: int, node: ir.Node) -> ir.Value:
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise _unexpected(node, f"an input {index}")
    return value


def _attribute(node: ir.Node, name: str) -> Any:
    attribute = node.attributes.get(name)
    if attribute is None:
        raise _unexpected(node, f"an attribute {name}")
    return attribute.value


def _unexpected(node: ir.Node, expected: str) -> EngineError:
    return EngineError(
        f"node {node.name} ({node.op_type}) cannot be rewritten for TensorRT before 10.16: expected {expected}; export "
        "the bundle again with this version"
    )
