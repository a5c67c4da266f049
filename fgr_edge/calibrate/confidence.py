"""Fits what `runtime.confidence` applies: temperature and prior correction, with predictions of photographs left out.

In: log-probabilities [N, C] of labelled photographs, their classes [N] and groups [N]. Out: a `Calibration`, and the
probabilities that calibrations fitted without a photograph give it (out-of-fold), which every figure and threshold is
taken from. Does not know how the scores came about.

Photographs of a group were taken on one occasion and stay in one fold: left-out photographs whose neighbours were
fitted on promise gains that the next occasion does not keep.

The prior correction follows batch calibration (Zhou et al., 2024): a class that is named more often than it is there
loses, one that is named less often gains. How often it is there is counted, since photographs to calibrate with are
rarely balanced; classes without a photograph are left as they are. Cross-validation chooses among doing nothing, the
temperature alone, and corrections of growing strength: the first in that order whose loss is within one standard error
of the best (Breiman et al., 1984, "Classification and Regression Trees", 3.4.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.temperature import fit_temperature
from fgr_edge.errors import DataError, EngineError
from fgr_edge.evaluate.metrics import losses_of
from fgr_edge.runtime.confidence import softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 5
LEAST_PER_FOLD = 2
LEAST_WRONG = 5  # answers, for a temperature: without mistakes any low one fits, and the photographs were trained on
CHOICES = (None, 0.0, 0.25, 0.5, 0.75, 1.0)  # nothing, the temperature, prior corrections of that strength
_ABSENT = -1e9  # the score of a class that is not considered; finite, so that 0 * score stays 0


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Probabilities are softmax((log_probs - bias) / temperature); strength: of the prior correction in `bias`."""

    temperature: float
    bias: Floats
    strength: float

    def probabilities(self, log_probs: Floats) -> Floats:
        """[N, C] of [N, C]."""
        return softmax((log_probs - self.bias) / self.temperature)


def fit_calibration(log_probs: Floats, classes: Ints, groups: Ints, *, seed: int = 0) -> Calibration:
    """Fit what helps photographs of other groups, on all photographs given.

    Raises:
        DataError: fewer than `LEAST_PER_FOLD` photographs a fold, or fewer groups than folds.
        EngineError: a score is NaN or infinite.
    """
    _check(log_probs, classes, groups)
    return _fit(log_probs, classes, groups, seed)


def out_of_fold(log_probs: Floats, classes: Ints, groups: Ints, *, seed: int = 0) -> Floats:
    """[N, C] probabilities of each photograph by a calibration fitted, choices and all, without it and its fold.

    Raises:
        DataError, EngineError: as `fit_calibration`.
    """
    _check(log_probs, classes, groups)
    folds = folds_of(groups, seed)
    found = np.empty_like(log_probs)
    for fold in range(FOLDS):
        out = folds == fold
        fitted = _fit(log_probs[~out], classes[~out], groups[~out], seed + 1)
        found[out] = fitted.probabilities(log_probs[out])
    return found


def _fit(log_probs: Floats, classes: Ints, groups: Ints, seed: int) -> Calibration:
    if wrong_answers(log_probs, classes) < LEAST_WRONG:
        return fit_with(log_probs, classes, None)
    folds = folds_of(groups, seed)
    losses = np.zeros((len(CHOICES), len(classes)))
    for row, choice in enumerate(CHOICES):
        for fold in range(FOLDS):
            out = folds == fold
            if out.any():
                shares = fit_with(log_probs[~out], classes[~out], choice).probabilities(log_probs[out])
                losses[row, out] = losses_of(shares, classes[out])
    return fit_with(log_probs, classes, CHOICES[simplest(losses, groups)])


def wrong_answers(log_probs: Floats, classes: Ints) -> int:
    """Photographs whose most probable class is not theirs."""
    return int((log_probs.argmax(axis=1) != classes).sum())


def simplest(losses: Floats, groups: Ints) -> int:
    """The first row of [K, N] losses whose mean is within one standard error of the best row's.

    The error is that of the mean difference, of groups drawn anew with all their photographs.
    """
    best = int(losses.mean(axis=1).argmin())
    _, numbers = np.unique(groups, return_inverse=True)
    for row in range(best):
        more = losses[row] - losses[best]
        by_group = np.bincount(numbers, weights=more)
        error = np.sqrt(len(by_group)) * by_group.std() / len(more)
        if more.mean() <= error:
            return row
    return best


def fit_with(log_probs: Floats, classes: Ints, choice: float | None) -> Calibration:
    """None changes nothing; a number fits temperature, correction of that strength, and the temperature again."""
    nothing = np.zeros(log_probs.shape[1])
    if choice is None:
        return Calibration(1.0, nothing, 0.0)
    temperature = fit_temperature(log_probs, classes)
    if choice == 0:
        return Calibration(temperature, nothing, 0.0)
    bias = choice * temperature * excess(log_probs / temperature, classes)
    return Calibration(fit_temperature(log_probs - bias, classes), bias, choice)


def excess(scores: Floats, classes: Ints) -> Floats:
    """[C] log of how much more often a class is predicted than there; 0 for classes without a photograph.

    Predictions are shared out among the classes that have photographs: what goes to the others says nothing of them.
    One photograph is added to both counts, so that a class with few of them moves little.
    """
    counts = np.bincount(classes, minlength=scores.shape[1]).astype(np.float64)
    present = counts > 0
    predicted = softmax(np.where(present, scores, _ABSENT)).sum(axis=0)
    ratio: Floats = np.where(present, np.log((predicted + 1) / (counts + 1)), 0.0)
    return ratio


def folds_of(groups: Ints, seed: int) -> Ints:
    """[N] fold of each photograph: groups stay whole, drawn by the seed and dealt to whichever fold has the fewest."""
    kinds, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sizes = np.zeros(FOLDS, np.int64)
    fold_of = np.empty(len(kinds), np.int64)
    for group in np.random.default_rng(seed).permutation(len(kinds)):
        fold_of[group] = sizes.argmin()
        sizes[fold_of[group]] += counts[group]
    return fold_of[numbers]


def _check(log_probs: Floats, classes: Ints, groups: Ints) -> None:
    if len(classes) < FOLDS * LEAST_PER_FOLD:
        raise DataError(
            f"{len(classes)} photographs to calibrate with, expected at least {FOLDS * LEAST_PER_FOLD} "
            f"({LEAST_PER_FOLD} in each of {FOLDS} folds), and better some hundreds; add photographs"
        )
    occasions = len(np.unique(groups))
    if occasions < FOLDS:
        raise DataError(
            f"the photographs are of {occasions} classes, and those of one class are taken to be of one occasion; "
            f"expected at least {FOLDS} occasions. Say --independent if they were taken at different times and places, "
            "or add classes"
        )
    wrong = np.flatnonzero(~np.isfinite(log_probs).all(axis=1))
    if wrong.size:
        raise EngineError(
            f"the scores of {wrong.size} of {len(classes)} photographs are NaN or infinite (the first is number "
            f"{wrong[0] + 1}); expected numbers: check the bundle with float32 (`fgr-edge export --precision fp32`)"
        )
