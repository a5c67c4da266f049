"""Weight-only int8, symmetric, rounded to the nearest level: a scale per block of columns, or one for the whole row.

In: float32 weight [n, K]. Out: `Levels` of 8 bits with zero point 128. A row with one scale is cut into blocks too, all
with that scale: engines compute blocks of a limited size. In short blocks, where scales are an eighth of what is read,
they are bfloat16.
"""

from __future__ import annotations

import numpy as np

from fgr_edge.calibrate.schemes.blocks import Floats, Levels, blocked, nearest, short

BLOCK_SIZE = 128
ZERO_POINT = 128
SHORT_BLOCK = 32


def quantize(rows: Floats, block_size: int | None = BLOCK_SIZE) -> Levels:
    """Round to the nearest of 255 levels; the largest magnitude that shares a scale is exact, but for short blocks.

    Args:
        rows: [n, K] float32.
        block_size: columns that share a scale; None is the whole row.
    """
    blocks = blocked(rows, block_size or BLOCK_SIZE)
    largest = np.maximum(blocks.max(axis=2), -blocks.min(axis=2))
    if block_size is None:
        largest = np.repeat(largest.max(axis=1, keepdims=True), largest.shape[1], axis=1)
    scale = largest / np.float32(127)
    if block_size is not None and block_size <= SHORT_BLOCK:
        scale = short(scale)
    zero_point = np.full(scale.shape, ZERO_POINT, np.uint8)
    return Levels(nearest(blocks, scale, zero_point, 8), scale, zero_point, rows.shape[1])
