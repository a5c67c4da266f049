"""int8 weights and int8 inputs: one scale per row of the weight, one for all inputs of a call.

In: float32 weight [n, K], inputs [S, K]. Out: int8 values with their scales, and what the layer computes with them.
Inputs are rounded at run time, to 256 levels that span from the least to the largest of the call (DynamicQuantizeLinear
of ONNX): a calibrated range would save nothing and be exceeded. What a large input costs all others is for SmoothQuant
to mend.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.schemes.blocks import Floats, inverse

LEVELS = 127
INPUT_LEVELS = 255


def quantize(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Values [n, K] int8 and scales [n]: weight ~ values * scale; the largest magnitude of a row is exact."""
    scale = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(LEVELS)
    values = np.rint(rows * inverse(scale)[:, None])
    return values.astype(np.int8), scale


def dequantize(values: npt.NDArray[np.int8], scale: Floats) -> Floats:
    """The weight that the runtime computes with: [n, K] float32."""
    weight: Floats = values * scale[:, None]
    return weight


def rounded_inputs(x: Floats) -> Floats:
    """The inputs [S, K] that the runtime computes with."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / INPUT_LEVELS)
    if scale == 0:
        return np.zeros_like(x)
    zero_point = np.rint(np.clip(-low / scale, 0, INPUT_LEVELS))
    levels = np.clip(np.rint(x / scale) + zero_point, 0, INPUT_LEVELS)
    restored: Floats = ((levels - zero_point) * scale).astype(np.float32)
    return restored
