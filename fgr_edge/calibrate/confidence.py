"""Fits what `runtime.confidence` applies: temperature and prior correction, with predictions of photographs left out.

In: log-probabilities [N, C] of labelled photographs and their classes [N]. Out: a `Calibration`, and the probabilities
that calibrations fitted without a photograph give it (out-of-fold), which every figure and threshold is taken from.
Does not know how the scores came about.

The prior correction follows batch calibration (Zhou et al., 2024): a class that is named more often than it is there
loses, one that is named less often gains. How often it is there is counted, since photographs to calibrate with are
rarely balanced; classes without a photograph are left as they are. Its strength is chosen by cross-validation, where 0,
none at all, is among the choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.temperature import fit_temperature, softmax
from fgr_edge.errors import DataError, EngineError
from fgr_edge.evaluate.metrics import negative_log_likelihood

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 5
LEAST_PER_FOLD = 2
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
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


def fit_calibration(log_probs: Floats, classes: Ints, *, seed: int = 0) -> Calibration:
    """Fit temperature and prior correction on all photographs given.

    Raises:
        DataError: fewer than `LEAST_PER_FOLD` photographs a fold.
        EngineError: a score is NaN or infinite.
    """
    _check(log_probs, classes)
    return _fit(log_probs, classes, seed)


def _fit(log_probs: Floats, classes: Ints, seed: int) -> Calibration:
    folds = folds_of(classes, seed)
    losses = {}
    for strength in STRENGTHS:
        left_out = np.empty_like(log_probs)
        for fold in range(FOLDS):
            out = folds == fold
            left_out[out] = fit_with(log_probs[~out], classes[~out], strength).probabilities(log_probs[out])
        losses[strength] = negative_log_likelihood(left_out, classes)
    return fit_with(log_probs, classes, min(STRENGTHS, key=losses.__getitem__))


def out_of_fold(log_probs: Floats, classes: Ints, *, seed: int = 0) -> Floats:
    """[N, C] probabilities of each photograph by a calibration fitted, strength and all, without it and its fold.

    Raises:
        DataError, EngineError: as `fit_calibration`.
    """
    _check(log_probs, classes)
    folds = folds_of(classes, seed)
    found = np.empty_like(log_probs)
    for fold in range(FOLDS):
        out = folds == fold
        found[out] = _fit(log_probs[~out], classes[~out], seed + 1).probabilities(log_probs[out])
    return found


def fit_with(log_probs: Floats, classes: Ints, strength: float) -> Calibration:
    """Temperature, then the prior correction of that strength, then the temperature that goes with it."""
    temperature = fit_temperature(log_probs, classes)
    if strength == 0:
        return Calibration(temperature, np.zeros(log_probs.shape[1]), 0.0)
    bias = strength * temperature * excess(log_probs / temperature, classes)
    return Calibration(fit_temperature(log_probs - bias, classes), bias, strength)


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


def folds_of(classes: Ints, seed: int) -> Ints:
    """[N] fold of each photograph: drawn by the seed, each class spread over the folds."""
    drawn = np.random.default_rng(seed).permutation(len(classes))
    by_class = drawn[np.argsort(classes[drawn], kind="stable")]
    folds = np.empty(len(classes), np.int64)
    folds[by_class] = np.arange(len(classes)) % FOLDS
    return folds


def _check(log_probs: Floats, classes: Ints) -> None:
    if len(classes) < FOLDS * LEAST_PER_FOLD:
        raise DataError(
            f"{len(classes)} photographs to calibrate with, expected at least {FOLDS * LEAST_PER_FOLD} "
            f"({LEAST_PER_FOLD} in each of {FOLDS} folds), and better some hundreds; add photographs"
        )
    wrong = np.flatnonzero(~np.isfinite(log_probs).all(axis=1))
    if wrong.size:
        raise EngineError(
            f"the scores of {wrong.size} of {len(classes)} photographs are NaN or infinite (the first is number "
            f"{wrong[0] + 1}); expected numbers: check the bundle with float32 (`fgr-edge export --precision fp32`)"
        )
