"""What a graph builder may ask for; a dialect is how one runtime spells it.

Values are `onnx_ir.Value`s, of the decoder [1, S, H], of the vision tower [N, C]. Graph inputs and outputs and the sum
of the residuals are float32; norms take that and give the dialect's working type, in which everything between a norm
and the next sum is (float32 too where the engine computes in it). `working` and `float32` cross the border elsewhere.
A dialect knows how to quantize a weight, never which model it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fgr_edge.calibrate.plan import Part
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

    cos, sin: the rotary angles, in the form that the dialect rotates by; others: what else its attention takes, by the
    names that it gives them.
    """

    cos: ir.Value
    sin: ir.Value
    others: Mapping[str, ir.Value] = field(default_factory=dict)


class Dialect(Protocol):
    """The operations that the graph builders use."""

    name: str
    cache_dtype: Literal["float32", "float16"]
    tree_attention: bool

    @property
    def opset_imports(self) -> Mapping[str, int]:
        """Domain -> version."""

    def working(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """x, float32, in the dialect's working type."""

    def float32(self, g: GraphBuilder, x: ir.Value) -> ir.Value:
        """x, of the dialect's working type, in float32."""

    def padded_width(self, width: int, part: Part, unit: str) -> int:
        """What the inner width of an MLP in `unit` grows to; zero weights fill it (see `Matrix.padded`)."""

    def linear(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, *, flat: bool = False
    ) -> ir.Value:
        """x [1, S, K] times weight [N, K] transposed, plus bias [N] -> [1, S, N]; `flat`: x is [S, K] -> [S, N].

        K and N are those of the padded weight; the bias is as long as the stored rows.
        """

    def linear_parts(
        self, g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, parts: int, *, flat: bool = False
    ) -> Sequence[ir.Value]:
        """`linear`, its last axis in `parts` of equal width."""

    def rms_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, eps: float, name: str) -> ir.Value:
        """x / rms(x) * weight over the last axis; x is float32."""

    def add_rms_norm(
        self, g: GraphBuilder, x: ir.Value, residual: ir.Value, weight: Vector, eps: float, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """(rms_norm(x + residual), x + residual); x is of the working type, the residual float32."""

    def layer_norm(self, g: GraphBuilder, x: ir.Value, weight: Vector, bias: Vector, eps: float, name: str) -> ir.Value:
        """Layer normalization over the last axis; x is float32."""

    def swiglu(self, g: GraphBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
        """silu(gate) * up."""

    def gelu(self, g: GraphBuilder, x: ir.Value, *, tanh: bool) -> ir.Value:
        """GELU, exact or with the tanh approximation."""

    def rotary(self, g: GraphBuilder, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotate x [1, N, heads * D] by cos, sin [N, D / 2] float32, graph inputs (halves, not interleaved)."""

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

    def cache_inputs(self, g: GraphBuilder, head_dim: int) -> CacheInputs:
        """Declare the graph inputs that cached attention takes besides the cache."""

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


def equal_parts(g: GraphBuilder, y: ir.Value, parts: int) -> Sequence[ir.Value]:
    """The last axis in parts of equal width."""
    return g.ops("Split", y, outputs=parts, axis=-1, num_outputs=parts)


def window_mask(g: GraphBuilder, windows: WindowInputs) -> ir.Value:
    """Which keys each query sees: [W, L] int32 -> [W, 1, L, L] bool. ONNX Runtime broadcasts no mask over queries."""
    mask = g.op("Cast", windows.mask, to=ir.DataType.BOOL)
    mask = g.op("Unsqueeze", mask, g.constant(np.array([1, 2], np.int64), "axes_1_2"))
    assert windows.mask.shape is not None
    length = int(windows.mask.shape[1])  # type: ignore[arg-type]
    return g.op("Expand", mask, g.constant(np.array([1, 1, length, 1], np.int64), "window_queries"))
