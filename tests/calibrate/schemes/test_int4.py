"""int4 rounded to the nearest level: grids, extremes, and what becomes of odd shapes and sizes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from fgr_edge.calibrate.schemes.int4 import Grid, asymmetric, positive, quantize, symmetric

GRIDS = [asymmetric, symmetric, positive]


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("columns", [1, 5, 32, 33, 100])
@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_within_a_step(grid: Grid, columns: int) -> None:
    w = weight(6, columns)
    levels = quantize(w, 32, grid)
    assert levels.values.max() <= 15 and levels.zero_point.max() <= 15
    step = np.abs(np.repeat(levels.scale, 32, axis=1)[:, :columns])
    # Half a step, and another half at the end that a rounded zero point or the missing level 16 leaves out.
    assert np.all(np.abs(levels.dequantize() - w) <= step * 1.0001)
    assert np.mean(np.abs(levels.dequantize() - w) <= step * 0.5001) > 0.9


def test_scales_beside_zero_points_are_bfloat16() -> None:
    scale = quantize(weight(50, 96), 32, asymmetric).scale
    np.testing.assert_array_equal(scale, scale.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_the_largest_magnitude_is_exact_without_a_zero_point() -> None:
    for grid in (symmetric, positive):
        w = weight(20, 32)
        restored = quantize(w, 32, grid).dequantize()
        rows, at = np.arange(20), np.abs(w).argmax(axis=1)
        np.testing.assert_allclose(restored[rows, at], w[rows, at], rtol=1e-6)


def test_only_the_positive_grid_has_no_negative_scale() -> None:
    w = weight(50, 32)
    assert quantize(w, 32, symmetric).scale.min() < 0
    assert quantize(w, 32, positive).scale.min() > 0


def test_more_freedom_loses_less() -> None:
    w = weight(200, 96)
    errors = [float(np.square(quantize(w, 32, grid).dequantize() - w).mean()) for grid in GRIDS]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("grid", GRIDS)
def test_zeros_stay_zero_and_so_does_the_padding(grid: Grid) -> None:
    w = weight(4, 40) + 3  # far from zero: its levels reach down to it all the same
    w[1] = 0
    w[2, 7] = 0
    levels = quantize(w, 32, grid)
    assert np.all(levels.dequantize()[1] == 0) and levels.dequantize()[2, 7] == 0
    assert np.all(levels.values[:, 1, 8:] == levels.zero_point[:, 1:])
    assert np.all(np.isfinite(levels.scale))


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-36, 1e-20, 1e20, 1e38])
@pytest.mark.parametrize("grid", GRIDS)
def test_extreme_magnitudes_round_as_others_do(grid: Grid, magnitude: float) -> None:
    w = (weight(3, 40) / 4 * np.float32(magnitude)).astype(np.float32)
    with np.errstate(over="raise", invalid="raise"):
        levels = quantize(w, 32, grid)
    assert np.abs(levels.dequantize() - w).max() <= max(float(np.abs(levels.scale).max()) * 1.01, 2e-36)


def test_the_weight_given_is_left_as_it_is() -> None:
    for grid in GRIDS:
        w = weight(3, 32)
        before = w.copy()
        quantize(w, 32, grid)
        np.testing.assert_array_equal(w, before)
