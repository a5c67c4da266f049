"""The outlier score: what makes a picture strange, and reading the fitted numbers from a bundle."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError, EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.outliers import (
    OutlierDetector,
    Spread,
    log_odds_of_none,
    mean_of_nearest,
    outliers_file,
    outliers_from_arrays,
    read_outliers,
)

CHANNELS = 4
KNOWN = np.log(np.array([0.6, 0.3, 0.05]))
AT_CENTER = np.ones(CHANNELS, np.float32)


def detector(**changes: Any) -> OutlierDetector:
    """Reference pictures on the corners of a small cube around the center, in channels of unequal spread."""
    corners = np.array([[a, b, c, 0] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], np.float32)
    plain = OutlierDetector(
        center=AT_CENTER,
        scale=np.array([1, 1, 1, 10], np.float32),
        reference=corners,
        distance=Spread(1.5, 0.5),
        odds=Spread(-2.5, 1.0),
        threshold=3.0,
    )
    return replace(plain, **changes)


def stored(folder: Path, arrays: dict[str, Any]) -> Bundle:
    name = outliers_file("direct")
    np.savez(folder / name, **arrays)
    return Bundle(folder, {"files": {name: {"size": 0, "sha256": ""}}})  # type: ignore[typeddict-item]


def test_a_picture_farther_from_the_known_ones_is_stranger() -> None:
    scores = [detector().score(AT_CENTER + np.float32(step), KNOWN) for step in (0, 2, 4, 8)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 5


def test_a_channel_counts_in_units_of_its_own_spread() -> None:
    tight, loose = np.zeros((2, CHANNELS), np.float32)
    tight[0] = loose[3] = 6
    assert detector().score(AT_CENTER + tight, KNOWN) > detector().score(AT_CENTER + loose, KNOWN) + 3


def test_a_picture_that_the_model_has_no_name_for_is_stranger_wherever_it_lies() -> None:
    scores = [detector().score(AT_CENTER, KNOWN - missing) for missing in (0.0, 0.5, 2.0, 8.0)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 5


def test_the_score_is_the_sum_of_both_parts_in_units_of_their_spread() -> None:
    distance = math.sqrt(3)  # from the center to any corner
    odds = math.log(0.05 / 0.95)
    assert detector().score(AT_CENTER, KNOWN) == pytest.approx((distance - 1.5) / 0.5 + odds + 2.5, abs=1e-6)


def test_which_class_is_likely_does_not_matter_only_that_some_class_is() -> None:
    assert detector().score(AT_CENTER, KNOWN[::-1]) == pytest.approx(detector().score(AT_CENTER, KNOWN), abs=1e-12)


def test_log_odds_of_none_are_those_of_the_sum_of_all_classes() -> None:
    assert log_odds_of_none(KNOWN) == pytest.approx(math.log(0.05 / 0.95), abs=1e-12)


@pytest.mark.parametrize("log_probs", [[0.0], [1e-9], [-200.0], [-np.inf, -np.inf]])
def test_log_odds_are_finite_when_a_name_is_certain_and_when_every_name_is_impossible(log_probs: list[float]) -> None:
    odds = log_odds_of_none(np.array(log_probs))
    assert math.isfinite(odds)
    assert (odds < -10) == (log_probs[0] >= 0)


def test_classes_that_were_not_visited_add_nothing() -> None:
    assert log_odds_of_none(np.append(KNOWN, -np.inf)) == pytest.approx(log_odds_of_none(KNOWN), abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_log_probability_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        detector().score(AT_CENTER, np.array([bad, -1.0]))
    with pytest.raises(EngineError, match="not finite"):
        detector().score(AT_CENTER, np.array([-1.0, bad]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(bad: float) -> None:
    features = AT_CENTER.copy()
    features[2] = bad
    with pytest.raises(EngineError, match="not finite"):
        detector().score(features, KNOWN)


def test_features_of_another_model_are_refused() -> None:
    with pytest.raises(BundleError, match=r"features \[5\].*fitted for \[4\].*calibrate-labels"):
        detector().score(np.ones(5, np.float32), KNOWN)


def test_the_mean_of_the_nearest_takes_three() -> None:
    assert mean_of_nearest(np.array([9.0, 1.0, 7.0, 2.0, 3.0])) == pytest.approx(2.0)


def test_a_bundle_gives_back_the_score_that_was_stored(tmp_path: Path) -> None:
    read = read_outliers(stored(tmp_path, detector().arrays()), "direct")
    assert read is not None
    assert read.threshold == 3.0
    features = AT_CENTER + np.float32(0.3)
    assert read.score(features, KNOWN) == pytest.approx(detector().score(features, KNOWN), abs=1e-5)


def test_half_precision_of_the_reference_moves_the_score_by_less_than_a_hundredth(tmp_path: Path) -> None:
    reference = np.random.default_rng(0).normal(size=(300, CHANNELS)).astype(np.float32)
    exact = detector(reference=reference)
    read = outliers_from_arrays(exact.arrays())
    assert read.score(AT_CENTER, KNOWN) == pytest.approx(exact.score(AT_CENTER, KNOWN), abs=0.01)


def test_a_bundle_has_a_score_only_for_the_modes_that_were_calibrated(tmp_path: Path) -> None:
    assert read_outliers(stored(tmp_path, detector().arrays()), "reason") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": None}, "'reference' is missing"),
        ({"threshold": None}, "'threshold' is missing"),
        ({"scale": np.array(["1", "1", "1", "1"])}, "'scale' is <U1"),
        ({"center": np.ones(CHANNELS, np.int64)}, "'center' is int64"),
        ({"threshold": np.ones(3)}, "expected floating point numbers in 0 dimensions"),
        ({"odds": np.ones(3)}, "3 numbers, expected mean and deviation"),
        ({"distance": np.array([1.0, 0.0])}, "not above 0"),
        ({"distance": np.array([1.0, np.nan])}, "not finite"),
        ({"threshold": np.array(np.nan)}, "not finite"),
        ({"scale": np.zeros(CHANNELS, np.float32)}, "not above 0"),
        ({"center": np.full(CHANNELS, np.inf, np.float32)}, "not finite"),
        ({"center": np.ones(3, np.float32)}, r"center \[3\]"),
        ({"reference": np.ones((5, 3), np.float16)}, r"reference \[5, 3\]"),
        ({"reference": np.ones((2, CHANNELS), np.float16)}, "2 reference pictures, expected at least 3"),
        ({"reference": np.ones((0, CHANNELS), np.float16)}, "0 reference pictures"),
        ({"reference": np.full((5, CHANNELS), np.nan, np.float16)}, "not finite"),
        ({"center": np.ones(0), "scale": np.ones(0), "reference": np.ones((5, 0))}, r"\[0\]"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arrays = {name: value for name, value in (detector().arrays() | changes).items() if value is not None}
    with pytest.raises(BundleError, match=rf"(?s)outliers_direct\.npz: .*{message}.*calibrate-labels"):
        read_outliers(stored(tmp_path, arrays), "direct")


def test_a_file_with_a_pickle_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="plain arrays"):
        read_outliers(stored(tmp_path, {"center": np.array([object()])}), "direct")


def test_arrays_that_this_version_does_not_know_are_ignored(tmp_path: Path) -> None:
    assert read_outliers(stored(tmp_path, {**detector().arrays(), "more": np.ones(2)}), "direct") is not None


def test_a_score_costs_less_than_two_milliseconds_at_the_size_of_a_real_calibration() -> None:
    rng = np.random.default_rng(0)
    fitted = replace(
        detector(),
        center=np.zeros(256, np.float32),
        scale=np.ones(256, np.float32),
        reference=rng.normal(size=(300, 256)).astype(np.float32),
    )
    features = rng.normal(size=256).astype(np.float32)
    fitted.score(features, KNOWN)
    fastest = min(_seconds(fitted, features) for _ in range(20))
    assert fastest < 2e-3


def _seconds(fitted: OutlierDetector, features: np.ndarray[Any, Any]) -> float:
    start = time.perf_counter()
    fitted.score(features, KNOWN)
    return time.perf_counter() - start
