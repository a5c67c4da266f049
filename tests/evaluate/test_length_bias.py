"""A bend by name length is seen where there is one, and not where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.evaluate.length_bias import length_bias


def test_excess_and_slope_of_three_classes() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.6, 0.2, 0.2]])
    found = length_bias(probabilities, np.array([0, 0, 1, 2]), np.array([1, 2, 3]))
    assert found.excess == pytest.approx([0.6 - 0.5, 0.2 - 0.25, 0.2 - 0.25])
    assert found.slope == pytest.approx(-0.075)
    assert found.p_value is not None and 2 / 6 - 0.03 < found.p_value < 4 / 6 + 0.03


def test_short_names_that_are_favoured_are_found_out() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 50)
    classes = np.tile(np.arange(50), 20)
    scores = generator.normal(size=(1000, 50)) + 3 * (classes[:, None] == np.arange(50))
    fair = np.exp(scores)
    bent = fair * np.exp(-0.3 * lengths)
    by_bias = [length_bias(shares / shares.sum(axis=1, keepdims=True), classes, lengths) for shares in (fair, bent)]
    assert by_bias[0].p_value is not None and by_bias[0].p_value > 0.05
    assert by_bias[1].p_value is not None and by_bias[1].p_value < 0.001
    assert by_bias[1].slope is not None and by_bias[1].slope < 0


def test_classes_without_photographs_and_names_of_one_length_say_nothing() -> None:
    probabilities = np.full((4, 3), 1 / 3)
    assert len(length_bias(probabilities, np.array([0, 0, 1, 1]), np.array([1, 2, 9])).excess) == 2
    found = length_bias(probabilities, np.array([0, 1, 2, 2]), np.array([4, 4, 4]))
    assert (found.slope, found.p_value) == (None, None)
