"""Fitting the outlier score on known photographs alone: few of them, in bursts, with classes missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fgr_edge.calibrate.outliers import (
    MAX_REFERENCE,
    MIN_PHOTOGRAPHS,
    fit_outliers,
    held_out_distances,
    threshold_for,
)
from fgr_edge.errors import ConfigError, DataError, EngineError
from fgr_edge.runtime.outliers import NEIGHBOURS, OutlierDetector, outliers_from_arrays

CHANNELS, CLASSES = 32, 30

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def world(seed: int) -> npt.NDArray[np.float64]:
    """Means of the classes; they share a part of the space."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(CLASSES, 8)) @ np.random.default_rng(1).normal(size=(8, CHANNELS))


def known(seed: int, classes: npt.NDArray[np.int64], burst: float = 1.0) -> Arrays:
    """Photographs of classes: each class's own place this day, and `burst` times the noise around it."""
    rng = np.random.default_rng(seed)
    day = rng.normal(size=(CLASSES, CHANNELS))
    features = world(0)[classes] + day[classes] + burst * rng.normal(size=(len(classes), CHANNELS))
    named = 1 / (1 + np.exp(rng.normal(-3, 1, len(classes))))  # share of all names
    shares = rng.dirichlet(np.full(CLASSES, 0.1), len(classes)) + 1e-9
    return features.astype(np.float32), classes, np.log(shares * (named / shares.sum(axis=1))[:, None])


def strange(seed: int, count: int) -> Arrays:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, CHANNELS)) * 2.0
    named = 1 / (1 + np.exp(rng.normal(0, 1.5, count)))
    log_probs = np.log(rng.dirichlet(np.ones(CLASSES), count) * named[:, None])
    return features.astype(np.float32), np.full(count, -1), log_probs


def some_classes(seed: int, count: int, among: int = CLASSES) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, among, count)


def scores(detector: OutlierDetector, arrays: Arrays) -> npt.NDArray[np.float64]:
    return np.array([detector.score(f, p) for f, p in zip(arrays[0], arrays[2], strict=True)])


def auroc(of_known: npt.NDArray[np.float64], of_strange: npt.NDArray[np.float64]) -> float:
    return float((of_strange[:, None] > of_known).mean())


@pytest.mark.parametrize("count", [40, 300])
def test_strange_pictures_score_higher_than_known_ones(count: int) -> None:
    fitted = fit_outliers(*known(2, some_classes(3, count)))
    assert auroc(scores(fitted, known(4, some_classes(5, 400))), scores(fitted, strange(6, 400))) > 0.95


def test_both_parts_together_tell_more_than_either() -> None:
    fitted = fit_outliers(*known(2, some_classes(3, 300)))
    new, odd = known(4, some_classes(5, 400)), strange(6, 400)
    together = auroc(scores(fitted, new), scores(fitted, odd))
    for part in (0, 2):
        # One part is the same for every picture, so only the other tells them apart.
        flat: list[Any] = [[*new], [*odd]]
        for arrays in flat:
            arrays[part] = np.broadcast_to(new[part][0], (len(arrays[1]), new[part].shape[1]))
        alone = auroc(*(scores(fitted, arrays) for arrays in flat))
        assert together > alone + 0.005


def test_the_threshold_keeps_what_it_promises_on_another_day_though_photographs_came_in_bursts() -> None:
    kept = []
    for seed in range(5):
        fitted = fit_outliers(*known(10 + seed, some_classes(20 + seed, 300), burst=0.1))
        kept.append(
            np.mean(scores(fitted, known(30 + seed, some_classes(40 + seed, 400), burst=0.1)) <= fitted.threshold)
        )
    assert 0.9 <= np.mean(kept) <= 1.0


def test_leaving_out_one_photograph_alone_would_break_that_promise() -> None:
    features, classes, _ = known(10, some_classes(20, 300), burst=0.1)
    alone = held_out_distances(features, np.arange(len(classes)))
    assert np.quantile(alone, 0.95) < np.quantile(held_out_distances(features, classes), 0.05)


def test_photographs_of_classes_that_were_missing_are_kept() -> None:
    fitted = fit_outliers(*known(2, some_classes(3, 300, among=20)))
    unseen = known(4, np.random.default_rng(5).integers(20, CLASSES, 400))
    assert np.mean(scores(fitted, unseen) <= fitted.threshold) > 0.85


def test_the_order_of_the_photographs_does_not_matter() -> None:
    arrays = known(2, some_classes(3, 60))
    shuffled = np.random.default_rng(0).permutation(60)
    one = fit_outliers(*arrays)
    other = fit_outliers(arrays[0][shuffled], arrays[1][shuffled], arrays[2][shuffled])
    assert other.threshold == pytest.approx(one.threshold, abs=1e-4)


def test_one_class_alone_is_fitted_by_leaving_out_photographs() -> None:
    features, classes, log_probs = known(2, np.zeros(40, np.int64))
    fitted = fit_outliers(features, classes, log_probs)
    assert np.isfinite(fitted.threshold)
    assert np.isfinite(held_out_distances(features, classes)).all()


def test_held_out_distances_are_those_to_photographs_of_other_classes() -> None:
    features, classes, _ = known(2, some_classes(3, 50))
    found = held_out_distances(features, classes)
    for i in range(0, 50, 7):
        others = np.linalg.norm(features[classes != classes[i]] - features[i], axis=1)
        assert found[i] == pytest.approx(np.sort(others)[:NEIGHBOURS].mean(), rel=1e-4)


def test_a_channel_that_never_moves_does_not_count_without_bound() -> None:
    features, classes, log_probs = known(2, some_classes(3, 100))
    features[:, 0] = 0.5
    fitted = fit_outliers(features, classes, log_probs)
    nudged = features[0].copy()
    nudged[0] += 0.05
    assert fitted.score(nudged, log_probs[0]) == pytest.approx(fitted.score(features[0], log_probs[0]), abs=0.2)


def test_a_model_that_is_sure_of_every_photograph_can_be_fitted() -> None:
    features, classes, log_probs = known(2, some_classes(3, 100))
    log_probs[:] = -50.0
    log_probs[np.arange(100), classes] = 0.0
    assert np.isfinite(scores(fit_outliers(features, classes, log_probs), (features, classes, log_probs))).all()


def test_the_fit_goes_through_the_bundle_s_arrays() -> None:
    arrays = known(2, some_classes(3, 100))
    fitted = fit_outliers(*arrays)
    np.testing.assert_allclose(scores(outliers_from_arrays(fitted.arrays()), arrays), scores(fitted, arrays), atol=0.02)


def test_more_photographs_than_are_kept_are_thinned_with_every_class_left() -> None:
    classes = np.arange(MAX_REFERENCE + 500, dtype=np.int64) % CLASSES
    fitted = fit_outliers(*known(2, classes))
    assert len(fitted.reference) == MAX_REFERENCE
    assert fitted.arrays()["reference"].nbytes == 2 * MAX_REFERENCE * CHANNELS


@pytest.mark.parametrize("count", [1, 19, 39, 40, 296])
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_the_threshold_keeps_the_share_of_new_pictures_on_average(count: int, keep: float) -> None:
    rng = np.random.default_rng(0)
    thresholds = np.array([threshold_for(rng.uniform(size=count), keep) for _ in range(2000)])
    enough = count + 1 >= 1 / (1 - keep)
    assert thresholds.mean() >= keep - 0.01 if enough else thresholds.mean() < keep + 0.01
    assert thresholds.mean() <= keep + 1.5 / count


@pytest.mark.parametrize("keep", [0.0, 1.0, 95.0, float("nan")])
def test_a_share_outside_0_to_1_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        threshold_for(np.ones(5), keep)


def test_too_few_photographs_are_refused() -> None:
    with pytest.raises(DataError, match=f"{MIN_PHOTOGRAPHS - 1} photographs are too few"):
        fit_outliers(*known(2, some_classes(3, MIN_PHOTOGRAPHS - 1)))


def test_photographs_that_all_look_the_same_are_refused() -> None:
    features, classes, log_probs = known(2, some_classes(3, 40))
    with pytest.raises(DataError, match="all the same features"):
        fit_outliers(np.ones_like(features), classes, log_probs)


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(which: int, bad: float) -> None:
    arrays = known(2, some_classes(3, 40))
    arrays[which][3, 2] = bad
    with pytest.raises(EngineError, match="not finite"):
        fit_outliers(*arrays)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    features, classes, log_probs = known(2, some_classes(3, 40))
    with pytest.raises(DataError, match=r"\[40, 32\].*\[39\].*\[40, 30\]"):
        fit_outliers(features, classes[:-1], log_probs)
