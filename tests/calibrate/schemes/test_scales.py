"""Scales that move range between a layer's inputs and its weight: AWQ's and SmoothQuant's."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.schemes import w8a8
from fgr_edge.calibrate.schemes.awq import output_error, search_scale
from fgr_edge.calibrate.schemes.reference import reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics
from fgr_edge.calibrate.schemes.smoothquant import migration_scale

Floats = np.ndarray
ROUNDED = reference_weight(BlockWeights("int4-128", 4, 128))


def seen(x: Floats) -> InputStatistics:
    return InputStatistics(np.abs(x).mean(axis=0), np.abs(x).max(axis=0), x)


def layer() -> tuple[Floats, Floats]:
    """A weight [64, 256], and inputs of which a few are far larger than the others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 256)).astype(np.float32)
    x[:, :6] *= 40
    return rng.standard_normal((64, 256)).astype(np.float32), x


def test_awq_halves_the_error_where_some_inputs_are_large() -> None:
    w, x = layer()
    scale = search_scale(w, seen(x), ROUNDED)
    later = layer()[1][::-1]
    scaled = output_error(w, ROUNDED(w * scale) / scale, later)
    assert scaled < 0.5 * output_error(w, ROUNDED(w), later)
    assert scale[:6].min() > scale[6:].max()


def test_awq_leaves_a_layer_alone_where_nothing_helps() -> None:
    w, x = layer()
    np.testing.assert_array_equal(search_scale(w, seen(x), lambda rows: rows), np.ones(256))


def test_awq_never_loses_against_no_scale() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        w = rng.standard_normal((16, 128), np.float32)
        x = rng.standard_normal((64, 128), np.float32) * rng.lognormal(0, 1, 128).astype(np.float32)
        scale = search_scale(w, seen(x), ROUNDED)
        assert output_error(w, ROUNDED(w * scale) / scale, x) <= output_error(w, ROUNDED(w), x)


def test_awq_scales_only_as_it_may() -> None:
    def in_pairs(scale: Floats) -> Floats:
        return np.repeat(np.sqrt(scale[0::2] * scale[1::2]), 2)

    w, x = layer()
    scale = search_scale(w, seen(x), ROUNDED, in_pairs)
    np.testing.assert_array_equal(scale[0::2], scale[1::2])
    assert scale.max() > 1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothquant_moves_all_nothing_or_half_of_the_range(alpha: float) -> None:
    w, x = layer()
    of_weight, of_inputs = np.abs(w).max(axis=0), np.abs(x).max(axis=0)
    scale = migration_scale(of_weight, of_inputs, alpha)
    ratio = {0.0: of_weight * scale, 1.0: of_inputs / scale, 0.5: of_weight * scale / (of_inputs / scale)}[alpha]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    np.testing.assert_allclose(np.log(scale).mean(), 0, atol=1e-5)


def test_smoothquant_makes_w8a8_nearer_where_some_inputs_are_large() -> None:
    w, x = layer()

    def error(scale: Floats) -> float:
        values, step = w8a8.quantize(w * scale)
        found = w8a8.rounded_inputs(x / scale) @ w8a8.dequantize(values, step).T
        return float(np.square(found - x @ w.T).mean())

    smooth = migration_scale(np.abs(w).max(axis=0), np.abs(x).max(axis=0))
    assert error(smooth) < 0.3 * error(np.ones(256, np.float32))


def test_inputs_and_columns_of_zeros_get_a_usable_scale() -> None:
    w, x = layer()
    w[:, 10] = 0
    x[:, 20] = 0
    for scale in (
        migration_scale(np.abs(w).max(axis=0), np.abs(x).max(axis=0)),
        migration_scale(np.zeros(256, np.float32), np.zeros(256, np.float32)),
        search_scale(w, seen(x), ROUNDED),
    ):
        assert scale.dtype == np.float32 and np.all(np.isfinite(scale)) and scale.min() > 0
