"""Numbers are summed up as they should be, with their count beside them."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.bench.spread import spread


def test_percentiles_and_spread_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).lognormal(size=257).tolist()
    found = spread(values)
    assert found["n"] == 257
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert found[name] == pytest.approx(np.percentile(values, share), rel=1e-5)  # type: ignore[literal-required]
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-5)
    assert found["iqr"] == pytest.approx(np.percentile(values, 75) - np.percentile(values, 25), rel=1e-5)
    assert found["mad"] == pytest.approx(np.median(np.abs(np.array(values) - np.median(values))), rel=1e-5)


def test_one_outlier_moves_the_mean_and_not_the_median_absolute_deviation() -> None:
    calm, shaken = spread([10.0, 11.0, 9.0, 10.0, 10.0]), spread([10.0, 11.0, 9.0, 10.0, 1000.0])
    assert shaken["mad"] == 1.0 and calm["mad"] == 0.0
    assert shaken["mean"] == 208 and shaken["p50"] == 10


def test_p99_of_few_numbers_lies_between_the_two_largest() -> None:
    found = spread([float(value) for value in range(20)])
    assert found["p99"] is not None and 18 < found["p99"] < 19
    assert found["n"] == 20


def test_nothing_measured_is_null_and_not_zero() -> None:
    found = spread([])
    assert found["n"] == 0
    assert {found[name] for name in found if name != "n"} == {None}  # type: ignore[literal-required]
