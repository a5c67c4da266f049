"""The vision tower as one graph for any picture size.

Inputs (N patches, D head width; all made by `runtime/vision.py`):
    patches          [N, P] float32      flattened pixels, in the image processor's order
    cos, sin         [N, D / 2] float32  rotary angles, in the order of attention
    order            [N] int64           patches into windows           (windowed families)
    window_rows      [W, L] int64        token in each slot of a window (windowed families)
    window_mask      [W, L] int32        1 where a slot holds a token   (windowed families)
    window_inverse   [N] int64           slot of each token             (windowed families)
    restore          [M] int64           merged tokens back to reading order (windowed families)
    position_rows    [N, 4] int64        rows of the learned table      (families with learned positions)
    position_weights [N, 4] float32      their bilinear weights         (families with learned positions)
Outputs:
    image_embeds     [M, H] float32      one row per merge x merge patches, in reading order
    deepstack.<i>    [M, H] float32      (families with DeepStack)

A span of blocks is a graph of the same kind, for calibration that streams a large model. All but the first take
    hidden_in        [N, C] float32      tokens before its first block, in the order of attention
instead of patches, and all but the last give, instead of image_embeds,
    hidden           [N, C] float32      tokens after its last block
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from fgr_edge.export.architectures import VisionDims
from fgr_edge.export.dialects.dialect import AttentionShape, Dialect, WindowInputs
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.progress import Step
from fgr_edge.export.weights import Matrix, Weights


def build_vision(
    folder: Path | None,
    dims: VisionDims,
    weights: Weights,
    dialect: Dialect,
    step: Step,
    *,
    span: range | None = None,
) -> None:
    """Write vision.onnx and its data into `folder`; arguments as in `build_decoder`, `span` of blocks."""
    _VisionGraph(folder, dims, weights, dialect).build(step, range(dims.depth) if span is None else span)


def vision_weights(dims: VisionDims) -> int:
    """How many weights `build_vision` writes; for progress bars."""
    merged = dims.hidden * dims.merge_size**2
    mergers = (1 + len(dims.deepstack_blocks)) * merged * (merged + dims.out_hidden)
    return dims.hidden * dims.patch_inputs + dims.depth * _block_weights(dims) + mergers


def _block_weights(dims: VisionDims) -> int:
    mlp = (3 if dims.mlp == "swiglu" else 2) * dims.hidden * dims.intermediate
    return 4 * dims.hidden * dims.hidden + mlp


@dataclass
class _VisionGraph:
    folder: Path | None
    dims: VisionDims
    weights: Weights
    dialect: Dialect

    def build(self, step: Step, blocks: range) -> None:
        dims, dialect = self.dims, self.dialect
        g = self.g = GraphBuilder(self.folder, "vision", dialect.opset_imports)
        starts, ends = blocks.start == 0, blocks.stop == dims.depth
        # 1. Inputs.
        name, width = ("patches", dims.patch_inputs) if starts else ("hidden_in", dims.hidden)
        x = g.input(name, np.float32, ["patches", width])
        self.cos = g.input("cos", np.float32, ["patches", dims.head_dim // 2])
        self.sin = g.input("sin", np.float32, ["patches", dims.head_dim // 2])
        self.windows = self._window_inputs()
        # 2. Patches to tokens.
        if starts:
            x = self._tokens(x)
            step(dims.hidden * dims.patch_inputs)
        # 3. Blocks; a residual sum stays pending until the next norm takes it in.
        pending: ir.Value | None = None
        for block in blocks:
            normed, x = self._norm(x, pending, "norm1", block)
            normed, x = self._norm(x, self._attention(normed, block), "norm2", block)
            pending = self._mlp(normed, block)
            if block in dims.deepstack_blocks:
                x, pending = g.op("Add", x, dialect.float32(g, pending)), None
                self._deepstack(x, dims.deepstack_blocks.index(block))
            step(_block_weights(dims))
        # 4. Merge neighbouring patches into the decoder's tokens.
        if ends:
            self._image_embeds(x, pending)
            step(vision_weights(dims) - dims.depth * _block_weights(dims) - dims.hidden * dims.patch_inputs)
        else:
            hidden = g.op("Identity", x) if pending is None else g.op("Add", x, dialect.float32(g, pending))
            g.output(hidden, "hidden", np.float32, ["patches", dims.hidden])
        g.save()

    def _tokens(self, patches: ir.Value) -> ir.Value:
        """Patches [N, P] to tokens [N, C]. A convolution whose stride is its kernel is a matrix product."""
        dims, g = self.dims, self.g
        x = self._linear(self.dialect.working(g, patches), "patch", dims.hidden, dims.patch_inputs)
        x = self.dialect.float32(g, x)
        if dims.learned_positions is not None:
            x = g.op("Add", x, self._positions(dims.learned_positions))
        if self.windows is None:
            return x
        return g.op("Gather", x, g.input("order", np.int64, ["patches"]), axis=0)

    def _image_embeds(self, x: ir.Value, pending: ir.Value | None) -> None:
        normed, _ = self._norm(x, pending, "merger_norm", 0)
        y = self._merger(normed, "merger", 0)
        if self.windows is not None:
            y = self.g.op("Gather", y, self.g.input("restore", np.int64, ["tokens"]), axis=0)
        self._emit(y, "image_embeds")

    def _window_inputs(self) -> WindowInputs | None:
        dims, g = self.dims, self.g
        if dims.window_size is None:
            return None
        length = (dims.window_size // dims.patch_size) ** 2
        return WindowInputs(
            rows=g.input("window_rows", np.int64, ["windows", length]),
            mask=g.input("window_mask", np.int32, ["windows", length]),
            inverse=g.input("window_inverse", np.int64, ["patches"]),
        )

    def _positions(self, table_rows: int) -> ir.Value:
        """Bilinear reading of the learned position table: [N, C]."""
        g = self.g
        table = self.weights.matrix(["positions"], [table_rows], self.dims.hidden)
        values = g.weight(table.name, (table_rows, self.dims.hidden), np.float32, table.chunks())
        rows = g.input("position_rows", np.int64, ["patches", 4])
        shares = g.op("Unsqueeze", g.input("position_weights", np.float32, ["patches", 4]), self._axes(2))
        weighted = g.op("Mul", g.op("Gather", values, rows, axis=0), shares)
        return g.op("ReduceSum", weighted, self._axes(1), keepdims=0)

    def _attention(self, x: ir.Value, block: int) -> ir.Value:
        dims, g, dialect = self.dims, self.g, self.dialect
        weight = self.weights.matrix(["qkv"], [3 * dims.hidden], dims.hidden, block)
        bias = self.weights.vector(["qkv_bias"], [3 * dims.hidden], block)
        parts = dialect.linear_parts(g, x, weight, bias, 3, flat=True)
        q, k, v = (g.op("Unsqueeze", part, self._axes(0)) for part in parts)
        q, k = (dialect.rotary(g, part, dims.heads, self.cos, self.sin) for part in (q, k))
        windows = None if block in dims.full_attention_blocks else self.windows
        shape = AttentionShape(dims.heads, dims.heads, dims.head_dim)
        y = dialect.attention(g, q, k, v, shape, windows)
        return self._linear(g.op("Squeeze", y, self._axes(0)), "proj", dims.hidden, dims.hidden, block)

    def _mlp(self, x: ir.Value, block: int) -> ir.Value:
        dims, g, dialect = self.dims, self.g, self.dialect
        width = dialect.padded_width(dims.intermediate, "vision", self.weights.unit("up", block))
        up = self._linear(x, "up", dims.intermediate, dims.hidden, block, padded_rows=width)
        if dims.mlp == "swiglu":
            gate = self._linear(x, "gate", dims.intermediate, dims.hidden, block, padded_rows=width)
            y = dialect.swiglu(g, gate, up)
        else:
            y = dialect.gelu(g, up, tanh=True)
        return self._linear(y, "down", dims.hidden, dims.intermediate, block, padded_columns=width)

    def _deepstack(self, x: ir.Value, index: int) -> None:
        normed, _ = self._norm(self._merge(x), None, "deepstack_norm", index)
        self._emit(self._merger(normed, "deepstack", index), f"deepstack.{index}")

    def _merger(self, x: ir.Value, role: str, index: int) -> ir.Value:
        width = self.dims.hidden * self.dims.merge_size**2
        y = self._linear(self._merge(x), f"{role}_fc1", width, width, index)
        return self._linear(self.dialect.gelu(self.g, y, tanh=False), f"{role}_fc2", self.dims.out_hidden, width, index)

    def _merge(self, x: ir.Value) -> ir.Value:
        """[N, C] -> [M, C * merge * merge]: neighbouring patches stand beside each other already."""
        width = self.dims.hidden * self.dims.merge_size**2
        return self.g.op("Reshape", x, self.g.constant(np.array([-1, width], np.int64), "merged_shape"))

    def _norm(self, x: ir.Value, addend: ir.Value | None, role: str, index: int) -> tuple[ir.Value, ir.Value]:
        """(norm(x + addend), x + addend)."""
        dims, g, dialect = self.dims, self.g, self.dialect
        width = dims.hidden * dims.merge_size**2 if role == "deepstack_norm" else dims.hidden
        weight = self.weights.vector([role], [width], index)
        name = self.weights.name(role, index)
        if dims.norm == "rms":
            if addend is None:
                return dialect.rms_norm(g, x, weight, dims.norm_eps, name), x
            return dialect.add_rms_norm(g, addend, x, weight, dims.norm_eps, name)
        total = x if addend is None else g.op("Add", x, dialect.float32(g, addend))
        bias = self.weights.vector([f"{role}_bias"], [width], index)
        return dialect.layer_norm(g, total, weight, bias, dims.norm_eps, name), total

    def _linear(
        self,
        x: ir.Value,
        role: str,
        rows: int,
        columns: int,
        index: int = 0,
        *,
        padded_rows: int = 0,
        padded_columns: int = 0,
    ) -> ir.Value:
        matrix = self._patch_matrix() if role == "patch" else self.weights.matrix([role], [rows], columns, index)
        matrix = matrix.padded(rows=padded_rows, columns=padded_columns)
        biased = role != "patch" or self.dims.patch_bias
        bias = self.weights.vector([f"{role}_bias"], [rows], index) if biased else None
        return self.dialect.linear(self.g, x, matrix, bias, flat=True)

    def _patch_matrix(self) -> Matrix:
        """The patch convolution's kernel [C, 3, T, P, P] read as a matrix [C, 3 * T * P * P]."""
        d = self.dims
        kernel = (d.hidden, d.channels, d.temporal_patch_size, d.patch_size, d.patch_size)
        tensor = self.weights.tensor("patch", kernel)
        return Matrix(self.weights.name("patch"), (tensor,), d.patch_inputs, "vision", "vision.patch")

    def _emit(self, y: ir.Value, name: str) -> None:
        y = self.dialect.float32(self.g, y)
        self.g.output(y, name, np.float32, ["tokens", self.dims.out_hidden])

    def _axes(self, axis: int) -> ir.Value:
        return self.g.constant(np.array([axis], np.int64), f"axis_{axis}")
