"""Multimodal rotary positions (mrope): three position axes, one angle table by cache slot.

Text counts up on all three axes; a picture's tokens hold one time and spread over height and width. Whatever the axes
say, the angle of frequency j at position p is p * inv_freq[j], so one table of cosines over plain positions serves all.
Source: transformers, `get_rope_index` and `recomposition_frequencies` of Qwen2.5-VL and Qwen3-VL.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Table = npt.NDArray[np.float32]


def frequency_axes(section: tuple[int, int, int], *, interleaved: bool) -> IntArray:
    """Which position axis (0 time, 1 height, 2 width) drives each of the D / 2 frequencies."""
    if not interleaved:
        return np.repeat(np.arange(3), section)
    axes = np.zeros(sum(section), np.int64)
    for axis in (1, 2):
        axes[axis : section[axis] * 3 : 3] = axis
    return axes


def prompt_positions(before: int, grid: tuple[int, int], after: int) -> IntArray:
    """Positions [3, S] of `before` text tokens, a picture of `grid` (rows, columns of merged tokens), `after` more."""
    rows, columns = grid
    text = np.arange(before)
    picture = np.stack(
        [
            np.full(rows * columns, before),
            before + np.repeat(np.arange(rows), columns),
            before + np.tile(np.arange(columns), rows),
        ]
    )
    rest = before + max(rows, columns) + np.arange(after)
    return np.concatenate([np.tile(text, (3, 1)), picture, np.tile(rest, (3, 1))], axis=1)


class RotaryAngles:
    """Cosines and sines of plain positions, read by position axis.

    Args:
        head_dim: D; there are D / 2 frequencies.
        theta: base of the frequencies.
        axes: from `frequency_axes`.
    """

    def __init__(self, head_dim: int, theta: float, axes: IntArray) -> None:
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        self._inverse = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
        self._axes = axes
        self._cos = np.empty((0, head_dim // 2), np.float32)
        self._sin = self._cos

    def reserve(self, positions: int) -> None:
        """Make the table reach `positions`."""
        if positions > len(self._cos):
            angles = np.arange(positions, dtype=np.float32)[:, None] * self._inverse
            self._cos, self._sin = np.cos(angles), np.sin(angles)

    def at(self, positions: IntArray) -> tuple[Table, Table]:
        """cos and sin [S, D / 2] of positions [3, S]."""
        by_frequency = positions[self._axes].T  # [S, D / 2]
        columns = np.arange(len(self._axes))
        return self._cos[by_frequency, columns], self._sin[by_frequency, columns]

    def run(self, first: int, count: int) -> tuple[Table, Table]:
        """cos and sin [count, D / 2] of text positions first, first + 1, …"""
        return self._cos[first : first + count], self._sin[first : first + count]
