"""Measures of a recognizer's answers and of its confidence, in plain numpy.

In: probabilities [N, C] float, classes [N] int (the right class of each photograph), confidences [N] float (higher is
surer), correct [N] bool, scores. Out: numbers. Knows no pictures, labels or bundles. An empty input is a ValueError: no
number stands for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SMALLEST = 1e-300  # a probability of zero given to the right class costs -log(1e-300) = 691 nats, not infinity


def wilson_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share at confidence `level` (Wilson, 1927, "Probable inference", eq. 4): holds up at 0 and at 1."""
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"{right} of {total} is no share")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, weight = right / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def clopper_pearson_upper(errors: int, total: int, delta: float) -> float:
    """The largest error rate not refuted: P(at most `errors` of `total`) = delta there (Clopper and Pearson, 1934).

    One-sided: the true rate lies above with probability at most `delta`. By bisection on the exact binomial tail.
    """
    if not 0 <= errors <= total or not 0 < delta < 1:
        raise ValueError(f"{errors} errors of {total} at delta {delta} have no bound")
    if errors == total:
        return 1.0
    ways = log_binomials(errors, total)
    low, high = errors / total, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _tail(ways, total, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def binomial_tail(errors: int, total: int, rate: float) -> float:
    """P(at most `errors` of `total`) where each is an error with probability `rate`, 0 < rate < 1."""
    return _tail(log_binomials(errors, total), total, rate)


def log_binomials(most: int, total: int) -> Floats:
    """[most + 1] logarithm of `total` over 0, 1, ..., `most`."""
    steps = np.arange(1, most + 1, dtype=np.float64)
    return np.concatenate(([0.0], np.cumsum(np.log((total - steps + 1) / steps))))


def _tail(ways: Floats, total: int, rate: float) -> float:
    counts = np.arange(len(ways), dtype=np.float64)
    terms = ways + counts * math.log(rate) + (total - counts) * math.log1p(-rate)
    return float(np.exp(terms).sum())


def top_1(probabilities: Floats, classes: Ints) -> float:
    """Share of photographs whose most probable class is the right one; of equals, the first counts."""
    _check(probabilities, classes)
    return float((probabilities.argmax(axis=1) == classes).mean())


def negative_log_likelihood(probabilities: Floats, classes: Ints) -> float:
    """Mean of -log(probability of the right class), in nats."""
    _check(probabilities, classes)
    return float(losses_of(probabilities, classes).mean())


def losses_of(probabilities: Floats, classes: Ints) -> Floats:
    """[N] of -log(probability of the right class), in nats."""
    given = probabilities[np.arange(len(classes)), classes]
    losses: Floats = -np.log(np.maximum(given, SMALLEST))
    return losses


def brier_score(probabilities: Floats, classes: Ints) -> float:
    """Mean over photographs of the squared distance to the right answer, summed over classes: 0 to 2 (Brier, 1950)."""
    _check(probabilities, classes)
    given = probabilities[np.arange(len(classes)), classes]
    return float(((probabilities**2).sum(axis=1) - 2 * given + 1).mean())


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Photographs of neighbouring confidence: how sure the answers were on average, and what share was right."""

    confidence: float
    accuracy: float
    count: int


def reliability_bins(confidences: Floats, correct: Bools, bins: int = 15) -> tuple[ReliabilityBin, ...]:
    """Photographs in order of confidence, in at most `bins` bins of equal mass, the least sure first.

    Equal confidences are never parted, so that the order of the photographs does not matter; bins may then be fewer.
    """
    _check_pairs(confidences, correct)
    order = np.argsort(confidences, kind="stable")
    sure, right = confidences[order], correct[order]
    edges = np.linspace(0, len(sure), bins + 1).round().astype(np.int64)
    # An edge inside a run of equal confidences moves to the nearer end of the run.
    inside = np.minimum(edges[1:-1], len(sure) - 1)
    first, last = (np.searchsorted(sure, sure[inside], side=side) for side in ("left", "right"))
    edges[1:-1] = np.where(inside - first < last - inside, first, last)
    return tuple(
        ReliabilityBin(float(sure[a:b].mean()), float(right[a:b].mean()), int(b - a))
        for a, b in pairwise(np.unique(edges))
    )


def expected_calibration_error(confidences: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by photographs (Guo et al., 2017, eq. 3).

    Bins hold equal mass (Nguyen and O'Connor, 2015): bins of equal width are mostly empty below a confident model's
    top one.
    """
    parts = reliability_bins(confidences, correct, bins)
    return sum(part.count * abs(part.confidence - part.accuracy) for part in parts) / len(confidences)


def auroc(positives: Floats, negatives: Floats) -> float:
    """Probability that a positive's score is above a negative's, ties counted half: exact (Mann and Whitney, 1947)."""
    _check_scores(positives, negatives)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def tnr_at_tpr(positives: Floats, negatives: Floats, tpr: float = 0.95) -> float:
    """Share of negatives below the highest threshold that `tpr` of the positives reach (ODIN: Liang et al., 2018)."""
    _check_scores(positives, negatives)
    needed = max(1, math.ceil(tpr * len(positives) - 1e-9))
    threshold = np.sort(positives)[len(positives) - needed]
    return float((negatives < threshold).mean())


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """coverage, risk: [K] of accepting the surest photographs, from few to all; one point for each confidence."""

    coverage: Floats
    risk: Floats

    @property
    def aurc(self) -> float:
        """Area under the curve: the mean risk over all coverages; lower is better (Geifman and El-Yaniv, 2017).

        Where confidences are equal their photographs enter at once, and each of those coverages has the risk after
        them.
        """
        return float((np.diff(self.coverage, prepend=0.0) * self.risk).sum())


def risk_coverage(confidences: Floats, correct: Bools) -> RiskCoverage:
    """Share of photographs accepted, and of errors among them, at every threshold on the confidence."""
    _check_pairs(confidences, correct)
    order = np.argsort(-confidences, kind="stable")
    wrong = np.cumsum(~correct[order])
    last_of_equals = np.append(np.diff(confidences[order]) != 0, True)
    accepted = np.flatnonzero(last_of_equals) + 1
    return RiskCoverage(accepted / len(confidences), wrong[last_of_equals] / accepted)


def _check(probabilities: Floats, classes: Ints) -> None:
    if probabilities.ndim != 2 or len(probabilities) != len(classes) or not len(classes):
        raise ValueError(f"probabilities {list(probabilities.shape)} and {len(classes)} classes; expected [N, C] and N")


def _check_pairs(confidences: Floats, correct: Bools) -> None:
    if confidences.shape != correct.shape or correct.dtype != np.bool_ or not len(correct):
        raise ValueError(f"confidences {list(confidences.shape)}, correct {correct.dtype} {list(correct.shape)}")
    if np.isnan(confidences).any():
        raise ValueError("a confidence is NaN")


def _check_scores(positives: Floats, negatives: Floats) -> None:
    if not len(positives) or not len(negatives):
        raise ValueError(f"{len(positives)} positives and {len(negatives)} negatives; expected at least one of each")
    if np.isnan(positives).any() or np.isnan(negatives).any():
        raise ValueError("a score is NaN")
