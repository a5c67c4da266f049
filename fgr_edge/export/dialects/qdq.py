"""Weights and inputs of linear layers in standard operators: plain, or behind DequantizeLinear.

In: a matrix [N, K] and its scheme. Out: graph values of the working type. Integers are signed and symmetric, K along
the last axis, scales positive and of the working type: TensorRT takes no 4-bit zero points and refuses scales that are
zero or negative. A number is rounded with the scale as it is stored, so that a float16 scale costs no accuracy. Knows
nothing of what the layer is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fgr_edge.calibrate.schemes import fp8, half, int4, w8a8
from fgr_edge.calibrate.schemes.blocks import Bytes, Floats, blocked, inverse, nearest
from fgr_edge.calibrate.schemes.reference import block_quantizer
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, Plain, Scheme, WeightsAndInputs
from fgr_edge.errors import ConfigError
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.weights import Matrix

T = TypeVar("T", bound=np.generic)
Working = Literal["float32", "float16", "bfloat16"]
KINDS: Mapping[Working, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
TENSOR_CORE = 16  # 8-bit matrix units take multiples of this many columns
_INPUTS: Mapping[str, tuple[ir.DataType, float]] = {
    "int8": (ir.DataType.INT8, w8a8.LEVELS),
    "fp8": (ir.DataType.FLOAT8E4M3FN, fp8.LARGEST),
}
"""How 8-bit inputs are stored, and the number that the largest one calibrated becomes."""

Rounded = tuple[Bytes, Floats]
"""Values [n, K] as bytes (signed, or codes of FP8) and scales [n, blocks] that the working type holds exactly."""


def column_multiple(scheme: Scheme) -> int:
    """What the columns of a weight are filled up to a multiple of."""
    if isinstance(scheme, Plain):
        return 1
    if isinstance(scheme, BlockWeights) and scheme.block_size is not None:
        return scheme.block_size
    return TENSOR_CORE


def pad_columns(g: GraphBuilder, x: ir.Value, weight: Matrix, scheme: Scheme, *, axes: int) -> ir.Value:
    """x [..., K] filled with zeros to the columns that the stored weight has; nothing to do for most widths.

    An inner width of a model (3420, say) was padded by zero weights before, which costs nothing at run time; this is
    for inputs that come from elsewhere, such as patches.
    """
    missing = _columns(weight, scheme) - weight.padded_columns
    if not missing:
        return x
    pads = np.zeros(2 * axes, np.int64)
    pads[-1] = missing
    return g.op("Pad", x, g.constant(pads, f"pad_{axes}_by_{missing}"))


def rounded_inputs(
    g: GraphBuilder, x: ir.Value, weight: Matrix, scheme: Scheme, inputs: InputStatistics | None, working: Working
) -> ir.Value:
    """x as the layer sees it: rounded to 8 bits by one calibrated scale, where the scheme says so.

    Raises:
        ConfigError: the scheme needs calibration, and there is none.
    """
    if not isinstance(scheme, WeightsAndInputs):
        return x
    if inputs is None:
        raise ConfigError(
            f"scheme {scheme.name!r} quantizes the inputs of {weight.name}, and calibration saw none; calibrate "
            "on photographs (--calib), or choose a scheme that quantizes weights only: int8 or int4-128"
        )
    kind, largest = _INPUTS[scheme.kind]
    value = _stored(np.asarray(inputs.abs_max.max() / np.float32(largest)), working)
    scale = g.constant(value.astype(KINDS[working].numpy()), f"{weight.name}.input_scale")
    # The zero point says the type: what every version of TensorRT's parser reads.
    zero = g.constant(np.zeros((), kind.numpy()), f"zero_{scheme.kind}")
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)


def weight_value(
    g: GraphBuilder, weight: Matrix, scheme: Scheme, inputs: InputStatistics | None, working: Working
) -> ir.Value:
    """The weight [N, K] in the working type; rows and columns are the padded ones.

    Raises:
        ConfigError: see `half.quantize` and `reference.block_quantizer`.
    """
    shape = (weight.padded_rows, _columns(weight, scheme))
    if isinstance(scheme, Plain):
        return g.weight(weight.name, shape, KINDS[working], _plain(weight, working))
    kind = _kind(scheme)
    in_blocks = isinstance(scheme, BlockWeights) and scheme.block_size is not None
    blocks = shape[1] // column_multiple(scheme) if in_blocks else 1
    # TensorRT-RTX 1.7.1 stumbles over int8 in one block a row, which is a scale a row.
    per_row = blocks == 1 and kind != ir.DataType.INT4
    scales: list[npt.NDArray[Any]] = []

    def packed() -> Iterator[Bytes]:
        round_rows = rounding(scheme, inputs, working)
        for rows in weight.chunks():
            values, scale = round_rows(rows)
            scales.append(_filled(scale, (len(rows), blocks), 1).astype(KINDS[working].numpy()))
            yield _packed(_filled(values, (len(rows), shape[1]), 0), kind)
        missing = weight.padded_rows - weight.rows
        scales.append(np.ones((missing, blocks), KINDS[working].numpy()))
        yield _packed(np.zeros((missing, shape[1]), np.uint8), kind)

    values = g.weight(f"{weight.name}.{scheme.name}", shape, kind, packed())
    scale = g.weight(f"{weight.name}.scale", shape[:1] if per_row else (shape[0], blocks), KINDS[working], scales)
    if per_row:
        return g.op("DequantizeLinear", values, scale, axis=0)
    return g.op("DequantizeLinear", values, scale, axis=1, block_size=column_multiple(scheme))


def rounding(
    scheme: BlockWeights | WeightsAndInputs, inputs: InputStatistics | None, working: Working
) -> Callable[[Floats], Rounded]:
    """What rounds rows [n, K] of one matrix.

    Raises:
        ConfigError: see `reference.block_quantizer`.
    """
    if isinstance(scheme, WeightsAndInputs):
        return (
            (lambda rows: _rows_fp8(rows, working)) if scheme.kind == "fp8" else lambda rows: _rows_int8(rows, working)
        )
    if scheme.block_size is None:
        return lambda rows: _rows_int8(rows, working)

    def grid(blocks: Floats) -> tuple[Floats, Bytes]:
        scale, zero_point = int4.positive(blocks)
        return _stored(scale, working), zero_point

    quantize = block_quantizer(scheme, inputs, grid)

    def round_rows(rows: Floats) -> Rounded:
        levels = quantize(rows)
        scale, values = _stored(levels.scale, working), levels.values
        if scheme.bits == 8:
            values = nearest(blocked(rows, values.shape[2]), scale, levels.zero_point, 8)
        signed = values - levels.zero_point[:, :, None]  # wraps around, which is two's complement
        return signed.reshape(len(rows), -1), scale

    return round_rows


def _rows_int8(rows: Floats, working: Working) -> Rounded:
    scale = _stored(w8a8.quantize(rows)[1], working)
    values = np.clip(np.rint(rows * inverse(scale)[:, None]), -w8a8.LEVELS, w8a8.LEVELS)
    return values.astype(np.int8).view(np.uint8), scale[:, None]


def _rows_fp8(rows: Floats, working: Working) -> Rounded:
    scale = _stored(fp8.quantize(rows)[1], working)
    return fp8.encode(rows * inverse(scale)[:, None]), scale[:, None]


def _stored(scale: Floats, working: Working) -> Floats:
    """`scale` as the working type holds it, and no zero: for rows of nothing but zeros any other number does."""
    dtype = KINDS[working].numpy()
    with np.errstate(under="ignore"):
        stored = scale.astype(dtype).astype(np.float32)
    return np.where(stored > 0, stored, np.float32(1))


def _plain(weight: Matrix, working: Working) -> Iterator[npt.NDArray[Any]]:
    for rows in weight.chunks():
        filled = _filled(rows, (len(rows), weight.padded_columns), 0)
        yield filled if working == "float32" else half.quantize(filled, working)
    yield np.zeros((weight.padded_rows - weight.rows, weight.padded_columns), KINDS[working].numpy())


def _filled(array: npt.NDArray[T], shape: tuple[int, int], value: int) -> npt.NDArray[T]:
    widths = [(0, wanted - found) for wanted, found in zip(shape, array.shape, strict=True)]
    return np.pad(array, widths, constant_values=value) if any(after for _, after in widths) else array


def _columns(weight: Matrix, scheme: Scheme) -> int:
    multiple = column_multiple(scheme)
    return -(-weight.padded_columns // multiple) * multiple


def _kind(scheme: BlockWeights | WeightsAndInputs) -> ir.DataType:
    if isinstance(scheme, WeightsAndInputs):
        return _INPUTS[scheme.kind][0]
    return ir.DataType.INT4 if scheme.bits == 4 else ir.DataType.INT8


def _packed(values: Bytes, kind: ir.DataType) -> Bytes:
    """The bytes of values [n, K]; of two 4-bit ones, the first lies in the lower half."""
    if kind != ir.DataType.INT4:
        return values
    halves = values & np.uint8(0x0F)
    packed: Bytes = halves[:, 0::2] | halves[:, 1::2] << np.uint8(4)
    return packed
