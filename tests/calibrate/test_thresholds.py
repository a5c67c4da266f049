"""The threshold keeps the stated risk, as often as it says; the rule is the one that runs on the device."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.thresholds import (
    ABSTAINED,
    GRID,
    Options,
    decide,
    design_effect,
    fit_threshold,
    keeps_risk,
    options_of,
)
from fgr_edge.evaluate.metrics import clopper_pearson_upper
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.labels import Label, LabelSet

TREE = LabelSet(
    (
        *(Label(f"Apple {i}", "Apple") for i in range(3)),
        *(Label(f"Pear {i}", "Pear") for i in range(2)),
        Label("Apple", "Fruit"),
        Label("Pear", "Fruit"),
        Label("Onion"),
    )
)


def flat(confidences: np.ndarray, correct: np.ndarray) -> Options:
    return Options(confidences[:, None], correct[:, None])


def test_the_rule_is_the_one_that_runs_on_the_device() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(len(TREE), 0.4), size=300)
    classes = generator.integers(0, len(TREE), 300)
    options = options_of(probabilities, classes, TREE)
    for threshold in (0.7, 0.8, 0.95, None):
        found = decide(options, threshold)
        device = Confidence(1.0, np.zeros(len(TREE)), threshold, threshold, 0.05, 0.9, 300)
        assert len(set(found.level.tolist())) == (1 if threshold is None else 4)
        for row, right, level, correct in zip(probabilities, classes, found.level, found.correct, strict=True):
            decision = device.decide(row, TREE)
            assert (ABSTAINED if decision.level is None else decision.level) == level
            names = (TREE.names[right], *TREE.ancestors(int(right)))
            assert correct == (decision.label in names)


def test_the_risk_is_kept_where_the_bound_is_below_it() -> None:
    for errors, total in ((0, 44), (0, 45), (1, 76), (1, 77), (3, 131), (3, 132), (5, 5)):
        assert keeps_risk(errors, total, 0.05, 0.1) == (clopper_pearson_upper(errors, total, 0.1) <= 0.05)
    assert keeps_risk(0, 45, 0.05, 0.1) and not keeps_risk(0, 44, 0.05, 0.1)


def test_without_errors_everything_down_to_the_last_photograph_is_answered() -> None:
    confidences = np.linspace(0.5, 0.99, 200)
    threshold = fit_threshold(flat(confidences, np.ones(200, bool)), risk=0.05, delta=0.1)
    assert threshold == min(GRID)


def test_the_threshold_ends_where_the_errors_begin() -> None:
    confidences = np.linspace(0.5, 0.99, 400)
    correct = confidences > 0.8
    threshold = fit_threshold(flat(confidences, correct), risk=0.05, delta=0.1)
    assert threshold is not None and 0.75 < threshold < 0.82
    accepted = confidences >= threshold
    assert (~correct[accepted]).mean() < 0.05


def test_no_threshold_is_found_where_none_keeps_the_risk() -> None:
    generator = np.random.default_rng(1)
    assert fit_threshold(flat(generator.random(500), generator.random(500) < 0.9), 0.05, 0.1) is None
    # 44 photographs without an error leave 5 % open: 0.95^44 = 0.105
    assert fit_threshold(flat(np.full(44, 0.9), np.ones(44, bool)), 0.05, 0.1) is None
    assert fit_threshold(flat(np.full(45, 0.9), np.ones(45, bool)), 0.05, 0.1) is not None


@pytest.mark.parametrize("delta", [0.1, 0.3])
def test_the_risk_is_kept_as_often_as_stated(delta: float) -> None:
    generator = np.random.default_rng(7)
    population = np.sort(generator.beta(3, 0.6, 100_000))[::-1]  # confidences that are right as often as they say
    risks = np.cumsum(1 - population) / np.arange(1, len(population) + 1)
    broken, found = 0, 0
    for _ in range(200):
        confidences = generator.beta(3, 0.6, 300)
        threshold = fit_threshold(flat(confidences, generator.random(300) < confidences), 0.05, delta)
        if threshold is not None:
            found += 1
            broken += risks[(population >= threshold).sum() - 1] > 0.05
    assert found > 100
    assert broken / 200 <= delta + 0.02


def test_levels_above_answer_photographs_whose_class_is_unsure() -> None:
    generator = np.random.default_rng(3)
    probabilities = np.zeros((300, len(TREE)))
    probabilities[:, :3] = generator.dirichlet(np.ones(3), 300) * 0.97  # surely an apple, but which?
    probabilities[:, 3:] = 0.01
    classes = np.array([generator.choice(len(TREE), p=row / row.sum()) for row in probabilities])
    options = options_of(probabilities, classes, TREE)
    threshold = fit_threshold(options, 0.1, 0.1)
    assert threshold is not None
    levels = decide(options, threshold).level
    assert (levels == 1).mean() > 0.5 and (levels == ABSTAINED).sum() == 0
    assert fit_threshold(options.rows(np.arange(300)), 0.1, 0.1) == threshold
    classes_only = Options(options.probability[:, :1], options.correct[:, :1])
    alone = fit_threshold(classes_only, 0.1, 0.1)
    assert alone is None or (decide(classes_only, alone).level == 0).mean() < 0.5


def test_photographs_of_one_occasion_count_for_fewer() -> None:
    groups = np.repeat(np.arange(50), 6)
    alike = np.repeat(np.random.default_rng(0).random(50) < 0.7, 6)
    assert design_effect(alike, groups) == pytest.approx(6)  # a group is right or wrong as one
    apart = np.random.default_rng(1).random(300) < 0.7
    assert 1 <= design_effect(apart, groups) < 1.3
    assert design_effect(apart, np.arange(300)) == 1
    assert design_effect(np.ones(300, bool), groups) == pytest.approx(6)  # nothing tells them apart
    assert 2 < design_effect(np.where(np.arange(300) % 6 < 3, alike, apart), groups) < 4


def test_the_risk_is_kept_where_photographs_come_in_bursts() -> None:
    generator = np.random.default_rng(9)
    population = np.sort(generator.beta(3, 0.6, 100_000))[::-1]
    risks = np.cumsum(1 - population) / np.arange(1, len(population) + 1)
    groups = np.repeat(np.arange(200), 5)
    broken = {True: 0, False: 0}
    for _ in range(100):
        scenes = generator.beta(3, 0.6, 200)
        confidences, correct = scenes[groups], (generator.random(200) < scenes)[groups]
        for counted in broken:
            effect = design_effect(correct, groups) if counted else 1.0
            threshold = fit_threshold(flat(confidences, correct), 0.05, 0.1, effect)
            broken[counted] += threshold is not None and risks[(population >= threshold).sum() - 1] > 0.05
    assert broken[True] <= 12 < broken[False]
