"""The temperature found is the one of least negative log-likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.temperature import HIGHEST, LOWEST, fit_temperature
from fgr_edge.evaluate.metrics import negative_log_likelihood
from fgr_edge.runtime.confidence import softmax


def drawn(temperature: float, count: int, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose right temperature is known: classes are drawn from softmax(scores / temperature)."""
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(count, classes)) * 3 * temperature
    shares = softmax(scores / temperature)
    return scores, (generator.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    scores, classes = drawn(temperature, 20_000)
    assert fit_temperature(scores, classes) == pytest.approx(temperature, rel=0.03)


def test_no_temperature_nearby_is_better() -> None:
    scores, classes = drawn(2.0, 200)
    best = fit_temperature(scores, classes)
    losses = [negative_log_likelihood(softmax(scores / t), classes) for t in (best, best * 0.999, best * 1.001)]
    assert losses[0] < min(losses[1:])
    assert fit_temperature(scores * 100 + 7, classes) == pytest.approx(HIGHEST)
    assert fit_temperature(scores * 3 - 1e4, classes) == pytest.approx(3 * best, rel=1e-5)


def test_photographs_that_say_nothing_end_at_a_bound() -> None:
    scores, _ = drawn(1.0, 50)
    assert fit_temperature(scores, scores.argmax(axis=1)) == LOWEST
    assert fit_temperature(scores, scores.argmin(axis=1)) == HIGHEST
    assert fit_temperature(np.zeros((5, 3)), np.zeros(5, int)) == HIGHEST
