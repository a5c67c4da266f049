"""Unsigned integers in blocks of columns: the layout that all weight-only integers share, and the weight it stands for.

In: float32 rows [n, K]. Out: `Levels`, weight ~ (values - zero_point) * scale. The last block of a row is filled up
with the zero point, which stands for zero. How a scale is chosen is for the schemes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SMALLEST = np.finfo(np.float32).tiny  # 1 / scale overflows below; such a block is zero, 1e-36 away from what it was


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Rows as integers, B columns a block.

    Attributes:
        values: [n, blocks, B] uint8, 0 .. 2^bits - 1.
        scale: [n, blocks] float32; negative where that uses the levels better.
        zero_point: [n, blocks] uint8, the level that stands for zero.
        columns: K, without the padding.
    """

    values: Bytes
    scale: Floats
    zero_point: Bytes
    columns: int

    def dequantize(self) -> Floats:
        """The weight that the runtime computes with: [n, K] float32."""
        signed = self.values.astype(np.float32)
        signed -= self.zero_point[:, :, None]
        signed *= self.scale[:, :, None]
        return signed.reshape(len(signed), -1)[:, : self.columns]


def blocks_per_row(columns: int, block_size: int) -> int:
    return -(-columns // block_size)


def blocked(rows: Floats, block_size: int) -> Floats:
    """[n, K] -> [n, blocks, B], the last block filled up with zeros."""
    count, columns = rows.shape
    blocks = blocks_per_row(columns, block_size)
    if columns % block_size:
        rows = np.pad(rows, ((0, 0), (0, blocks * block_size - columns)))
    return rows.reshape(count, blocks, block_size)


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is too small to divide by."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=np.abs(scale) >= _SMALLEST)


def short(scale: Floats) -> Floats:
    """The nearest bfloat16, ties to even, as float32; for scales that are not near the largest float32."""
    bits = scale.view(np.uint32)
    rounded: Floats = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    return rounded


def nearest(blocks: Floats, scale: Floats, zero_point: Bytes, bits: int) -> Bytes:
    """The level nearest to each weight of `blocks` [n, blocks, B]."""
    levels = blocks * inverse(scale)[:, :, None]
    np.rint(levels, out=levels)
    levels += zero_point[:, :, None]
    np.clip(levels, 0, 2**bits - 1, out=levels)
    return levels.astype(np.uint8)
