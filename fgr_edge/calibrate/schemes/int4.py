"""Weight-only int4, rounded to the nearest level: a scale per block of columns, with or without a zero point.

In: float32 weight [n, K]. Out: `Levels` of 4 bits. How the levels of a block lie is a grid: `asymmetric`, `symmetric`,
or `positive` for engines that take neither zero points nor negative scales.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fgr_edge.calibrate.schemes.blocks import Bytes, Floats, Levels, blocked, inverse, nearest, short

ZERO_POINT = 8
TOP = 15

Grid = Callable[[Floats], tuple[Floats, Bytes]]
"""Blocks [n, blocks, B] -> scale and zero point [n, blocks]."""


def quantize(rows: Floats, block_size: int, grid: Grid) -> Levels:
    """Round to the nearest of 16 levels.

    Args:
        rows: [n, K] float32.
        block_size: columns that share a scale.
        grid: how the levels of a block lie.
    """
    blocks = blocked(rows, block_size)
    scale, zero_point = grid(blocks)
    return Levels(nearest(blocks, scale, zero_point, 4), scale, zero_point, rows.shape[1])


def asymmetric(blocks: Floats) -> tuple[Floats, Bytes]:
    """From the least to the largest weight of a block, and zero; scales are bfloat16, half as much to read.

    That moves a step by 0.4 % at most, where levels are half a step from what they stand for.
    """
    low, high = _extremes(blocks)
    # Divided before the difference, which overflows for weights near the largest float32.
    scale = short(high / np.float32(TOP) - low / np.float32(TOP))
    zero_point = np.clip(np.rint(-low * inverse(scale)), 0, TOP)
    return scale, zero_point.astype(np.uint8)


def symmetric(blocks: Floats) -> tuple[Floats, Bytes]:
    """The weight of the largest magnitude is level 0, exactly, so that no level is wasted.

    The scale is negative where that weight is positive.
    """
    low, high = _extremes(blocks)
    extreme: Floats = np.where(high > -low, high, low)
    return extreme / np.float32(-ZERO_POINT), _middle(extreme)


def positive(blocks: Floats) -> tuple[Floats, Bytes]:
    """The largest magnitude is seven steps from zero to either side; level 0 is not used."""
    low, high = _extremes(blocks)
    largest: Floats = np.maximum(high, -low)
    return largest / np.float32(TOP - ZERO_POINT), _middle(high)


def _extremes(blocks: Floats) -> tuple[Floats, Floats]:
    return np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)


def _middle(like: Floats) -> Bytes:
    return np.full(like.shape, ZERO_POINT, np.uint8)
