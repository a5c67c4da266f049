"""What a calibration is worth, measured on photographs that it was not fitted on.

In: log-probabilities of labelled photographs, out-of-fold probabilities, the labels. Out: one document of plain JSON
types. Thresholds are measured the same way: those of a fold are fitted on the other folds. Draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.confidence import FOLDS, LEAST_WRONG, folds_of
from fgr_edge.calibrate.thresholds import ABSTAINED, Decisions, Options, decide, design_effect, fit_threshold
from fgr_edge.evaluate.length_bias import LengthBias, length_bias
from fgr_edge.evaluate.metrics import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    risk_coverage,
    top_1,
    wilson_interval,
)
from fgr_edge.runtime.labels import LabelSet

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MOST_POINTS = 500  # of a curve in the document


class Bin(TypedDict):
    """See `ReliabilityBin`."""

    confidence: float
    accuracy: float
    count: int


class Answering(TypedDict):
    """What the decision rule does at the stated risk, its thresholds fitted on other photographs.

    answered, right: shares of all photographs; wrong: share of the answered, None where none is; mean_level: of the
    answered, 0 for a class; levels: share of all photographs answered at each level.
    """

    answered: float
    right: float
    wrong: float | None
    wrong_95: tuple[float, float] | None
    mean_level: float | None
    levels: list[float]


class Bias(TypedDict):
    """See `LengthBias`."""

    lengths: list[int]
    excess: list[float]
    slope: float | None
    p_value: float | None


class Measured(TypedDict):
    """Probabilities against right classes; risk_coverage: pairs of both; with_parents: None where classes have none."""

    accuracy: float
    accuracy_95: tuple[float, float]
    nll: float
    brier: float
    ece: float
    aurc: float
    reliability: list[Bin]
    risk_coverage: list[tuple[float, float]]
    classes_only: Answering
    with_parents: Answering | None
    length_bias: Bias


def measure(
    probabilities: Floats,
    classes: Ints,
    groups: Ints,
    options: Options,
    lengths: Ints,
    *,
    risk: float,
    delta: float,
    seed: int = 0,
) -> Measured:
    """Every figure of one set of probabilities.

    Args:
        probabilities: [N, C], of photographs left out.
        classes, groups: [N].
        options: of these probabilities.
        lengths: [C] tokens of each name.
    """
    sure, correct = options.probability[:, 0], options.correct[:, 0]
    curve = risk_coverage(sure, correct)
    step = -(-len(curve.risk) // MOST_POINTS)
    has_parents = options.probability.shape[1] > 1
    plain = Options(options.probability[:, :1], options.correct[:, :1])
    accuracy = top_1(probabilities, classes)
    return {
        "accuracy": accuracy,
        "accuracy_95": wilson_interval(int(correct.sum()), len(classes)),
        "nll": negative_log_likelihood(probabilities, classes),
        "brier": brier_score(probabilities, classes),
        "ece": expected_calibration_error(sure, correct),
        "aurc": curve.aurc,
        "reliability": [
            {"confidence": part.confidence, "accuracy": part.accuracy, "count": part.count}
            for part in reliability_bins(sure, correct)
        ],
        "risk_coverage": [
            (float(a), float(b)) for a, b in zip(curve.coverage[::step], curve.risk[::step], strict=True)
        ],
        "classes_only": answering(decided_out_of_fold(plain, groups, risk, delta, seed)),
        "with_parents": answering(decided_out_of_fold(options, groups, risk, delta, seed)) if has_parents else None,
        "length_bias": _bias(length_bias(probabilities, classes, lengths, seed=seed)),
    }


def decided_out_of_fold(options: Options, groups: Ints, risk: float, delta: float, seed: int = 0) -> Decisions:
    """Decisions on each fold by the threshold of the others."""
    folds = folds_of(groups, seed)
    level = np.full(len(groups), ABSTAINED, np.int64)
    correct = np.zeros(len(groups), bool)
    for fold in range(FOLDS):
        out = folds == fold
        others = options.rows(~out)
        effect = design_effect(others.correct[:, 0], groups[~out])
        found = decide(options.rows(out), fit_threshold(others, risk, delta, effect))
        level[out], correct[out] = found.level, found.correct
    return Decisions(level, correct)


def answering(decisions: Decisions) -> Answering:
    """Shares of answered, right and wrong photographs, and how far above the class the answers are."""
    total = len(decisions.level)
    is_answered = decisions.level != ABSTAINED
    answered, right = int(is_answered.sum()), int(decisions.correct.sum())
    counts = np.bincount(decisions.level[is_answered])
    return {
        "answered": answered / total,
        "right": right / total,
        "wrong": 1 - right / answered if answered else None,
        "wrong_95": wilson_interval(answered - right, answered) if answered else None,
        "mean_level": float(decisions.level[is_answered].mean()) if answered else None,
        "levels": [int(count) / total for count in counts],
    }


def notes_on(
    threshold: float | None,
    labels: LabelSet,
    missing: Sequence[str],
    photographs: int,
    wrong: int,
    *,
    risk: float,
    delta: float,
) -> list[str]:
    """What a user must know of this calibration, in sentences; wrong: photographs whose best class is not theirs."""
    notes = []
    if wrong < LEAST_WRONG:
        notes.append(
            f"Only {wrong} of {photographs} photographs are named wrongly: too few to fit probabilities, which stay as "
            "the model gives them. If the model was trained on these photographs, thresholds and risks mean nothing: "
            "calibrate with photographs that it has not seen."
        )
    if threshold is None:
        notes.append(
            f"No threshold keeps the share of wrong answers below {risk:.3g} with confidence {1 - delta:.3g} on these "
            f"{photographs} photographs: nothing is answered. Calibrate with more photographs, or allow a higher "
            "--risk."
        )
    if missing:
        names = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        notes.append(
            f"{len(missing)} of the {len(labels)} classes have no photograph here ({names}): nothing was fitted or "
            "measured for them, and risks hold for photographs like these."
        )
    return notes


def _bias(found: LengthBias) -> Bias:
    values = asdict(found)
    return {
        "lengths": [int(length) for length in values["lengths"]],
        "excess": [float(value) for value in values["excess"]],
        "slope": found.slope,
        "p_value": found.p_value,
    }
