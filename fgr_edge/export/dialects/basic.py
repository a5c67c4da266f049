"""Operators that every engine has, opset 21: what TensorRT 10.3 and 10.13 (JetPack 6.1 to 7.1) compile.

They know no attention, no rotary embedding and no cache. Attention is two products around a softmax, which they fuse by
themselves; the query is scaled before the first, lest float16 overflows. Query heads that share a key head are rows of
one product, so that no key is copied. Linear layers, inputs and types are those of `standard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from fgr_edge.export.dialects.dialect import AttentionShape
from fgr_edge.export.dialects.qdq import KINDS
from fgr_edge.export.dialects.standard import StandardDialect, joined_heads, split_heads
from fgr_edge.export.graphs.builder import GraphBuilder

HIDDEN = -30000.0  # added to the logit of what is not to be seen; float16 reaches 65504


class BasicDialect(StandardDialect):
    """See `Dialect` for what each method computes, `StandardDialect` for the arguments."""

    name: str = "basic"

    @property
    def opset_imports(self) -> Mapping[str, int]:
        return {"": 21}

    def normed(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        # Squares overflow float16: the sum of squares is one of float32.
        kind = weight.dtype or ir.DataType.FLOAT
        wide = x if kind == ir.DataType.FLOAT else g.op("Cast", x, to=ir.DataType.FLOAT)
        last = g.constant(np.array([-1], np.int64), "axis_last")
        squares = g.op("ReduceMean", g.op("Mul", wide, wide), last, keepdims=1)
        rms = g.op("Sqrt", g.op("Add", squares, g.constant(np.array(eps, np.float32), f"eps_{eps}")))
        y = g.op("Div", wide, rms)
        return g.op("Mul", y if kind == ir.DataType.FLOAT else g.op("Cast", y, to=kind), weight)

    def rotated(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, heads: int) -> ir.Value:
        by_head = g.constant(np.array([0, 0, heads, -1], np.int64), f"in_{heads}_heads")
        split = g.op("Transpose", g.op("Reshape", x, by_head), perm=[0, 2, 1, 3])
        return joined_heads(g, self.rotated_heads(g, split, cos, sin))

    def rotated_heads(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        axis = g.constant(np.ones(1, np.int64), "axis_1")
        for_all_heads = [
            g.shared(f"{table.name}_heads", partial(g.op, "Unsqueeze", table, axis)) for table in (cos, sin)
        ]
        cos, sin = for_all_heads  # [1, 1, S, D / 2]
        first, second = g.ops("Split", x, outputs=2, axis=-1, num_outputs=2)
        turned = g.op("Sub", g.op("Mul", first, cos), g.op("Mul", second, sin))
        return g.op("Concat", turned, g.op("Add", g.op("Mul", second, cos), g.op("Mul", first, sin)), axis=-1)

    def written(self, g: GraphBuilder, past: ir.Value, rows: ir.Value, start: ir.Value) -> ir.Value:
        slots = g.shared("cache_slots", lambda: _slots(g, rows, start))
        return g.op("ScatterElements", past, slots, rows, axis=2)

    def attended(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, shape: AttentionShape
    ) -> ir.Value:
        q, k, v = (split_heads(g, x, shape.head_dim) for x in (q, k, v))
        return joined_heads(g, _softmax_attention(g, (q, k, v), mask, shape, KINDS[self.working_type]))

    def attended_heads(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, shape: AttentionShape
    ) -> ir.Value:
        return _softmax_attention(g, (q, k, v), mask, shape, KINDS[self.cache_dtype])


def _slots(g: GraphBuilder, rows: ir.Value, start: ir.Value) -> ir.Value:
    """Where each number of rows [1, KV, S, D] goes along the cache: [1, KV, S, D] int64, the same for all layers."""
    zero, one, two = (g.constant(np.array(n, np.int64), f"number_{n}") for n in range(3))
    shape = g.op("Shape", rows)
    counted = g.op("Add", g.op("Range", zero, g.op("Gather", shape, two), one), start)
    column = g.constant(np.array([-1, 1], np.int64), "as_column")
    return g.op("Expand", g.op("Reshape", counted, column), shape)


def _softmax_attention(
    g: GraphBuilder,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    mask: ir.Value | None,
    shape: AttentionShape,
    kind: ir.DataType,
) -> ir.Value:
    """q [B, heads, S, D] over k, v [B, kv_heads, T, D] of type `kind`; mask [B, 1, S, T] bool -> [B, heads, S, D]."""
    q, k, v = qkv
    dtype = kind.numpy()
    q = g.op("Mul", q, g.constant(np.array(shape.head_dim**-0.5, dtype), f"scale_{shape.head_dim}"))
    # Rows of one product for the query heads of a key head: [B, kv_heads, heads / kv_heads * S, D or T] and back.
    apart = g.constant(np.array([0, shape.heads, -1, 0], np.int64), f"apart_{shape.heads}")
    together = g.constant(np.array([0, shape.kv_heads, -1, 0], np.int64), f"together_{shape.kv_heads}")
    shared = shape.heads != shape.kv_heads
    q = g.op("Reshape", q, together) if shared else q
    logits = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    logits = g.op("Reshape", logits, apart) if shared else logits
    if mask is not None:
        seen, hidden = g.constant(np.zeros((), dtype), "seen"), g.constant(np.array(HIDDEN, dtype), "hidden_logit")
        logits = g.op("Add", logits, g.shared(f"{mask.name}_bias", lambda: g.op("Where", mask, seen, hidden)))
    weights = g.op("Softmax", logits, axis=-1)
    y = g.op("MatMul", g.op("Reshape", weights, together) if shared else weights, v)
    return g.op("Reshape", y, apart) if shared else y
