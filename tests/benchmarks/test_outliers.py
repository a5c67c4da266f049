"""The comparison of outlier scores: every score does what its paper says on pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.mixed_outliers import _slopes, train_head
from benchmarks.outlier_scores import SCORES, UNFITTED, Floats, Known, Pictures, _shrunk_covariance
from benchmarks.outliers import figures, fits, thresholds
from fgr_edge.evaluate.metrics import auroc

CLASSES, CHANNELS = 6, 12


def photographs(seed: int, count: int) -> Pictures:
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % CLASSES
    features = 3 * np.eye(CLASSES, CHANNELS)[classes] + 0.3 * rng.normal(size=(count, CHANNELS)) + 1
    shares = rng.dirichlet(np.ones(CLASSES), count) * 0.08 + 0.9 * np.eye(CLASSES)[classes]
    return Pictures(features, np.log(shares), classes)


def strangers(seed: int, count: int) -> Pictures:
    rng = np.random.default_rng(seed)
    features = 0.3 * rng.normal(size=(count, CHANNELS)) + 1
    features[:, CLASSES + 1] += 4
    return Pictures(features, np.log(rng.dirichlet(np.ones(CLASSES), count) * 0.3), np.full(count, -1))


@pytest.mark.parametrize("name", [name for name in SCORES if "MixOE" not in name])  # which is trained, and tested below
def test_every_score_is_higher_for_pictures_of_nothing_known(name: str) -> None:
    score = SCORES[name](Known(photographs(1, 120), strangers(2, 60)))
    assert auroc(score(strangers(3, 100)), score(photographs(4, 100))) > 0.95


@pytest.mark.parametrize("name", UNFITTED)
def test_scores_said_to_need_no_photographs_do_not_depend_on_them(name: str) -> None:
    new = strangers(3, 20)
    one, other = (SCORES[name](Known(photographs(seed, 60), strangers(2, 9))) for seed in (1, 5))
    np.testing.assert_array_equal(one(new), other(new))


def test_a_covariance_of_few_pictures_is_shrunk_to_one_that_can_be_inverted() -> None:
    features = np.random.default_rng(0).normal(size=(5, CHANNELS))
    assert np.linalg.eigvalsh(_shrunk_covariance(features - features.mean(axis=0))).min() > 1e-3


def test_a_covariance_of_many_pictures_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 3)) * [1, 2, 3]
    np.testing.assert_allclose(_shrunk_covariance(features), features.T @ features / 20_000, atol=0.02)


def test_the_head_s_slopes_are_those_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    weights: list[Floats] = [rng.normal(size=(CHANNELS + 1, 128)), rng.normal(size=(129, CLASSES))]
    inputs, targets = rng.normal(size=(9, CHANNELS)), rng.dirichlet(np.ones(CLASSES), 9)
    importance = np.full((9, 1), 0.3)

    def loss() -> float:
        hidden = np.maximum(np.c_[inputs, np.ones(9)] @ weights[0], 0)
        scores = np.c_[hidden, np.ones(9)] @ weights[1]
        log_shares = scores - np.logaddexp.reduce(scores, axis=1)[:, None]
        return float(-(importance * targets * log_shares).sum())

    slopes = _slopes(weights, inputs, targets, importance)
    for layer, place in ((0, (2, 5)), (0, (CHANNELS, 7)), (1, (3, 2)), (1, (128, 0))):
        value, step = weights[layer][place], 1e-5
        ends = []
        for weights[layer][place] in (value + step, value - step):
            ends.append(loss())
        weights[layer][place] = value
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slopes[layer][place], abs=1e-6)


def test_the_head_is_as_unsure_of_mixtures_as_they_are_mixed() -> None:
    inside, outside = photographs(1, 120), strangers(2, 60)
    surest = train_head(inside.features, inside.classes, outside.features, steps=300, batch=32)
    shares = [np.mean(surest(s * inside.features[:60] + (1 - s) * outside.features)) for s in (1.0, 0.5, 0.0)]
    assert shares[0] > 0.9
    assert shares[0] > shares[1] + 0.1
    assert shares[1] > shares[2] + 0.1


def test_figures_hold_their_value_within_an_interval_that_shrinks_with_more_pictures() -> None:
    def spread(count: int) -> float:
        rng = np.random.default_rng(0)
        found = figures(rng.normal(size=count), rng.normal(size=count) + 1.5)["auroc_percent"]
        assert found["low"] < found["value"] < found["high"]
        return float(found["high"] - found["low"])

    assert spread(400) < 0.6 * spread(50)


def test_scores_are_fitted_on_photographs_of_val_and_train_alone() -> None:
    pictures = {"val": photographs(1, 60), "train": photographs(2, 90)}
    found = fits(pictures)
    assert list(found) == ["val 60", "val 40", "train 24", "train 90"]
    few: npt.NDArray[np.int64] = found["train 24"][0].classes
    assert np.bincount(few).tolist() == [4] * CLASSES
    assert all(len(draw) == 40 for draw in found["val 40"])


def test_the_shipped_threshold_is_tried_on_pictures_that_it_was_not_fitted_on() -> None:
    pictures = {
        "val": photographs(1, 60),
        "train": photographs(2, 90),
        "test": photographs(3, 200),
        "clothes": strangers(4, 100),
    }
    rows = thresholds(pictures)
    assert [row["fit"] for row in rows] == ["val 60", "val 40", "train 24", "train 90"]
    assert rows[0]["test_kept_percent"] > 85
    assert rows[0]["clothes_refused_percent"] > 95
