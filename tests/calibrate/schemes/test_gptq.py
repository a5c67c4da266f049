"""GPTQ: the error of a layer's outputs, against the textbook and against rounding to the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.schemes import int4
from fgr_edge.calibrate.schemes.gptq import DAMPING, Compensation, quantize
from fgr_edge.calibrate.schemes.int4 import Grid
from fgr_edge.errors import EngineError

Floats = np.ndarray


def inputs(rows: int, columns: int, seed: int = 0) -> Floats:
    """Correlated, of unequal size."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, columns)) @ rng.standard_normal((columns, columns)) / np.sqrt(columns)
    return np.asarray(mixed * rng.lognormal(0, 1, columns), np.float32)


def gram(x: Floats) -> Floats:
    return np.asarray(x.T @ x / np.float32(len(x)))


def weight(rows: int, columns: int) -> Floats:
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


def textbook(w: Floats, h: Floats, size: int, grid: Grid) -> Floats:
    """Frantar et al., 2023, algorithm 1, one column at a time with the inverse, and columns in order of weight."""
    scale, zero = grid(w.reshape(len(w), -1, size))
    order = np.argsort(-np.diagonal(h).astype(np.float64), kind="stable")
    damped = h.astype(np.float64) + DAMPING[0] * float(np.diagonal(h).astype(np.float64).mean()) * np.eye(len(h))
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    left, out = w[:, order].astype(np.float64), np.empty(w.shape)
    for k, column in enumerate(order):
        block = column // size
        level = np.clip(np.rint(left[:, k] / scale[:, block]) + zero[:, block], 0, 15)
        out[:, column] = (level - zero[:, block]) * scale[:, block]
        error = (left[:, k] - out[:, column]) / upper[k, k]
        left[:, k:] -= np.outer(error, upper[k, k:])
    return out


@pytest.mark.parametrize("grid", [int4.asymmetric, int4.symmetric])
def test_it_is_the_published_algorithm(grid: Grid) -> None:
    w, h = weight(10, 192), gram(inputs(400, 192))
    found = quantize(w, Compensation.of(h), 32, grid).dequantize()
    # Here and there a weight halfway between two levels goes to the other, in float32, and moves what follows it.
    assert np.mean(np.isclose(found, textbook(w, h, 32, grid), atol=1e-5)) > 0.97


@pytest.mark.parametrize("columns", [32, 100, 300])
def test_outputs_are_nearer_than_with_rounding_to_the_nearest(columns: int) -> None:
    w, both = weight(40, columns), inputs(4000, columns)
    x, seen_later = both[:2000], both[2000:]
    fitted = quantize(w, Compensation.of(gram(x)), 32, int4.asymmetric).dequantize()
    nearest = int4.quantize(w, 32, int4.asymmetric).dequantize()
    errors = [float(np.square(seen_later @ (found - w).T).mean()) for found in (fitted, nearest)]
    assert errors[0] < 0.6 * errors[1]


def test_with_unrelated_inputs_it_rounds_to_the_nearest() -> None:
    w = weight(5, 70)
    found = quantize(w, Compensation.of(np.eye(70, dtype=np.float32)), 32, int4.symmetric)
    expected = int4.quantize(w, 32, int4.symmetric)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.zero_point, expected.zero_point)


def test_rows_do_not_depend_on_each_other() -> None:
    w, compensation = weight(12, 200), Compensation.of(gram(inputs(500, 200)))
    whole = quantize(w, compensation, 64, int4.asymmetric).dequantize()
    part = quantize(w[3:5], compensation, 64, int4.asymmetric).dequantize()
    assert np.mean(np.isclose(whole[3:5], part)) > 0.97


def test_inputs_that_are_never_seen_or_repeat_another_do_no_harm() -> None:
    x = inputs(20, 96)  # fewer rows than columns
    x[:, 5] = 0
    x[:, 7] = x[:, 8]
    w = weight(6, 96)
    found = quantize(w, Compensation.of(gram(x)), 32, int4.asymmetric).dequantize()
    nearest = int4.quantize(w, 32, int4.asymmetric).dequantize()
    assert np.isfinite(found).all()
    assert np.square(x @ (found - w).T).mean() < np.square(x @ (nearest - w).T).mean()


def test_inputs_that_are_all_zero_round_to_the_nearest() -> None:
    w = weight(3, 64)
    found = quantize(w, Compensation.of(np.zeros((64, 64), np.float32)), 32, int4.asymmetric)
    np.testing.assert_array_equal(found.values, int4.quantize(w, 32, int4.asymmetric).values)


def test_inputs_that_are_no_numbers_are_an_error() -> None:
    h = gram(inputs(50, 8))
    h[2, 3] = np.nan
    with pytest.raises(EngineError, match="not finite numbers on the calibration pictures"):
        Compensation.of(h)
