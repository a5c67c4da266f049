"""Measures against cases worked out by hand, and against published values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fgr_edge.evaluate.metrics import (
    auroc,
    binomial_tail,
    brier_score,
    clopper_pearson_upper,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    risk_coverage,
    tnr_at_tpr,
    top_1,
    wilson_interval,
)

THREE = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
RIGHT = np.array([0, 0, 1])


def test_wilson_agrees_with_published_intervals() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert wilson_interval(right, total) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(29, 29) == pytest.approx((1 - 0.1170, 1.0), abs=6e-5)
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(1, 0)


def test_clopper_pearson_without_errors_has_a_closed_form() -> None:
    for total in (1, 10, 45, 1000):
        assert clopper_pearson_upper(0, total, 0.1) == pytest.approx(1 - 0.1 ** (1 / total), abs=1e-11)


def test_clopper_pearson_agrees_with_published_bounds() -> None:
    # Newcombe (1998), method 5: two-sided 95 % has 2.5 % above its upper end.
    for right, total, high in ((81, 263, 0.3676), (15, 148, 0.1617), (1, 29, 0.1776)):
        assert clopper_pearson_upper(right, total, 0.025) == pytest.approx(high, abs=6e-5)
    assert clopper_pearson_upper(5, 5, 0.05) == 1.0


def test_the_bound_is_where_the_tail_is_delta() -> None:
    for errors, total in ((0, 45), (3, 150), (900, 20_000)):
        bound = clopper_pearson_upper(errors, total, 0.1)
        assert binomial_tail(errors, total, bound) == pytest.approx(0.1, rel=1e-5)
    assert binomial_tail(1, 3, 0.5) == pytest.approx(0.5)


def test_accuracy_likelihood_and_brier_of_three_photographs() -> None:
    assert top_1(THREE, RIGHT) == pytest.approx(2 / 3)
    assert negative_log_likelihood(THREE, RIGHT) == pytest.approx(-(math.log(0.5) + math.log(0.1) + 0) / 3)
    # (0.25 + 0.125), (0.81 + 0.01 + 0.64), 0
    assert brier_score(THREE, RIGHT) == pytest.approx((0.375 + 1.46) / 3)


def test_a_right_class_of_probability_zero_costs_much_and_not_infinitely() -> None:
    assert 600 < negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) < 700


def test_calibration_error_of_two_bins() -> None:
    sure = np.array([0.9, 0.6, 0.8, 0.4])
    right = np.array([True, False, True, True])
    low, high = reliability_bins(sure, right, bins=2)
    assert (low.confidence, low.accuracy, low.count) == (pytest.approx(0.5), 0.5, 2)
    assert (high.confidence, high.accuracy, high.count) == (pytest.approx(0.85), 1.0, 2)
    assert expected_calibration_error(sure, right, bins=2) == pytest.approx((2 * 0.0 + 2 * 0.15) / 4)


def test_bins_never_part_equal_confidences() -> None:
    sure = np.array([0.5, 0.5, 0.5, 0.5, 0.9])
    right = np.array([True, False, True, False, True])
    for order in ([0, 1, 2, 3, 4], [1, 3, 4, 0, 2]):
        bins = reliability_bins(sure[order], right[order], bins=3)
        assert [(part.count, part.accuracy) for part in bins] == [(4, 0.5), (1, 1.0)]
    assert [part.count for part in reliability_bins(np.full(7, 0.3), np.ones(7, bool))] == [7]


def test_bins_hold_everything_once_and_about_equally_much() -> None:
    sure = np.random.default_rng(0).random(1000)
    counts = [part.count for part in reliability_bins(sure, sure > 0.5)]
    assert len(counts) == 15 and sum(counts) == 1000 and max(counts) - min(counts) <= 1


def test_auroc_counts_ties_half() -> None:
    # pairs: 3 > 1, 3 > 2, 2 > 1 and 2 = 2
    assert auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)
    assert auroc(np.ones(5), np.ones(3)) == 0.5
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 6, 40).astype(float), generator.integers(0, 4, 30).astype(float)
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert auroc(a, b) == pytest.approx(np.mean(pairs))


def test_tnr_keeps_at_least_the_stated_share_of_positives() -> None:
    positives = np.arange(1.0, 21.0)  # 95 % of 20 is 19: those from 2 on
    assert tnr_at_tpr(positives, np.array([0.0, 1.5, 2.0, 30.0])) == 0.5
    assert tnr_at_tpr(positives, np.array([0.5, 1.5]), tpr=1.0) == 0.5
    assert tnr_at_tpr(np.full(4, 7.0), np.array([7.0, 6.0])) == 0.5


def test_risk_coverage_of_four_photographs() -> None:
    curve = risk_coverage(np.array([0.9, 0.7, 0.7, 0.2]), np.array([True, False, True, False]))
    assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0.0, 1 / 3, 0.5])
    assert curve.aurc == pytest.approx(0.25 * 0 + 0.5 / 3 + 0.25 * 0.5)


def test_a_perfect_order_has_the_smallest_area() -> None:
    right = np.array([True] * 7 + [False] * 3)
    best = risk_coverage(np.arange(10.0, 0, -1), right).aurc
    assert best == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 10)
    assert risk_coverage(np.arange(10.0), right).aurc > best
    assert risk_coverage(np.ones(10), right).aurc == pytest.approx(0.3)


def test_nothing_is_measured_of_nothing() -> None:
    empty = np.empty(0)
    with pytest.raises(ValueError):
        auroc(empty, np.ones(1))
    with pytest.raises(ValueError):
        risk_coverage(empty, empty.astype(bool))
    with pytest.raises(ValueError):
        top_1(np.empty((0, 3)), empty.astype(np.int64))
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([np.nan]), np.ones(1))
