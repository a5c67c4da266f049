"""Weights as 16-bit floating-point numbers, rounded to the nearest, ties to even.

In: float32 weight [n, K]. Out: its bits [n, K] uint16, which an engine reads as float16 or bfloat16, and the weight
that they stand for. numpy has no bfloat16: its bits are the upper half of a float32's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.schemes.blocks import Floats
from fgr_edge.errors import ConfigError

Half = Literal["float16", "bfloat16"]
Bits = npt.NDArray[np.uint16]
_LARGEST = 65504.0  # float16


def quantize(rows: Floats, dtype: Half) -> Bits:
    """Round finite float32 [n, K].

    Raises:
        ConfigError: a weight does not fit float16.
    """
    if dtype == "float16":
        largest = float(np.abs(rows).max(initial=0))
        if not largest <= _LARGEST:
            raise ConfigError(
                f"a weight of magnitude {largest:.3g} does not fit float16, whose largest number is {_LARGEST:.0f}; "
                "choose bf16"
            )
        return rows.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(rows).view(np.uint32)
    lowest_kept = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: Bits = ((bits + np.uint32(0x7FFF) + lowest_kept) >> np.uint32(16)).astype(np.uint16)
    return rounded


def dequantize(bits: Bits, dtype: Half) -> Floats:
    """[n, K] float32, exact."""
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
