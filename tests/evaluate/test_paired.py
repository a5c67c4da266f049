"""Paired intervals cover what they promise, and McNemar's test is the binomial one."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.evaluate.metrics import wilson_interval
from fgr_edge.evaluate.paired import difference_interval, mcnemar_p, mean_interval


@pytest.mark.parametrize(("lost_share", "gained_share"), [(0.02, 0.01), (0.05, 0.05), (0.1, 0.03)])
def test_the_paired_interval_covers_the_true_difference_as_often_as_it_says(
    lost_share: float, gained_share: float
) -> None:
    rng = np.random.default_rng(0)
    shares = [0.6, lost_share, gained_share, 0.4 - lost_share - gained_share]
    intervals = [difference_interval(*counts) for counts in rng.multinomial(300, shares, size=2000).tolist()]
    covered = np.mean([low <= gained_share - lost_share <= high for low, high in intervals])
    assert 0.94 <= covered <= 0.99


def test_pairs_narrow_the_interval() -> None:
    low, high = difference_interval(209, 2, 1, 84)
    assert low < -1 / 296 < high
    alone = wilson_interval(210, 296)
    assert high - low < (alone[1] - alone[0]) / 3


def test_where_nothing_changed_the_interval_is_around_zero_and_not_empty() -> None:
    low, high = difference_interval(210, 0, 0, 86)
    assert -0.02 < low < 0 < high < 0.02


def test_swapping_before_and_after_turns_the_interval_over() -> None:
    low, high = difference_interval(20, 12, 2, 16)
    assert difference_interval(20, 2, 12, 16) == pytest.approx((-high, -low))


def test_mcnemar_is_twice_the_binomial_tail() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(3, 3) == 1.0
    assert mcnemar_p(6, 0) == mcnemar_p(0, 6) == pytest.approx(2 / 64)
    assert mcnemar_p(8, 1) == pytest.approx(2 * 10 / 512)


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    low, high = mean_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)


def test_counts_that_are_none_are_refused() -> None:
    for counts in ((0, 0, 0, 0), (1, -1, 2, 3)):
        with pytest.raises(ValueError, match="no pairs"):
            difference_interval(*counts)
    with pytest.raises(ValueError, match="no counts"):
        mcnemar_p(-1, 2)
    with pytest.raises(ValueError, match="no values"):
        mean_interval(np.empty(0))
