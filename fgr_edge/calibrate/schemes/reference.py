"""The weight that a layer computes with under each scheme: what an engine's output is compared with, without an engine.

In: a scheme, and what calibration saw of the layer's inputs. Out: a function of rows [n, K]; what belongs to the whole
matrix is worked out once, before the first row.
"""

from __future__ import annotations

from collections.abc import Callable

from fgr_edge.calibrate.schemes import fp8, gptq, half, int4, int8, w8a8
from fgr_edge.calibrate.schemes.blocks import Floats, Levels
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, Plain, Scheme
from fgr_edge.errors import ConfigError


def block_quantizer(
    scheme: BlockWeights, inputs: InputStatistics | None = None, grid: int4.Grid | None = None
) -> Callable[[Floats], Levels]:
    """Rounds rows of one matrix to integers in blocks.

    Args:
        scheme: int8, or int4 with a block size.
        inputs: of the layer; GPTQ needs their gram matrix.
        grid: of int4; None takes the scheme's.

    Raises:
        ConfigError: GPTQ was asked for without a gram matrix.
        EngineError: see `gptq.Compensation.of`.
    """
    size = scheme.block_size
    if scheme.bits == 8 or size is None:
        return lambda rows: int8.quantize(rows, size)
    chosen = grid or (int4.asymmetric if scheme.asymmetric else int4.symmetric)
    if scheme.rounding == "nearest":
        return lambda rows: int4.quantize(rows, size, chosen)
    if inputs is None or inputs.gram is None:
        raise ConfigError(
            f"scheme {scheme.name!r} rounds as GPTQ does, and calibration saw nothing of this layer's inputs; "
            "calibrate on photographs (--calib), or choose --method nearest"
        )
    compensation = gptq.Compensation.of(inputs.gram)
    return lambda rows: gptq.quantize(rows, compensation, size, chosen)


def reference_weight(scheme: Scheme, inputs: InputStatistics | None = None) -> Callable[[Floats], Floats]:
    """Replaces rows [n, K] of a matrix by what an engine computes with; arguments and errors as above."""
    if isinstance(scheme, BlockWeights):
        quantize = block_quantizer(scheme, inputs)
        return lambda rows: quantize(rows).dequantize()
    if isinstance(scheme, Plain):
        dtype = scheme.dtype
        if dtype == "float32":
            return lambda rows: rows
        return lambda rows: half.dequantize(half.quantize(rows, dtype), dtype)
    kind = w8a8 if scheme.kind == "int8" else fp8
    return lambda rows: kind.dequantize(*kind.quantize(rows))
