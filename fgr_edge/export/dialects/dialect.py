"""What a graph builder may ask for; a dialect is how one runtime spells it.

Values are `onnx_ir.Value`s. Activations of the decoder are [1, S, H] float32, of the vision tower [N, C].
A dialect knows how to quantize a weight, never which model it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.weights import Matrix

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of an attention: `heads` query heads share `kv_heads` key/value heads of width `head_dim`."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class WindowInputs:
    """Graph inputs that cut N tokens into padded windows of equal length.

    rows: [W, P] int64, the token in each slot (0 in padding); mask: [W, P] int32, 1 where a slot holds a token;
    inverse: [N] int64, the slot of each token.
    """

    rows: ir.Value
    mask: ir.Value
    inverse: ir.Value


@dataclass(frozen=True, slots=True)
class CacheInputs:
    """Graph values that every layer's cached attention shares.

    rows: [1, S] int64, the row of the rotary table for each token; bias: [1, 1, S, T] float32, added to the attention
    logits. Both None where the dialect has no tree attention: then row and slot are one, and attention is causal.
    """

    seqlens_k: ir.Value
    total_sequence_length: ir.Value
    cos: ir.Value
    sin: ir.Value
    rows: ir.Value | None = None
    bias: ir.Value | None = None


class Dialect(Protocol):
    """The operations that the graph builders use."""

    name: str
    cache_dtype: Literal["float32", "float16"]
    tree_attention: bool

    @property
    def opset_imports(self) -> Mapping[str, int]:
        """Domain -> version."""

    def linear(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, *, flat: bool = False
    ) -> ir.Value:
        """x [1, S, K] times weight [N, K] transposed, plus bias [N] -> [1, S, N]; `flat`: x is [S, K] -> [S, N]."""

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, eps: float, name: str) -> ir.Value:
        """x / rms(x) * weight over the last axis."""

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, residual: ir.Value, weight: Vector, eps: float, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """(rms_norm(x + residual), x + residual)."""

    def layer_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, bias: Vector, eps: float, name: str) -> ir.Value:
        """Layer normalization over the last axis."""

    def swiglu(self, g: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        """silu(gate) * up."""

    def gelu(self, g: GraphBuilder, x: ir.Value, *, tanh: bool) -> ir.Value:
        """GELU, exact or with the tanh approximation."""

    def rotary(self, g: GraphBuilder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotate x [1, N, heads * D] by cos, sin [N, D / 2] (halves, not interleaved)."""

    def attention(
        self,
        g: GraphBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        shape: AttentionShape,
        windows: WindowInputs | None,
    ) -> ir.Value:
        """Unmasked attention over [1, N, C], or inside each window where `windows` is given."""

    def cached_attention(
        self,
        g: GraphBuilder,
        qkv: ir.Value,
        layer: int,
        shape: AttentionShape,
        cache: CacheInputs,
        qk_norm: tuple[Vector, Vector, float] | None,
    ) -> ir.Value:
        """Causal attention of qkv [1, S, (heads + 2 kv_heads) * D] over the KV cache, which it extends in place."""
