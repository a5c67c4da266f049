"""Calibrated probabilities, the decision between class, level above and nothing, and reading confidence.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError, EngineError, LabelError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import CONFIDENCE, Confidence, Decision, best_groups, read_confidence
from fgr_edge.runtime.labels import Label, LabelSet

FRUIT = LabelSet(
    (
        Label("Gala", "Apple"),
        Label("Fuji", "Apple"),
        Label("Conference", "Pear"),
        Label("Onion"),
        Label("Apple", "Fruit"),
        Label("Pear", "Fruit"),
    )
)
SURE = Confidence(2.0, np.zeros(4), 0.8, 0.9, risk=0.05, risk_confidence=0.9, photographs=100, outlier_threshold=3.0)


def write(folder: Path, document: object) -> Bundle:
    """The least that `read_confidence` needs of a bundle: a folder and a manifest that lists the file."""
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / CONFIDENCE).write_text(text, encoding="utf-8")
    return Bundle(folder, {"files": {CONFIDENCE: {"size": 0, "sha256": ""}}})  # type: ignore[typeddict-item]


def document(**changes: Any) -> dict[str, Any]:
    mode = {
        "temperature": 2,
        "bias": {"Fuji": 0.5},
        "accept_probability": 0.8,
        "accept_parent_probability": None,
        "risk": 0.05,
        "risk_confidence": 0.9,
        "photographs": 100,
        "outlier_threshold": None,
        "measured": {"what": "a later version may add"},
    }
    return {"schema_version": 1, "labels_sha256": FRUIT.sha256, "modes": {"direct": {**mode, **changes}}}


def test_probabilities_divide_by_temperature_after_the_prior_correction() -> None:
    log_probs = np.log([0.6, 0.2, 0.1, 0.1])
    plain = Confidence.uncalibrated(4).probabilities(log_probs)
    assert plain == pytest.approx([0.6, 0.2, 0.1, 0.1])
    half = replace(SURE, bias=np.log([3.0, 1.0, 1.0, 1.0])).probabilities(log_probs - 1000)
    weights = np.sqrt([0.2, 0.2, 0.1, 0.1])
    assert half == pytest.approx(weights / weights.sum())


def test_many_pictures_at_once_are_the_same_as_one_by_one() -> None:
    log_probs = np.random.default_rng(0).normal(size=(5, 4)) * 20
    together = SURE.probabilities(log_probs)
    assert together == pytest.approx(np.stack([SURE.probabilities(row) for row in log_probs]))
    assert together.sum(axis=1) == pytest.approx(np.ones(5))


def test_classes_that_were_not_visited_have_probability_zero() -> None:
    found = SURE.probabilities(np.array([-1000.0, -np.inf, -1002.0, -np.inf]))
    assert found.tolist()[1::2] == [0.0, 0.0]
    assert found[0] / found[2] == pytest.approx(np.e)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_log_probabilities_that_are_no_numbers_are_an_engine_error(bad: float) -> None:
    with pytest.raises(EngineError, match="float32"):
        SURE.probabilities(np.array([-1.0, bad, -1.0, -1.0]))
    with pytest.raises(EngineError, match="every class"):
        SURE.probabilities(np.full(4, -np.inf))


def test_scores_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(LabelError, match="3 log-probabilities and a calibration of 4"):
        SURE.probabilities(np.zeros(3))


def test_a_sure_class_is_answered() -> None:
    assert SURE.decide(np.array([0.85, 0.05, 0.05, 0.05]), FRUIT) == Decision("Gala", 0.85, 0, None)
    assert SURE.decide(np.array([0.0, 0.0, 0.2, 0.8]), FRUIT) == Decision("Onion", 0.8, 0, None)


def test_an_unsure_class_backs_off_to_the_nearest_sure_level() -> None:
    apple = SURE.decide(np.array([0.5, 0.45, 0.05, 0.0]), FRUIT)
    assert (apple.label, apple.level) == ("Apple", 1) and apple.probability == pytest.approx(0.95)
    fruit = SURE.decide(np.array([0.35, 0.25, 0.35, 0.05]), FRUIT)
    assert (fruit.label, fruit.level) == ("Fruit", 2) and fruit.probability == pytest.approx(0.95)
    assert SURE.decide(np.array([0.3, 0.2, 0.2, 0.3]), FRUIT) == Decision(None, None, None, "unsure")


def test_the_best_group_need_not_hold_the_best_class() -> None:
    pears = LabelSet((*(Label(f"Apple {i}", "Apple") for i in range(5)), Label("Conference", "Pear")))
    assert best_groups(np.array([0.15] * 5 + [0.25]), pears) == [(1, "Apple", pytest.approx(0.75))]


def test_groups_found_by_stopping_early_are_those_found_by_looking_at_all() -> None:
    generator = np.random.default_rng(3)
    labels = LabelSet(
        tuple(
            Label(f"{group} {i}", f"group {group}" if group else None)
            for group in range(6)
            for i in range(2 * group + 1)
        )
        + tuple(Label(f"group {group}", "even" if group % 2 == 0 else "odd") for group in range(1, 6))
    )
    for _ in range(50):
        shares = generator.dirichlet(np.full(len(labels), 0.2))
        for level, name, mass in best_groups(shares, labels):
            groups = {labels.ancestors(i)[level - 1] for i in range(len(labels)) if len(labels.ancestors(i)) >= level}
            masses = {group: shares[list(labels.groups[group])].sum() for group in groups}
            assert name == max(masses, key=masses.__getitem__) and mass == pytest.approx(masses[name])


def test_an_outlier_is_told_first() -> None:
    certain = np.array([1.0, 0.0, 0.0, 0.0])
    assert SURE.decide(certain, FRUIT, 3.1) == Decision(None, None, None, "outlier")
    assert SURE.decide(certain, FRUIT, 3.0).label == "Gala"
    assert replace(SURE, outlier_threshold=None).decide(certain, FRUIT, 99.0).label == "Gala"
    with pytest.raises(EngineError, match="NaN"):
        SURE.decide(certain, FRUIT, float("nan"))


def test_where_no_threshold_reached_the_risk_nothing_is_accepted() -> None:
    none = replace(SURE, accept_probability=None, accept_parent_probability=None)
    assert none.decide(np.array([1.0, 0.0, 0.0, 0.0]), FRUIT).abstained_because == "unsure"
    parents = replace(SURE, accept_probability=None)
    assert parents.decide(np.array([1.0, 0.0, 0.0, 0.0]), FRUIT).label == "Apple"


def test_without_calibration_every_answer_is_accepted() -> None:
    found = Confidence.uncalibrated(4).decide(np.array([0.3, 0.25, 0.25, 0.2]), FRUIT, 1e9)
    assert found == Decision("Gala", 0.3, 0, None)


def test_a_calibration_is_read_whatever_the_order_of_the_labels(tmp_path: Path) -> None:
    bundle = write(tmp_path, document())
    turned = LabelSet((*FRUIT.labels[::-1], *FRUIT.inner))
    for labels in (FRUIT, turned):
        read = read_confidence(bundle, labels)
        assert list(read) == ["direct"]
        assert dict(zip(labels.names, read["direct"].bias, strict=True))["Fuji"] == 0.5
        assert read["direct"].bias.sum() == 0.5
    assert (read["direct"].accept_probability, read["direct"].accept_parent_probability) == (0.8, None)


def test_a_bundle_without_calibration_has_none(tmp_path: Path) -> None:
    assert read_confidence(Bundle(tmp_path, {"files": {}}), FRUIT) == {}  # type: ignore[typeddict-item]


def test_a_calibration_of_other_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"other labels than these 2.*calibrate-labels"):
        read_confidence(write(tmp_path, document()), LabelSet.from_names(["Gala", "Fuji"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": "2"}, "expected a number"),
        ({"temperature": True}, "expected a number"),
        ({"temperature": 10**400}, "expected a number"),
        ({"temperature": None}, "expected a number"),
        ({"bias": [1.0]}, "object of class names"),
        ({"bias": {"Kiwi": 1.0}}, "'Kiwi'"),
        ({"bias": {"Gala": "x"}}, "Gala"),
        ({"accept_probability": 1.5}, "accept_probability"),
        ({"accept_parent_probability": -0.1}, "accept_parent_probability"),
        ({"risk": 0}, "risk"),
        ({"risk_confidence": 1.0}, "risk_confidence"),
        ({"photographs": 2.5}, "whole number"),
    ],
)
def test_a_calibration_with_nonsense_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=rf"direct: .*{message}.*calibrate-labels"):
        read_confidence(write(tmp_path, document(**changes)), FRUIT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"schema_version": NaN}', "not JSON"),
        ("[]", "schema_version"),
        ('{"schema_version": 99}', "upgrade"),
        ('{"schema_version": 1, "labels_sha256": "x", "modes": {"loud": {}}}', "direct, reason"),
        ('{"schema_version": 1, "labels_sha256": "x"}', "modes"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read_confidence(write(tmp_path, text), FRUIT)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    broken = document()
    del broken["modes"]["direct"]["outlier_threshold"]
    with pytest.raises(BundleError, match="'outlier_threshold'"):
        read_confidence(write(tmp_path, broken), FRUIT)
