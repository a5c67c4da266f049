"""Answers before and after: what is counted as lost, gained and moved, and what the change rests on."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.parity_accuracy import Picture, accuracy_of
from fgr_edge.calibrate.parity_document import Accuracy
from fgr_edge.evaluate.paired import difference_interval, mcnemar_p
from fgr_edge.runtime.labels import LabelSet

LABELS = LabelSet.from_names(["Ember Finch", "Slate Warbler", "Moss Kingfisher"])


def scores(answers: list[int], sure: float = 0.8) -> np.ndarray:
    """Log-probabilities of answers that are named with probability `sure`."""
    shares = np.full((len(answers), len(LABELS)), (1 - sure) / 2)
    shares[np.arange(len(answers)), answers] = sure
    logs: np.ndarray = np.log(shares)
    return logs


def compared(truths: list[int], before: list[int], after: list[int]) -> Accuracy:
    pictures = [Picture(f"{number:02x}", f"{number}.jpg", truth) for number, truth in enumerate(truths)]
    return accuracy_of("direct", pictures, scores(before, 0.7), scores(after, 0.8), LABELS)


def test_flips_are_told_apart_by_direction() -> None:
    found = compared([0, 1, 2, 0, 1], [0, 1, 0, 1, 1], [0, 2, 2, 2, 1])
    assert [(flip["sha256"], flip["kind"]) for flip in found["flips"]] == [
        ("01", "lost"),
        ("02", "gained"),
        ("03", "moved"),
    ]
    lost = found["flips"][0]
    assert (lost["truth"], lost["original"]["label"], lost["bundle"]["label"]) == (
        "Slate Warbler",
        "Slate Warbler",
        "Moss Kingfisher",
    )
    assert lost["bundle"]["probability"] == pytest.approx(0.8)
    assert lost["bundle"]["truth_probability"] == pytest.approx(0.1)


def test_the_change_has_its_paired_interval_and_test() -> None:
    truths = [0] * 40
    found = compared(truths, [0] * 40, [0] * 34 + [1] * 6)
    assert (found["lost"], found["gained"]) == (6, 0)
    assert found["difference"] == pytest.approx(-0.15)
    assert found["difference_95"] == difference_interval(34, 6, 0, 0)
    assert found["mcnemar_p"] == mcnemar_p(6, 0) < 0.05
    assert found["original"]["top_1"]["right"] == 40 and found["bundle"]["top_1"]["right"] == 34


def test_the_log_likelihood_falls_where_the_right_class_loses_probability() -> None:
    found = compared([0] * 30, [0] * 30, [0] * 15 + [1] * 15)
    expected = (15 * np.log(0.8) + 15 * np.log(0.1)) / 30 - np.log(0.7)
    assert found["log_likelihood_change"] == pytest.approx(expected)
    low, high = found["log_likelihood_change_95"]
    assert low < expected < high < 0


def test_every_picture_can_be_asked_again_by_its_digest() -> None:
    found = compared([0, 1], [0, 1], [0, 2])
    assert found["answers"]["01"] == {
        "path": "1.jpg",
        "truth": "Slate Warbler",
        "original": {
            "label": "Slate Warbler",
            "probability": pytest.approx(0.7),
            "truth_probability": pytest.approx(0.7),
        },
        "bundle": {
            "label": "Moss Kingfisher",
            "probability": pytest.approx(0.8),
            "truth_probability": pytest.approx(0.1),
        },
    }
