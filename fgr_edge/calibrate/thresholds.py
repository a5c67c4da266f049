"""The threshold on calibrated probabilities that keeps the share of wrong answers below a stated risk.

In: probabilities [N, C] of photographs that were not used to fit them, the right classes [N], the labels. Out: the
lowest threshold whose risk is bounded; None where none is. It is one for classes and the levels above them: a
photograph is answered by the nearest level at least so probable (as Deng et al., "Hedging your bets", 2012), and the
risk is that of all answers together. The outlier rule comes on top: what it takes away was not taken away here.

Fixed-sequence testing (Angelopoulos et al., "Learn then Test", 2021, section 5): thresholds fixed beforehand are tested
from the strictest down, each by the Clopper-Pearson bound at `delta`, and the first failure ends it, so that all tests
together err with probability delta at most. Thresholds that fewer photographs reach than one error allows are passed
over without a test: that looks at counts alone, and is sound where the risk does not fall with the threshold.

Photographs of one occasion are right or wrong together, so they count for fewer: answers and errors are divided by the
design effect (Korn and Graubard, 1998), errors rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgr_edge.evaluate.metrics import binomial_tail
from fgr_edge.runtime.confidence import best_groups
from fgr_edge.runtime.labels import LabelSet

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Even steps of log-odds: calibrated probabilities crowd near 1, where even steps of probability would be too coarse.
GRID = tuple(float(1 / (1 + np.exp(-odds))) for odds in np.arange(10.0, -10.05, -0.1))
ABSTAINED = -1


@dataclass(frozen=True, slots=True)
class Options:
    """What could be answered for each photograph.

    Attributes:
        probability: [N, 1 + L] of the best class, then of the best group of each level above; -1 where there is none.
        correct: [N, 1 + L] whether that answer is right.
    """

    probability: Floats
    correct: Bools

    def rows(self, chosen: Bools | Ints) -> Options:
        """Those of some photographs."""
        return Options(self.probability[chosen], self.correct[chosen])


@dataclass(frozen=True, slots=True)
class Decisions:
    """level: [N] of the answer, 0 for a class, `ABSTAINED` for none; correct: [N], False for none."""

    level: Ints
    correct: Bools


def options_of(probabilities: Floats, classes: Ints, labels: LabelSet) -> Options:
    """The best class and the best group of each level, as `Confidence.decide` sees them."""
    depth = max(len(labels.ancestors(index)) for index in range(len(labels)))
    probability = np.full((len(classes), 1 + depth), -1.0)
    correct = np.zeros((len(classes), 1 + depth), bool)
    for row, right in enumerate(classes):
        best = int(probabilities[row].argmax())
        probability[row, 0], correct[row, 0] = probabilities[row, best], best == right
        for level, name, mass in best_groups(probabilities[row], labels) if depth else ():
            probability[row, level], correct[row, level] = mass, int(right) in labels.groups[name]
    return Options(probability, correct)


def decide(options: Options, threshold: float | None) -> Decisions:
    """The rule of `Confidence.decide` with one threshold for every level, for many photographs at once."""
    accepted = options.probability >= (np.inf if threshold is None else threshold)
    level = np.where(accepted.any(axis=1), accepted.argmax(axis=1), ABSTAINED)
    return Decisions(level, options.correct[np.arange(len(level)), level] & (level != ABSTAINED))


def design_effect(correct: Bools, groups: Ints) -> float:
    """How many photographs count as one, from how alike those of a group are: 1 where they are independent.

    1 + (n - 1) times the intraclass correlation of being right, n the mean size of a group (Kish, 1965; the analysis of
    variance estimate of Fisher, 1925, for groups of unequal size).
    """
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    total, kinds = len(correct), len(counts)
    if kinds == total or kinds == 1:
        return 1.0
    means = np.bincount(numbers, weights=correct) / counts
    between = float((counts * (means - correct.mean()) ** 2).sum()) / (kinds - 1)
    within = float(((correct - means[numbers]) ** 2).sum()) / (total - kinds)
    size = (total - float((counts**2).sum()) / total) / (kinds - 1)
    spread = between + (size - 1) * within
    alike = (between - within) / spread if spread > 0 else 1.0  # all right, or all wrong: nothing tells them apart
    return max(1.0, 1 + (size - 1) * alike)


def fit_threshold(options: Options, risk: float, delta: float, effect: float = 1.0) -> float | None:
    """The last threshold of `GRID` before the bound on the risk first fails.

    Args:
        options: of photographs like those to come, each once.
        risk: share of wrong answers to stay below.
        delta: probability that the result does not.
        effect: the design effect: so many photographs count as one.
    """
    start = _photographs_needed(1, risk, delta)
    if len(options.probability) / effect < 2 * start:  # few photographs: begin where not one error is allowed
        start = _photographs_needed(0, risk, delta)
    found = None
    for threshold in GRID:
        decisions = decide(options, threshold)
        answered = int((decisions.level != ABSTAINED).sum())
        wrong = answered - int(decisions.correct.sum())
        counted = int(answered / effect)
        if counted < start:
            continue
        if not keeps_risk(min(counted, int(np.ceil(wrong / effect))), counted, risk, delta):
            break
        found = threshold
    return found


@lru_cache(maxsize=4096)
def keeps_risk(errors: int, total: int, risk: float, delta: float) -> bool:
    """Whether the Clopper-Pearson bound at `delta` is at most `risk`: asked of the tail, without finding the bound."""
    return binomial_tail(errors, total, risk) <= delta


@lru_cache
def _photographs_needed(errors: int, risk: float, delta: float) -> int:
    """The fewest photographs at which so many errors keep the risk."""
    count = errors + 1
    while not keeps_risk(errors, count, risk, delta):
        count += 1
    return count
