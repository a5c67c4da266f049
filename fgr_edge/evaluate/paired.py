"""Two models on the same photographs: how much one differs from the other, and whether that is more than chance.

In: counts of photographs that both, one or none of them named rightly; or a number a photograph. Out: intervals of
differences and p-values. Photographs that both name alike say nothing about the difference: a paired interval is much
narrower than what two intervals side by side suggest.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fgr_edge.evaluate.metrics import binomial_tail, wilson_interval

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000


def difference_interval(both: int, lost: int, gained: int, neither: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of share after less share before, in -1..1 (Newcombe, 1998, "paired data", method 10).

    Two Wilson intervals, put together with the correlation of the pairs; holds up where nothing changed.

    Args:
        both: photographs named rightly before and after; lost: only before; gained: only after; neither: never.

    Raises:
        ValueError: a count is negative, or all are zero.
    """
    total = both + lost + gained + neither
    if min(both, lost, gained, neither) < 0 or total < 1:
        raise ValueError(f"{both}, {lost}, {gained} and {neither} photographs are no pairs")
    before, after = (both + lost) / total, (both + gained) / total
    (low_1, high_1), (low_2, high_2) = (
        wilson_interval(both + lost, total, level),
        wilson_interval(both + gained, total, level),
    )
    phi = _correlation(both, lost, gained, neither)
    down, up = (after - low_2, high_1 - before), (high_2 - after, before - low_1)
    below, above = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return after - before - below, after - before + above


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """phi of the fourfold table, its numerator moved towards zero by half a photograph per pair."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if not margins:
        return 0.0
    excess: float = both * neither - lost * gained
    if excess > 0:
        excess = max(0.0, excess - (both + lost + gained + neither) / 2)
    return excess / math.sqrt(margins)


def mcnemar_p(lost: int, gained: int) -> float:
    """Two-sided exact p-value of as many changes in one direction, if either were as likely (McNemar, 1947)."""
    changes = lost + gained
    if min(lost, gained) < 0:
        raise ValueError(f"{lost} lost and {gained} gained photographs are no counts")
    return 1.0 if changes == 0 else min(1.0, 2 * binomial_tail(min(lost, gained), changes, 0.5))


def mean_interval(values: Floats, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of one number a photograph, by drawing the photographs anew (percentile bootstrap).

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("no values have a mean")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
