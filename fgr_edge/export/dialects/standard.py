"""ONNX's own operators, opset 24: what TensorRT 10.16 and later compile, ONNX Runtime's CPU being their reference.

The KV cache is written in place by TensorScatter; Attention reads all of it under an explicit mask, which hides the
slots not yet written. TensorRT wants its length to be a number: `cache_length` is a named dimension, which whoever
builds an engine sets. Every type is stated, quantized layers are explicit QuantizeLinear/DequantizeLinear pairs (see
`qdq.py`): an engine that takes types as they are (TensorRT 11 knows no other way) has nothing left to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from fgr_edge.calibrate.plan import Part, Plan
from fgr_edge.calibrate.schemes.scheme import Plain
from fgr_edge.export.dialects.dialect import AttentionShape, CacheInputs, Vector, WindowInputs, equal_parts, window_mask
from fgr_edge.export.dialects.qdq import KINDS, Working, column_multiple, pad_columns, rounded_inputs, weight_value
from fgr_edge.export.graphs.builder import Dim, GraphBuilder
from fgr_edge.export.weights import Matrix


def working_type(plan: Plan) -> Working:
    """What a plan's graphs compute in: float32 where nothing is narrower, bfloat16 where asked for, else float16."""
    schemes = {plan.vision, plan.decoder, plan.head}
    if any(scheme == Plain("bf16", "bfloat16") for scheme in schemes):
        return "bfloat16"
    return "float32" if schemes == {Plain("fp32", "float32")} else "float16"


class StandardDialect:
    """See `Dialect` for what each method computes.

    Args:
        plan: which scheme each linear layer gets.
        working: what lies between a norm and the next sum; None takes `working_type`.

    Between query, key and value and the output of attention, bfloat16 graphs compute in float16, which holds three
    bits more of a cached number: attention's inputs are far from its range.
    """

    name: str = "standard"
    tree_attention = True

    def __init__(self, plan: Plan, working: Working | None = None) -> None:
        self.plan = plan
        self.working_type: Working = working_type(plan) if working is None else working
        self.cache_dtype: Literal["float32", "float16"] = "float32" if self.working_type == "float32" else "float16"

    @property
    def opset_imports(self) -> Mapping[str, int]:
        return {"": 24}

    def working(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        return _cast(g, x, "float32", self.working_type)

    def float32(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        return _cast(g, x, self.working_type, "float32")

    def padded_width(self, width: int, part: Part, unit: str) -> int:
        multiple = column_multiple(self.plan.scheme(part, unit))
        return -(-width // multiple) * multiple

    def linear(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, *, flat: bool = False
    ) -> ir.Value:
        scheme = self.plan.scheme(weight.part, weight.unit)
        inner: Working = scheme.dtype if isinstance(scheme, Plain) else self.working_type
        inputs = self.plan.inputs(weight.name)
        x = _cast(g, x, self.working_type, inner)
        x = pad_columns(g, x, weight, scheme, axes=2 if flat else 3)
        x = rounded_inputs(g, x, weight, scheme, inputs, inner)
        # The stored order of rows stays, so that the weight streams through in chunks.
        w = g.op("Transpose", weight_value(g, weight, scheme, inputs, inner), perm=[1, 0])
        y = g.op("MatMul", x, w)
        if bias is not None:
            filled = np.pad(bias, (0, weight.padded_rows - len(bias))).astype(KINDS[inner].numpy())
            y = g.op("Add", y, g.weight(f"{weight.name}.bias", filled.shape, KINDS[inner], [filled]))
        return _cast(g, y, inner, self.working_type)

    def linear_parts(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, parts: int, *, flat: bool = False
    ) -> Sequence[ir.Value]:
        return equal_parts(g, self.linear(g, x, weight, bias, flat=flat), parts)

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, eps: float, name: str) -> ir.Value:
        return self.working(g, self.normed(g, x, g.constant(weight, name), eps))

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, residual: ir.Value, weight: Vector, eps: float, name: str
    ) -> tuple[ir.Value, ir.Value]:
        total = g.op("Add", self.float32(g, x), residual)
        return self.rms_norm(g, total, weight, eps, name), total

    def layer_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, bias: Vector, eps: float, name: str) -> ir.Value:
        w, b = g.constant(weight, name), g.constant(bias, f"{name}.bias")
        return self.working(g, g.op("LayerNormalization", x, w, b, axis=-1, epsilon=eps))

    def swiglu(self, g: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        return g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)

    def gelu(self, g: GraphBuilder, x: ir.Value, *, tanh: bool) -> ir.Value:
        return g.op("Gelu", x, approximate="tanh" if tanh else "none")

    def rotary(self, g: GraphBuilder, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        axis = g.constant(np.zeros(1, np.int64), "axis_0")
        cos, sin = (
            g.shared(f"{table.name}_table", lambda table=table: g.op("Unsqueeze", self.working(g, table), axis))  # type: ignore[misc]
            for table in (cos, sin)
        )
        return self.rotated(g, x, cos, sin, heads)

    def attention(
        self,
        g: GraphBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        shape: AttentionShape,
        windows: WindowInputs | None,
    ) -> ir.Value:
        if windows is None:
            return self.attended(g, q, k, v, None, shape)
        # 1. Gather the tokens of each window into rows of equal length: [1, N, C] -> [W, L, C].
        axis = g.constant(np.zeros(1, np.int64), "axis_0")
        q, k, v = (g.op("Squeeze", g.op("Gather", x, windows.rows, axis=1), axis) for x in (q, k, v))
        # 2. Attend inside each window; padding is masked as a key.
        mask = g.shared("window_mask", lambda: window_mask(g, windows))
        y = self.attended(g, q, k, v, mask, shape)
        # 3. Put every token back: [W, L, C] -> [1, N, C].
        width = shape.heads * shape.head_dim
        joined = g.op("Reshape", y, g.constant(np.array([1, -1, width], np.int64), f"join_windows_{width}"))
        return g.op("Gather", joined, windows.inverse, axis=1)

    def cache_inputs(self, g: GraphBuilder, head_dim: int) -> CacheInputs:
        others = {
            "write_indices": g.input("write_indices", np.int64, [1]),
            "mask": g.input("attention_mask", np.bool_, [1, 1, "sequence", "cache_length"]),
        }
        rows = g.input("table_rows", np.int64, [1, "sequence"])
        tables = (
            g.input(name, self.cache_dtype, ["cache_length", head_dim // 2]) for name in ("cos_cache", "sin_cache")
        )
        cos, sin = (g.op("Gather", table, rows, axis=0) for table in tables)  # [1, S, D / 2]
        return CacheInputs(cos, sin, others)

    def cached_attention(
        self,
        g: GraphBuilder,
        qkv: ir.Value,
        layer: int,
        shape: AttentionShape,
        cache: CacheInputs,
        qk_norm: tuple[Vector, Vector, float] | None,
    ) -> ir.Value:
        # 1. Heads: [1, S, (heads + 2 kv_heads) * D] -> q [1, heads, S, D], k and v [1, kv_heads, S, D].
        q, k, v = self._heads(g, _cast(g, qkv, self.working_type, self.cache_dtype), shape)
        if qk_norm is not None:
            *weights, eps = qk_norm
            q, k = (
                self.normed(g, x, g.constant(w.astype(self.cache_dtype), f"{name}_norm.{layer}"), eps)
                for x, w, name in zip((q, k), weights, "qk", strict=True)
            )
        q, k = (self.rotated_heads(g, x, cache.cos, cache.sin) for x in (q, k))
        # 2. The cache takes the new rows in, and attention reads all of it.
        dims: list[Dim] = [1, shape.kv_heads, "cache_length", shape.head_dim]
        present = []
        for kind, value in (("key", k), ("value", v)):
            past = g.input(f"past_{kind}.{layer}", self.cache_dtype, dims)
            present.append(self.written(g, past, value, cache.others["write_indices"]))
            g.output(present[-1], f"present_{kind}.{layer}", self.cache_dtype, dims)
        y = joined_heads(g, self.attended_heads(g, q, present[0], present[1], cache.others["mask"], shape))
        return _cast(g, y, self.cache_dtype, self.working_type)

    # What another version of ONNX spells otherwise.

    def normed(self, g: GraphBuilder, x: ir.Value, weight: ir.Value, eps: float) -> ir.Value:
        """x / rms(x) * weight over the last axis."""
        return g.op("RMSNormalization", x, weight, axis=-1, epsilon=eps)

    def rotated(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value, heads: int) -> ir.Value:
        """x [1, N, heads * D] rotated by cos, sin [1, N, D / 2]."""
        return g.op("RotaryEmbedding", x, cos, sin, num_heads=heads)

    def rotated_heads(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """x [1, heads, S, D] rotated by cos, sin [1, S, D / 2]."""
        return g.op("RotaryEmbedding", x, cos, sin)

    def written(self, g: GraphBuilder, past: ir.Value, rows: ir.Value, start: ir.Value) -> ir.Value:
        """past [1, KV, T, D] with rows [1, KV, S, D] in its slots from start [1] on."""
        return g.op("TensorScatter", past, rows, start, axis=2)

    def attended(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, shape: AttentionShape
    ) -> ir.Value:
        """Attention of q [B, N, heads * D] over k, v [B, N, kv_heads * D]; mask [B, 1, N, N] bool."""
        return g.op("Attention", q, k, v, mask, q_num_heads=shape.heads, kv_num_heads=shape.kv_heads)

    def attended_heads(
        self, g: GraphBuilder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, shape: AttentionShape
    ) -> ir.Value:
        """Attention of q [B, heads, S, D] over k, v [B, kv_heads, T, D]; mask [B, 1, S, T] bool."""
        return g.op("Attention", q, k, v, mask)

    def _heads(self, g: GraphBuilder, qkv: ir.Value, shape: AttentionShape) -> list[ir.Value]:
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sizes = g.constant(np.array([q_width, kv_width, kv_width], np.int64), "qkv_widths")
        return [split_heads(g, x, shape.head_dim) for x in g.ops("Split", qkv, sizes, outputs=3, axis=-1)]


def split_heads(g: GraphBuilder, x: ir.Value, head_dim: int) -> ir.Value:
    """[B, S, heads * D] -> [B, heads, S, D]."""
    by_head = g.constant(np.array([0, 0, -1, head_dim], np.int64), "by_head")
    return g.op("Transpose", g.op("Reshape", x, by_head), perm=[0, 2, 1, 3])


def joined_heads(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """[B, heads, S, D] -> [B, S, heads * D]."""
    joined = g.constant(np.array([0, 0, -1], np.int64), "heads_joined")
    return g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 1, 3]), joined)


def _cast(g: GraphBuilder, x: ir.Value, found: Working, wanted: Working) -> ir.Value:
    return x if found == wanted else g.op("Cast", x, to=KINDS[wanted])
