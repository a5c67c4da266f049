"""ONNX Runtime's spelling: GroupQueryAttention with the KV cache in place, MatMulNBits for quantized weights.

Uses opset 23 and the contributed operators of `com.microsoft`. The tables `cos` and `sin` that GroupQueryAttention
indexes by cache slot carry the angles of the token in that slot, so that multimodal rotary positions need no node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from fgr_edge.calibrate.plan import Part, Plan
from fgr_edge.calibrate.schemes.scheme import BlockWeights, Plain, WeightsAndInputs
from fgr_edge.errors import ConfigError
from fgr_edge.export.dialects import products
from fgr_edge.export.dialects.dialect import AttentionShape, CacheInputs, Vector, WindowInputs, equal_parts, window_mask
from fgr_edge.export.dialects.products import MICROSOFT
from fgr_edge.export.graphs.builder import Dim, GraphBuilder
from fgr_edge.export.weights import Matrix

ROTARY_TABLES = ("cos_cache", "sin_cache")


class OnnxRuntimeDialect:
    """See `Dialect` for what each method computes.

    Args:
        plan: which scheme each linear layer gets.
        cache_dtype: of the KV cache; CUDA's GroupQueryAttention takes float16 only, and casts stand around it.
        bfloat16_products: whether the provider multiplies bfloat16; the CPU's does not, weights are cast at loading.
        tree_attention: whether GroupQueryAttention takes a mask and rotary rows; the CPU's does, CUDA's refuses them.
        native_attention: whether the provider computes ONNX's Attention with a mask.
    """

    name: str = "onnxruntime"

    def __init__(
        self,
        plan: Plan,
        cache_dtype: Literal["float32", "float16"] = "float32",
        *,
        bfloat16_products: bool = False,
        tree_attention: bool = True,
        native_attention: bool = True,
    ) -> None:
        self.plan = plan
        self.bfloat16_products = bfloat16_products
        self.tree_attention = tree_attention
        self.native_attention = native_attention
        self.cache_dtype: Literal["float32", "float16"] = cache_dtype

    @property
    def opset_imports(self) -> Mapping[str, int]:
        return {"": 23, MICROSOFT: 1}

    def working(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        return x

    def float32(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        return x

    def padded_width(self, width: int, part: Part, unit: str) -> int:
        return width

    def linear(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, *, flat: bool = False
    ) -> ir.Value:
        scheme = self.plan.scheme(weight.part, weight.unit)
        if isinstance(scheme, WeightsAndInputs) and scheme.kind == "int8":
            return products.integers_both(g, x, weight, bias)[0]
        bias_value = None if bias is None else g.weight(f"{weight.name}.bias", bias.shape, np.float32, [bias])
        if isinstance(scheme, BlockWeights):
            inputs = self.plan.inputs(weight.name)
            return products.integers_in_blocks(g, x, weight, bias_value, scheme, inputs)
        if isinstance(scheme, Plain):
            native = self.bfloat16_products or scheme.dtype != "bfloat16"
            return products.plain(g, x, weight, bias_value, scheme, flat=flat, native=native)
        raise ConfigError(
            f"{weight.unit}: ONNX Runtime multiplies nothing in {scheme.name}; choose w8a8, int8 or int4-32, or target "
            "tensorrt"
        )

    def linear_parts(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, parts: int, *, flat: bool = False
    ) -> Sequence[ir.Value]:
        scheme = self.plan.scheme(weight.part, weight.unit)
        if isinstance(scheme, WeightsAndInputs) and scheme.kind == "int8":
            # The rounded inputs are shared, so that parts cost what the whole does, and nothing is copied.
            return products.integers_both(g, x, weight, bias, parts)
        return equal_parts(g, self.linear(g, x, weight, bias, flat=flat), parts)

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, eps: float, name: str) -> ir.Value:
        return g.op("RMSNormalization", x, g.constant(weight, name), axis=-1, epsilon=eps)

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, residual: ir.Value, weight: Vector, eps: float, name: str
    ) -> tuple[ir.Value, ir.Value]:
        outputs = g.ops(
            "SkipSimplifiedLayerNormalization",
            x,
            residual,
            g.constant(weight, name),
            domain=MICROSOFT,
            outputs=4,
            epsilon=eps,
        )
        outputs[1].name = outputs[2].name = ""  # mean and inverse deviation are not wanted
        return outputs[0], outputs[3]

    def layer_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, bias: Vector, eps: float, name: str) -> ir.Value:
        w, b = g.constant(weight, name), g.constant(bias, f"{name}.bias")
        return g.op("LayerNormalization", x, w, b, axis=-1, epsilon=eps)

    def swiglu(self, g: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        # QuickGelu with alpha 1 is x * sigmoid(x) in one pass over memory.
        return g.op("Mul", g.op("QuickGelu", gate, domain=MICROSOFT, alpha=1.0), up)

    def gelu(self, g: GraphBuilder, x: ir.Value, *, tanh: bool) -> ir.Value:
        return g.op("Gelu", x, approximate="tanh" if tanh else "none")

    def rotary(self, g: GraphBuilder, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        first_row = g.constant(np.zeros(1, np.int64), "rotary_first_row")
        return g.op("RotaryEmbedding", x, first_row, cos, sin, domain=MICROSOFT)

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
            return g.op("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=shape.heads)
        # 1. Gather the tokens of each window into rows of equal length: [1, N, C] -> [W, P, C].
        axis = g.constant(np.zeros(1, np.int64), "axis_0")
        q, k, v = (g.op("Squeeze", g.op("Gather", x, windows.rows, axis=1), axis) for x in (q, k, v))
        # 2. Attend inside each window; padding is masked as a key.
        y = self._attention_in_windows(g, (q, k, v), shape.heads, windows)
        # 3. Put every token back: [W, P, C] -> [1, N, C].
        width = shape.heads * shape.head_dim
        joined = g.op("Reshape", y, g.constant(np.array([1, -1, width], np.int64), f"join_windows_{width}"))
        return g.op("Gather", joined, windows.inverse, axis=1)

    def _attention_in_windows(
        self, g: GraphBuilder, qkv: tuple[ir.Value, ir.Value, ir.Value], heads: int, windows: WindowInputs
    ) -> ir.Value:
        if not self.native_attention:
            return g.op("MultiHeadAttention", *qkv, None, windows.mask, domain=MICROSOFT, num_heads=heads)
        # Half the time of MultiHeadAttention, which without a mask is the faster one.
        mask = g.shared("window_mask", lambda: window_mask(g, windows))
        return g.op("Attention", *qkv, mask, q_num_heads=heads, kv_num_heads=heads)

    def cache_inputs(self, g: GraphBuilder, head_dim: int) -> CacheInputs:
        others = {
            "seqlens_k": g.input("seqlens_k", np.int32, [1]),
            "total_sequence_length": g.input("total_sequence_length", np.int32, []),
        }
        cos, sin = (g.input(name, self.cache_dtype, ["cache_length", head_dim // 2]) for name in ROTARY_TABLES)
        if self.tree_attention:
            others["rows"] = g.input("table_rows", np.int64, [1, "sequence"])
            mask = g.input("tree_mask", np.float32, [1, 1, "sequence", "masked"])
            masked_from = g.input("masked_from", np.int64, [1])
            # Zeros before the masked slots: [1, 1, S, W] -> [1, 1, S, T], once for all layers.
            before, after = (g.constant(np.zeros(n, np.int64), f"pad_{n}") for n in (3, 4))
            others["bias"] = g.op("Pad", mask, g.op("Concat", before, masked_from, after, axis=0))
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
        dims: list[Dim] = [1, shape.kv_heads, "cache_length", shape.head_dim]
        past = [g.input(f"past_{kind}.{layer}", self.cache_dtype, dims) for kind in ("key", "value")]
        qkv = self._to_cache(g, qkv)
        heads = (qkv, None, None) if qk_norm is None else self._normed_heads(g, qkv, layer, shape, qk_norm)
        y, *present = g.ops(
            "GroupQueryAttention",
            *heads,
            *past,
            cache.others["seqlens_k"],
            cache.others["total_sequence_length"],
            cache.cos,
            cache.sin,
            *(cache.others[name] for name in ("rows", "bias") if self.tree_attention),
            domain=MICROSOFT,
            outputs=3,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
        )
        for kind, value in zip(("key", "value"), present, strict=True):
            g.output(value, f"present_{kind}.{layer}", self.cache_dtype, dims)
        return y if self.cache_dtype == "float32" else g.op("Cast", y, to=ir.DataType.FLOAT)

    def _normed_heads(
        self,
        g: GraphBuilder,
        qkv: ir.Value,
        layer: int,
        shape: AttentionShape,
        qk_norm: tuple[Vector, Vector, float],
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Normalize each query and key head by itself. The operator's own q/k norm inputs exist on CUDA only."""
        q_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sizes = g.constant(np.array([q_width, kv_width, kv_width], np.int64), "qkv_widths")
        q, k, v = g.ops("Split", qkv, sizes, outputs=3, axis=-1)
        by_head = g.constant(np.array([0, 0, -1, shape.head_dim], np.int64), "by_head")
        flat = g.constant(np.array([0, 0, -1], np.int64), "heads_joined")
        dtype = np.dtype(self.cache_dtype)

        def normed(x: ir.Value, weight: Vector, name: str) -> ir.Value:
            w = g.constant(weight.astype(dtype), f"{name}_norm.{layer}")
            y = g.op("RMSNormalization", g.op("Reshape", x, by_head), w, axis=-1, epsilon=qk_norm[2])
            return g.op("Reshape", y, flat)

        return normed(q, qk_norm[0], "q"), normed(k, qk_norm[1], "k"), v

    def _to_cache(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        return x if self.cache_dtype == "float32" else g.op("Cast", x, to=ir.DataType.FLOAT16)
