"""8-bit floating point, E4M3 without infinities (FN): one scale per row of the weight, one for the inputs of a layer.

In: float32 values. Out: their codes, uint8, whose bits an engine reads as FLOAT8E4M3FN, and the values that they stand
for. Four bits of exponent (bias 7), three of mantissa; the largest number is 448, codes 0x7F and 0xFF are no numbers.
Source: Micikevicius et al., 2022, "FP8 Formats for Deep Learning".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.schemes.blocks import Bytes, Floats, inverse

LARGEST = 448.0
_MANTISSA_BITS = 3
_LEAST_EXPONENT = -6  # of a normal number; below it steps stay 2^-9
_CODES = np.arange(128, dtype=np.int64)
_EXPONENTS = np.maximum(_CODES >> _MANTISSA_BITS, 1) - 7
_MAGNITUDES = (((_CODES >> _MANTISSA_BITS > 0) * 8 + (_CODES & 7)) * 2.0 ** (_EXPONENTS - _MANTISSA_BITS)).astype(
    np.float32
)
_MAGNITUDES[127] = np.nan
_VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])


def quantize(rows: Floats) -> tuple[Bytes, Floats]:
    """Codes [n, K] and scales [n]: weight ~ decode(codes) * scale; the largest magnitude of a row is 448 steps."""
    scale = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(LARGEST)
    return encode(rows * inverse(scale)[:, None]), scale


def dequantize(codes: Bytes, scale: Floats) -> Floats:
    """The weight that the runtime computes with: [n, K] float32."""
    return decode(codes) * scale[:, None]


def input_scale(abs_max: Floats) -> np.float32:
    """The one scale of a layer's inputs, given the largest magnitude [K] of each that calibration saw."""
    return np.float32(max(float(abs_max.max()), float(np.finfo(np.float32).tiny)) / LARGEST)


def rounded_inputs(x: Floats, scale: np.float32) -> Floats:
    """The inputs that the runtime computes with; what is beyond the calibrated range becomes its end."""
    return decode(encode(x / scale)) * scale


def encode(values: npt.NDArray[np.float32]) -> Bytes:
    """Codes of finite values: the nearest number, of two as near the one with an even mantissa; beyond 448 is 448."""
    magnitude = np.minimum(np.abs(values), np.float32(LARGEST))
    exponent = np.maximum(np.frexp(np.maximum(magnitude, np.finfo(np.float32).tiny))[1] - 1, _LEAST_EXPONENT)
    steps = np.rint(np.ldexp(magnitude, _MANTISSA_BITS - exponent)).astype(np.int32)  # 0 .. 16; 16 carries over
    codes = ((exponent - _LEAST_EXPONENT) << _MANTISSA_BITS) + steps
    found: Bytes = (codes + (np.signbit(values) * 128)).astype(np.uint8)
    return found


def decode(codes: Bytes) -> Floats:
    """The number of each code, exact."""
    return _VALUES[codes]
