"""Temperature scaling: one number that makes probabilities as sure as they are right (Guo et al., 2017).

In: scores [N, C] float64, finite (log-probabilities, less a prior correction), and the right classes [N]. Out: the
temperature T that minimises the mean negative log-likelihood of softmax(scores / T). It is convex in 1 / T, so Newton's
method on 1 / T, kept inside a bracket, finds the minimum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.confidence import softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOWEST, HIGHEST = 0.05, 20.0  # beyond them the photographs say nothing: every answer is right, or none means anything
_TOLERANCE = 1e-7  # relative, of 1 / T
_MOST_STEPS = 100


def fit_temperature(scores: Floats, classes: Ints) -> float:
    """The temperature of least negative log-likelihood, from `LOWEST` to `HIGHEST`.

    Args:
        scores: [N, C] finite.
        classes: [N].
    """
    right = float(scores[np.arange(len(classes)), classes].mean())
    low, high = 1 / HIGHEST, 1 / LOWEST
    if _slope(scores, right, low)[0] >= 0:
        return HIGHEST
    if _slope(scores, right, high)[0] <= 0:
        return LOWEST
    inverse = 1.0
    for _ in range(_MOST_STEPS):
        slope, curvature = _slope(scores, right, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low * high) ** 0.5
        if abs(following - inverse) <= _TOLERANCE * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(scores: Floats, right: float, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood by 1 / T."""
    shares = softmax(scores * inverse)
    means = (shares * scores).sum(axis=1)
    spread = (shares * (scores - means[:, None]) ** 2).sum(axis=1)
    return float(means.mean()) - right, float(spread.mean())
