"""Temperature and prior correction: what they find again, and that nothing is measured on what it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.confidence import (
    FOLDS,
    excess,
    fit_calibration,
    fit_with,
    folds_of,
    out_of_fold,
    simplest,
    wrong_answers,
)
from fgr_edge.errors import DataError, EngineError
from fgr_edge.evaluate.metrics import expected_calibration_error, negative_log_likelihood
from fgr_edge.runtime.confidence import softmax

CLASSES = 5


def drawn(count: int, shift: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a model that is right but for the shift of each class and its temperature."""
    generator = np.random.default_rng(11)
    true = generator.normal(size=(count, CLASSES)) * 2
    classes = (generator.random((count, 1)) > softmax(true).cumsum(axis=1)).sum(axis=1)
    return true * temperature + shift, classes


def apart(classes: np.ndarray) -> np.ndarray:
    """Every photograph of an occasion of its own."""
    return np.arange(len(classes))


def test_a_prior_shift_is_found_and_taken_back() -> None:
    shift = np.array([3.0, 0.0, 0.0, 0.0, -2.0])
    log_probs, classes = drawn(2000, shift)
    found = fit_calibration(log_probs, classes, apart(classes))
    assert found.strength > 0
    left_out = out_of_fold(log_probs, classes, apart(classes))
    plain = fit_with(log_probs, classes, 0.0).probabilities(log_probs)
    assert negative_log_likelihood(left_out, classes) < negative_log_likelihood(plain, classes) - 0.1
    correct = left_out.argmax(axis=1) == classes
    assert expected_calibration_error(left_out.max(axis=1), correct) < 0.04


def test_where_the_prior_is_right_no_correction_is_chosen_that_hurts() -> None:
    log_probs, classes = drawn(200, np.zeros(CLASSES), temperature=2.0)
    found = fit_calibration(log_probs, classes, apart(classes))
    assert found.temperature == pytest.approx(2.0, rel=0.25)
    best = negative_log_likelihood(softmax(log_probs / 2.0), classes)
    assert negative_log_likelihood(out_of_fold(log_probs, classes, apart(classes)), classes) < best + 0.03


def test_a_model_that_is_right_is_left_alone_though_classes_are_unevenly_photographed() -> None:
    generator = np.random.default_rng(2)
    log_probs = generator.normal(size=(4000, CLASSES)) * 2 + np.array([2.0, 0.0, 0.0, 0.0, -1.0])
    classes = (generator.random((4000, 1)) > softmax(log_probs).cumsum(axis=1)).sum(axis=1)
    counts = np.bincount(classes)
    assert counts.max() > 4 * counts.min()
    assert np.abs(excess(log_probs, classes)).max() < 0.06


def test_classes_without_photographs_are_left_as_they_are() -> None:
    log_probs, classes = drawn(400, np.zeros(CLASSES))
    seen = classes != 3
    log_probs = log_probs[seen] + np.array([0, 0, 0, 5.0, 0])
    found = excess(log_probs, classes[seen])
    assert found[3] == 0
    # What goes to the class without photographs is not taken for a lack of the others.
    assert np.abs(found).max() < 0.3


def test_folds_keep_groups_whole_are_of_one_size_and_follow_the_seed() -> None:
    groups = np.repeat(np.arange(30), 4)
    folds = folds_of(groups, 0)
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in range(30))
    assert np.bincount(folds).tolist() == [24] * FOLDS
    assert (folds == folds_of(groups, 0)).all() and (folds != folds_of(groups, 1)).any()


def test_photographs_of_one_occasion_promise_nothing_for_the_next() -> None:
    generator = np.random.default_rng(1)
    classes = np.repeat(np.arange(40), 5)

    def occasion() -> np.ndarray:
        """Half of the classes look like another, each the same in its five photographs, another one the next time."""
        pull = np.zeros((40, 40))
        pull[np.arange(40), generator.permutation(40)] = 5 * (generator.random(40) < 0.5)
        return pull[classes]

    alike = generator.normal(size=(200, 40)) + 4 * (np.arange(40) == classes[:, None])
    log_probs, later = alike + occasion(), alike + occasion()
    kept = {}
    for name, groups in (("apart", apart(classes)), ("together", classes)):
        found = fit_calibration(log_probs, classes, groups)
        promised = negative_log_likelihood(out_of_fold(log_probs, classes, groups), classes)
        kept[name] = (found.strength, negative_log_likelihood(found.probabilities(later), classes) - promised)
    assert kept["apart"][0] > 0 and kept["apart"][1] > 0.05  # a correction whose promise is not kept
    assert kept["together"][0] == 0 and kept["together"][1] < 0.02


def test_the_simplest_choice_within_one_standard_error_is_taken() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(size=400)
    losses = np.stack([1.0 + 0.02 * noise, 0.9995 + 0.02 * noise[::-1], np.full(400, 1.2)])
    assert simplest(losses, np.arange(400)) == 0
    assert simplest(losses - np.array([[0], [0.1], [0]]), np.arange(400)) == 1
    # Ten occasions of forty photographs that agree are ten, not four hundred.
    together = np.repeat(np.arange(10), 40)
    swing = np.where(together % 2, 0.1, -0.09)
    losses = np.stack([np.ones(400) + swing, np.ones(400)])
    losses[0] += 0.02
    assert simplest(losses, together) == 0
    assert simplest(losses, np.arange(400)) == 1


def test_a_photograph_has_no_part_in_its_own_prediction() -> None:
    generator = np.random.default_rng(4)
    log_probs, classes = generator.normal(size=(60, 20)), generator.integers(0, 20, 60)  # nothing to learn
    in_sample = fit_with(log_probs, classes, 1.0).probabilities(log_probs)
    assert negative_log_likelihood(in_sample, classes) < np.log(20) - 0.1
    assert negative_log_likelihood(out_of_fold(log_probs, classes, apart(classes)), classes) > np.log(20) - 0.02


def test_too_few_photographs_and_scores_that_are_no_numbers_are_refused() -> None:
    log_probs, classes = drawn(12, np.zeros(CLASSES))
    with pytest.raises(DataError, match=r"9 photographs.*at least 10"):
        fit_calibration(log_probs[:9], classes[:9], apart(classes[:9]))
    log_probs[3, 1] = np.nan
    for fit in (fit_calibration, out_of_fold):
        with pytest.raises(EngineError, match="number 4"):
            fit(log_probs, classes, apart(classes))
    log_probs[3, 1] = 0
    with pytest.raises(DataError, match=r"of 4 classes.*--independent"):
        fit_calibration(log_probs, classes, np.arange(12) % 4)


def test_photographs_without_mistakes_fit_no_temperature() -> None:
    random = np.random.default_rng(0)
    classes = np.arange(200) % 10
    scores = random.normal(0, 1, (200, 10))
    scores[np.arange(200), classes] += 12
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert wrong_answers(log_probs, classes) == 0
    fitted = fit_calibration(log_probs, classes, np.arange(200))
    assert (fitted.temperature, fitted.strength) == (1.0, 0.0)
