"""Numbers of one measure, summed up: middle, tail and spread. Knows no unit: the name of the measure has it.

A percentile of few numbers says little: p99 of 20 lies between the two largest. So `n` always stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

TAIL_NEEDS = 100  # with fewer numbers p99 is an interpolation towards the maximum


class Spread(TypedDict):
    """Percentiles are linear between ranks; iqr: p75 - p25; mad: median absolute deviation. None where n is 0."""

    n: int
    p50: float | None
    mean: float | None
    p90: float | None
    p99: float | None
    iqr: float | None
    mad: float | None
    min: float | None
    max: float | None


def spread(values: Sequence[float]) -> Spread:
    """Sum up; six significant digits."""
    if not values:
        return Spread(n=0, p50=None, mean=None, p90=None, p99=None, iqr=None, mad=None, min=None, max=None)
    found = np.asarray(values, np.float64)
    p25, p50, p75, p90, p99 = np.percentile(found, (25, 50, 75, 90, 99))
    return Spread(
        n=len(values),
        p50=rounded(p50),
        mean=rounded(found.mean()),
        p90=rounded(p90),
        p99=rounded(p99),
        iqr=rounded(p75 - p25),
        mad=rounded(np.median(np.abs(found - p50))),
        min=rounded(found.min()),
        max=rounded(found.max()),
    )


def rounded(value: float) -> float:
    """To six significant digits, as a plain float."""
    return float(f"{float(value):.6g}")
