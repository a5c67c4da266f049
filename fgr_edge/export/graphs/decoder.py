"""The decoder as one graph for prefill and decode.

Inputs (which of `seqlens_k` to `attention_mask`, the dialect says; `runtime/step_inputs.py` fills them all):
    inputs_embeds          [1, S, H] float32    token and picture embeddings
    seqlens_k              [1] int32            tokens in the cache after this call, minus one
    total_sequence_length  [] int32             tokens in the cache after this call
    cos_cache, sin_cache   [T, D / 2] float32   rotary table by cache slot
    table_rows             [1, S] int64         row of that table for each token (dialects with tree attention)
    tree_mask              [1, 1, S, W] float32 added to the attention logits of the last W slots (the same dialects)
    masked_from            [1] int64            T - W, the slots before them, which every token sees
    write_indices          [1] int64            tokens in the cache before this call
    attention_mask         [1, 1, S, T] bool    which slots each token sees
    logit_rows             [R] int64            which of the S rows get logits
    deepstack.<i>          [1, S, H] float32    added after layer i (families with DeepStack)
    past_key.<i>, past_value.<i>  [1, KV, T, D] the cache, the same buffers as the present_* outputs
Outputs:
    logits                 [1, R, V] float32
    present_key.<i>, present_value.<i>

A span of layers is a graph of the same kind, for calibration that streams a large model: `inputs_embeds` is then the
residual stream before its first layer, and instead of logits a span that does not end the decoder gives
    hidden                 [1, S, H] float32    the residual stream after its last layer
and the last one, without a head, gives
    hidden                 [1, R, H] float32    what the head is given
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from fgr_edge.export.architectures import DecoderDims
from fgr_edge.export.dialects.dialect import AttentionShape, CacheInputs, Dialect
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.progress import Step
from fgr_edge.export.weights import Matrix, Weights


def build_decoder(
    folder: Path | None,
    dims: DecoderDims,
    weights: Weights,
    head: Matrix | None,
    dialect: Dialect,
    step: Step,
    *,
    span: range | None = None,
) -> None:
    """Write decoder.onnx and decoder.onnx.data into `folder`; with None only check that the weights fit.

    Args:
        head: the output projection [V, H]; the embedding where it is tied. None leaves it out: see the module.
        step: called with the number of weights written after each layer.
        span: the layers; None is all of them.
    """
    layers = range(dims.layers) if span is None else span
    g = GraphBuilder(folder, "decoder", dialect.opset_imports)
    x = g.input("inputs_embeds", np.float32, [1, "sequence", dims.hidden])
    cache = dialect.cache_inputs(g, dims.head_dim)
    ends = layers.stop == dims.layers
    logit_rows = g.input("logit_rows", np.int64, ["rows"]) if ends else None
    features = {
        i: g.input(f"deepstack.{i}", np.float32, [1, "sequence", dims.hidden]) for i in layers if i < dims.deepstack
    }
    norm = weights.vector(["input_norm"], [dims.hidden], layers.start)
    normed = dialect.rms_norm(g, x, norm, dims.rms_eps, f"input_norm.{layers.start}")
    for layer in layers:
        last = layer + 1 == dims.layers
        attended = _attention(g, normed, layer, dims, weights, cache, dialect)
        added = features.get(layer)
        if last:
            # The cache is complete: from here on only the rows that get logits are worth computing.
            attended, x = (g.op("Gather", value, logit_rows, axis=1) for value in (attended, x))
            added = None if added is None else g.op("Gather", added, logit_rows, axis=1)
        o = weights.matrix(["o"], [dims.hidden], dims.heads * dims.head_dim, layer)
        attended = dialect.linear(g, attended, o, None)
        post_norm = weights.vector(["post_norm"], [dims.hidden], layer)
        normed, x = dialect.add_rms_norm(g, attended, x, post_norm, dims.rms_eps, f"post_norm.{layer}")
        y = _mlp(g, normed, layer, dims, weights, dialect)
        if added is not None:
            y = g.op("Add", y, dialect.working(g, added))
        step(_layer_weights(dims))
        if layer + 1 == layers.stop and not last:
            g.output(g.op("Add", dialect.float32(g, y), x), "hidden", np.float32, [1, "sequence", dims.hidden])
            break  # the norm that follows belongs to the next span
        name, role = ("final_norm", "final_norm") if last else (f"input_norm.{layer + 1}", "input_norm")
        norm = weights.vector([role], [dims.hidden], 0 if last else layer + 1)
        normed, x = dialect.add_rms_norm(g, y, x, norm, dims.rms_eps, name)
    if ends:
        _head(g, normed, head, dims, dialect, step)
    g.save()


def _head(
    g: GraphBuilder, normed: ir.Value, head: Matrix | None, dims: DecoderDims, dialect: Dialect, step: Step
) -> None:
    if head is None:
        g.output(dialect.float32(g, normed), "hidden", np.float32, [1, "rows", dims.hidden])
        return
    logits = dialect.float32(g, dialect.linear(g, normed, head, None))
    g.output(logits, "logits", np.float32, [1, "rows", dims.vocab])
    step(head.rows * head.columns)


def _attention(
    g: GraphBuilder,
    x: ir.Value,
    layer: int,
    dims: DecoderDims,
    weights: Weights,
    cache: CacheInputs,
    dialect: Dialect,
) -> ir.Value:
    shape = AttentionShape(dims.heads, dims.kv_heads, dims.head_dim)
    q_rows, kv_rows = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    rows = [q_rows, kv_rows, kv_rows]
    qkv = weights.matrix(["q", "k", "v"], rows, dims.hidden, layer)
    bias = weights.vector(["q_bias", "k_bias", "v_bias"], rows, layer) if dims.qkv_bias else None
    norms = None
    if dims.qk_norm:
        q_norm, k_norm = (weights.vector([role], [dims.head_dim], layer) for role in ("q_norm", "k_norm"))
        norms = (q_norm, k_norm, dims.rms_eps)
    return dialect.cached_attention(g, dialect.linear(g, x, qkv, bias), layer, shape, cache, norms)


def _mlp(g: GraphBuilder, x: ir.Value, layer: int, dims: DecoderDims, weights: Weights, dialect: Dialect) -> ir.Value:
    gate, up = (weights.matrix([role], [dims.intermediate], dims.hidden, layer) for role in ("gate", "up"))
    down = weights.matrix(["down"], [dims.hidden], dims.intermediate, layer)
    width = dialect.padded_width(dims.intermediate, down.part, down.unit)
    gated, raised = (dialect.linear(g, x, matrix.padded(rows=width), None) for matrix in (gate, up))
    return dialect.linear(g, dialect.swiglu(g, gated, raised), down.padded(columns=width), None)


def _layer_weights(dims: DecoderDims) -> int:
    attention = dims.hidden * dims.head_dim * 2 * (dims.heads + dims.kv_heads)
    return attention + 3 * dims.hidden * dims.intermediate


def decoder_weights(dims: DecoderDims) -> int:
    """How many weights `build_decoder` writes, the head included; for progress bars."""
    return dims.layers * _layer_weights(dims) + dims.vocab * dims.hidden
