"""Linear layers as ONNX Runtime spells them, one function a kind of scheme: x times a weight [N, K] transposed.

    Plain               FusedMatMul or Gemm; 16-bit weights are float32 to a provider that does not multiply them
    BlockWeights        MatMulNBits, 4 or 8 bits; the last block of a row is filled up with zeros, for any K;
                        int8 halves the blocks of a row that is too narrow for them
    WeightsAndInputs    DynamicQuantizeLinear and MatMulIntegerToFloat: inputs rounded to uint8 by one scale for the
                        call, once for all matrices that multiply them, weights int8

MatMulNBits reads few bytes, which is what decoding waits for. MatMulIntegerToFloat multiplies integers as they are,
which is what a long prompt or a picture waits for: 400 inputs of 768 times [3072, 768] took 1.4 ms, and
3.5 ms with int8 blocks (AVX-512 VNNI, 2 threads, best of 25). On an x86 without VNNI its sums of two products saturate
at 16 bits. Where one matrix alone multiplies the inputs, ONNX Runtime makes one DynamicQuantizeMatMul of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fgr_edge.calibrate.schemes import half, w8a8
from fgr_edge.calibrate.schemes.blocks import blocks_per_row
from fgr_edge.calibrate.schemes.int8 import BLOCK_SIZE
from fgr_edge.calibrate.schemes.reference import block_quantizer
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, Plain
from fgr_edge.export.dialects.dialect import Vector
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.weights import Matrix

MICROSOFT = "com.microsoft"
INT8_COMPUTE = 4  # MatMulNBits accuracy_level: inputs in int8 per block, the only fast path on CPUs

Bytes = npt.NDArray[np.uint8]


def plain(
    g: GraphBuilder, x: ir.Value, weight: Matrix, bias: ir.Value | None, scheme: Plain, *, flat: bool, native: bool
) -> ir.Value:
    """Floating-point weights; `native`: the provider multiplies the 16-bit type itself, x is rounded to it."""
    shape = (weight.rows, weight.columns)
    if scheme.dtype == "float32":
        # Transposing in the operator keeps the stored row order, so that the weight streams through in chunks.
        w = g.weight(weight.name, shape, np.float32, weight.chunks())
        if flat and bias is not None:
            return g.op("Gemm", x, w, bias, transB=1)
        return _plus(g, _product(g, x, w), bias)
    dtype = scheme.dtype
    kind = np.dtype(np.float16) if dtype == "float16" else np.dtype(ml_dtypes.bfloat16)
    w = g.weight(f"{weight.name}.{scheme.name}", shape, kind, (half.quantize(rows, dtype) for rows in weight.chunks()))
    if not native:
        return _plus(g, _product(g, x, g.op("Cast", w, to=ir.DataType.FLOAT)), bias)
    rounded = g.op("Cast", x, to=ir.DataType.FLOAT16 if dtype == "float16" else ir.DataType.BFLOAT16)
    return _plus(g, g.op("Cast", _product(g, rounded, w), to=ir.DataType.FLOAT), bias)


def integers_in_blocks(
    g: GraphBuilder,
    x: ir.Value,
    weight: Matrix,
    bias: ir.Value | None,
    scheme: BlockWeights,
    inputs: InputStatistics | None,
) -> ir.Value:
    """Weight-only integers."""
    scheme = narrowed(scheme, weight.columns)
    size = scheme.block_size or BLOCK_SIZE
    blocks = blocks_per_row(weight.columns, size)
    scales: list[npt.NDArray[np.float32]] = []
    zeros: list[Bytes] = []

    def packed() -> Iterator[Bytes]:
        quantize = block_quantizer(scheme, inputs)
        for rows in weight.chunks():
            levels = quantize(rows)
            scales.append(levels.scale)
            zeros.append(_packed(levels.zero_point, scheme.bits))
            yield _packed(levels.values, scheme.bits)

    per_byte = 8 // scheme.bits
    b = g.weight(f"{weight.name}.{scheme.name}", (weight.rows, blocks, size // per_byte), np.uint8, packed())
    scale = g.weight(f"{weight.name}.scale", (weight.rows, blocks), np.float32, scales)
    zero = None  # the middle level, unless said
    if scheme.asymmetric:
        zero = g.weight(f"{weight.name}.zero_point", (weight.rows, -(-blocks // per_byte)), np.uint8, zeros)
    return g.op(
        "MatMulNBits",
        x,
        b,
        scale,
        zero,
        None,
        bias,
        domain=MICROSOFT,
        K=weight.columns,
        N=weight.rows,
        bits=scheme.bits,
        block_size=size,
        accuracy_level=INT8_COMPUTE,
    )


def narrowed(scheme: BlockWeights, columns: int) -> BlockWeights:
    """int8 in blocks of half the size, where that spares at least an eighth of the arithmetic on `columns`.

    192 inputs times [1024, 192] took 0.17 ms in 3 blocks of 64 and 0.24 in 2 of 128 (AVX-512 VNNI, 2 threads, medians
    of 37). With 4 bits nothing is gained.
    """
    if scheme.block_size != BLOCK_SIZE or scheme.bits != 8:
        return scheme
    size, half = BLOCK_SIZE, BLOCK_SIZE // 2
    spared = blocks_per_row(columns, size) * size - blocks_per_row(columns, half) * half
    return replace(scheme, block_size=half) if 8 * spared >= columns else scheme


def integers_both(
    g: GraphBuilder, x: ir.Value, weight: Matrix, bias: Vector | None, parts: int = 1
) -> Sequence[ir.Value]:
    """int8 weights and inputs; the product in `parts` of equal width, each with a weight of its own.

    The operator wants the weight as [K, N]: one matrix of bytes is in memory.
    """
    rounded = g.shared(f"{x.name}.rounded", lambda: g.op("DynamicQuantizeLinear", x, outputs=3)).producer()
    assert rounded is not None
    values, input_scale, zero_point = rounded.outputs
    turned = cache(partial(_turned, weight))
    width = weight.rows // parts
    products = []
    for part in range(parts):
        span = slice(part * width, (part + 1) * width)
        name = weight.name if parts == 1 else f"{weight.name}.{part}"
        # Generators: a graph that is only checked reads no weight.
        levels = (np.ascontiguousarray(turned()[0][:, span]) for _ in range(1))
        b = g.weight(f"{name}.w8a8", (weight.columns, width), np.int8, levels)
        scale = g.weight(f"{name}.scale", (width,), np.float32, (turned()[1][span] for _ in range(1)))
        added = None if bias is None else g.weight(f"{name}.bias", (width,), np.float32, [bias[span]])
        inputs = (values, b, input_scale, scale, zero_point, None, added)
        products.append(g.op("MatMulIntegerToFloat", *inputs, domain=MICROSOFT))
    return products


def _turned(weight: Matrix) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Levels [K, N] and scales [N]."""
    levels, scales = np.empty((weight.columns, weight.rows), np.int8), np.empty(weight.rows, np.float32)
    start = 0
    for rows in weight.chunks():
        span = slice(start, start + len(rows))
        values, scales[span] = w8a8.quantize(rows)
        levels[:, span] = values.T
        start = span.stop
    return levels, scales


def _product(g: GraphBuilder, x: ir.Value, weight: ir.Value) -> ir.Value:
    return g.op("FusedMatMul", x, weight, domain=MICROSOFT, transB=1)


def _plus(g: GraphBuilder, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    return y if bias is None else g.op("Add", y, bias)


def _packed(values: Bytes, bits: int) -> Bytes:
    """Two 4-bit values a byte along the last axis, the first in the lower half."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
    packed: Bytes = values[..., 0::2] | values[..., 1::2] << np.uint8(4)
    return packed
