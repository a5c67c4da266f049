"""Weight-only int8, symmetric, one float32 scale per block of `BLOCK_SIZE` columns of a row.

In: float32 weight [N, K]. Out: uint8 values [N, blocks, BLOCK_SIZE] with zero point 128 (the layout of ONNX Runtime's
MatMulNBits) and float32 scales [N, blocks]. The last block of a row is padded with zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 128
ZERO_POINT = 128


def blocks_per_row(columns: int) -> int:
    return -(-columns // BLOCK_SIZE)


def quantize_int8(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Round each block to the nearest of 255 levels; the largest magnitude of a block is exact.

    Args:
        weight: [N, K] float32.

    Returns:
        values [N, blocks, BLOCK_SIZE] uint8 and scales [N, blocks] float32: weight ~ (values - 128) * scale.
    """
    rows, columns = weight.shape
    blocks = blocks_per_row(columns)
    if columns % BLOCK_SIZE:
        weight = np.pad(weight, ((0, 0), (0, blocks * BLOCK_SIZE - columns)))
    blocked = weight.reshape(rows, blocks, BLOCK_SIZE)
    scale = np.maximum(blocked.max(axis=2), -blocked.min(axis=2)) / np.float32(127)
    # Below the normal numbers 1 / scale overflows: such a block is zero, 1e-36 away from what it was.
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale >= np.finfo(np.float32).tiny)
    levels = blocked * inverse[:, :, None]
    np.rint(levels, out=levels)
    levels += np.float32(ZERO_POINT)
    return levels.astype(np.uint8), scale


def dequantize_int8(
    values: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], columns: int
) -> npt.NDArray[np.float32]:
    """The weight that the runtime computes with: [N, columns] float32."""
    blocked = (values.astype(np.float32) - np.float32(ZERO_POINT)) * scale[:, :, None]
    return blocked.reshape(values.shape[0], -1)[:, :columns]
