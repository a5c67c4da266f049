"""Errors are scale-free, not fooled by NaN or shapes; bounds follow the precision of the parts a stage runs through."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fgr_edge.calibrate.golden_bounds import HALF_TABLES, JITTERS, TABLES, Against, Bounds, error_of, kind_of
from fgr_edge.errors import BundleError

MIXED = {"vision": "int8", "decoder": "fp32", "head": "int4-32", "embedding": "bfloat16"}


FP32 = dict.fromkeys(("vision", "decoder", "head"), "fp32")


def bounds(
    jitter: dict[str, float] | None = None, *, precision: dict[str, str] = FP32, cache: str = "float32"
) -> Bounds:
    return Bounds(precision, cache, jitter or {})


def test_errors_of_features_do_not_depend_on_their_scale() -> None:
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((50, 8))
    found = expected + 0.1 * rng.standard_normal((50, 8))
    assert error_of("features", found, expected) == pytest.approx(0.1, rel=0.1)
    assert error_of("features", 7 * found, 7 * expected) == pytest.approx(error_of("features", found, expected))


def test_unrelated_log_probs_are_at_the_square_root_of_two_whatever_their_mean() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 4, 5000)) - 12.0
    assert error_of("log_probs", one, other) == pytest.approx(2**0.5, rel=0.05)


def test_shapes_that_differ_and_values_that_are_no_numbers_are_never_within_a_bound() -> None:
    values = np.ones((3, 4), np.float32)
    assert error_of("features", values, values[:2]) == math.inf
    assert not error_of("log_probs", np.full_like(values, np.nan), values) <= 1e9
    assert error_of("equal", np.array([1, 2, 3]), np.array([1, 2, 4])) == 1


def test_an_output_is_compared_by_what_it_is() -> None:
    assert kind_of("first.deepstack_2") == "features" and kind_of("second.greedy.log_probs") == "log_probs"
    assert kind_of("first.direct_ids") == "equal" and kind_of("second.sin") == "table"


def test_vision_is_bound_by_its_own_precision_and_what_follows_by_the_coarsest() -> None:
    found = bounds(precision=MIXED)
    int8 = bounds(precision=dict.fromkeys(FP32, "int8"))
    vision: tuple[str, str, Against] = ("vision", "first.image_embeds", "original")
    assert found.of(*vision) == int8.of(*vision)
    assert found.of("prefill", "first.log_probs", "original") > 1.0 > found.of("vision", "x.image_embeds", "original")


def test_the_jitter_of_a_bundle_widens_its_bound_and_only_there() -> None:
    found = bounds({"prefill/first.log_probs": 0.05})
    assert found.of("prefill", "first.log_probs", "bundle") == pytest.approx(JITTERS * 0.05)
    assert found.of("prefill", "first.log_probs", "original") == pytest.approx(JITTERS * 0.05)
    assert found.of("decode", "greedy.log_probs", "bundle") == 1e-3


def test_a_session_that_repeats_itself_gets_no_jitter() -> None:
    jitter = {"prefill/first.log_probs": 0.05, "decode/greedy.log_probs": 0.05}
    found = bounds(jitter)
    assert found.of("next picture", "again.log_probs", "itself") == 1e-3
    assert found.of("decode", "repeated.log_probs", "itself") == 1e-3
    # Tokens one by one and in one call run through different kernels.
    assert found.of("decode", "at_once.log_probs", "itself") == pytest.approx(JITTERS * 0.05)


def test_half_a_cache_widens_its_tables_but_not_vision_s() -> None:
    found = bounds(cache="float16")
    assert found.of("rotary", "first.cos", "original") == HALF_TABLES
    assert found.of("vision tables", "first.cos", "original") == TABLES


def test_a_precision_without_bounds_is_refused() -> None:
    with pytest.raises(BundleError, match="int3"):
        bounds(precision={**FP32, "decoder": "int3-64"})


def test_a_session_whose_rows_are_alike_is_held_to_repeat_itself_more_closely() -> None:
    precision = dict.fromkeys(("vision", "decoder", "head"), "int8")
    jitter = {"decode/greedy.log_probs": 0.05}
    usual, alike = (Bounds(precision, "float32", jitter, alike=alike) for alike in (False, True))
    for key in ("repeated.log_probs", "at_once.log_probs"):
        assert alike.of("decode", key, "itself") < usual.of("decode", key, "itself")
    assert alike.of("decode", "greedy.log_probs", "bundle") == usual.of("decode", "greedy.log_probs", "bundle")
    exact = Bounds(FP32, "float32", {}, alike=True)
    assert exact.of("decode", "repeated.log_probs", "itself") < 1e-2
