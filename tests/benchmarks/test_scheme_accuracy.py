"""The accuracy of schemes: paired measures on answers that are known, what bundles share, and the rows of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.results_table import TABLES
from benchmarks.scheme_accuracy import ORIGINAL, VARIANTS, Questions, facts, measure, scores
from benchmarks.scheme_pairs import Floats, against_nearest, against_original, change, divergences
from fgr_edge import Recognizer
from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.export.precisions import find_precision
from fgr_edge.runtime.labels import LabelSet


def sure_of(answers: list[int], confidence: float = 0.9) -> Floats:
    """[N, 3] log-probabilities of a model that gives these answers."""
    shares = np.full((len(answers), 3), (1 - confidence) / 2)
    shares[np.arange(len(answers)), answers] = confidence
    scores: Floats = np.log(shares)
    return scores


def test_divergence_is_the_sum_of_p_log_p_over_q_and_forgets_mass_outside_the_classes() -> None:
    p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.3, 0.5]])
    expected = 0.5 * np.log(0.5 / 0.2) + 0.2 * np.log(0.2 / 0.5)
    np.testing.assert_allclose(divergences(np.log(0.7 * p), np.log(0.1 * q)), [expected])
    np.testing.assert_allclose(divergences(np.log(p), np.log(p) - 3), [0], atol=1e-12)


def test_a_share_before_and_after_counts_each_picture_once() -> None:
    before, after = np.array([1, 1, 1, 0, 0, 0, 0, 1], bool), np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)
    found = change(before, after)
    assert (found["lost"], found["gained"]) == (1, 3)
    assert (found["before_percent"], found["after_percent"], found["difference_points"]) == (50, 75, 25)
    assert found["mcnemar_p"] == pytest.approx(2 * 5 / 16)  # 0 or 1 of 4, both tails
    low, high = found["difference_95_points"]
    assert low < 0 < 25 < high


def test_a_bundle_that_answers_otherwise_but_as_often_right_loses_nothing_and_is_still_further_away() -> None:
    truths = np.array([0, 0, 1, 1, 2, 2])
    found = against_original(truths, sure_of([0, 1, 1, 1, 0, 2]), sure_of([0, 0, 0, 1, 1, 2]))
    assert found["top_1"]["difference_points"] == 0
    assert (found["top_1"]["lost"], found["top_1"]["gained"]) == (1, 1)
    assert found["changed"] == 3  # one of them was wrong, and is wrong otherwise
    low, high = found["kl_nats"]["mean_95"]
    assert 0 <= low < found["kl_nats"]["mean"] < high


def test_the_closer_of_two_bundles_has_the_negative_difference_whatever_is_right() -> None:
    original = sure_of([0, 1, 2] * 10)
    nearest, fitted = sure_of([0, 1, 0] * 10, 0.6), sure_of([0, 1, 2] * 10, 0.8)
    truths = np.array([0, 1, 0] * 10)  # rounding to nearest is right where the original is not
    found = against_nearest(truths, original, nearest, fitted)
    assert found["kl_nats"]["mean_95"][1] < 0
    assert (found["agreement"]["lost"], found["agreement"]["gained"]) == (0, 10)
    assert (found["top_1"]["lost"], found["top_1"]["gained"]) == (10, 0)
    turned = against_nearest(truths, original, fitted, nearest)
    assert turned["kl_nats"]["mean"] == -found["kl_nats"]["mean"]


def test_every_pair_has_one_layout_and_differs_in_the_method_alone() -> None:
    def made(name: str) -> Any:
        variant = VARIANTS[name]
        parts: Any = dict.fromkeys(("vision", "decoder", "head"), variant.everywhere)
        return find_precision(variant.precision, parts, variant.method)

    pairs = [(name, variant.nearest) for name, variant in VARIANTS.items() if variant.nearest is not None]
    assert len(pairs) == 4
    for name, nearest in pairs:
        fitted, rounded = made(name), made(nearest)
        assert fitted.schemes == rounded.schemes
        assert fitted.method != "nearest" and rounded.method == "nearest" and not rounded.calibrated


def test_bundles_of_one_vision_graph_share_what_it_saw_and_answer_as_they_do_alone(
    nano_bundle: Callable[..., Path], birds: Callable[[int], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    see = Recognizer.see

    def counted(self: Recognizer, image: Any) -> Any:
        looks.append(self.bundle.path.name)
        return see(self, image)

    monkeypatch.setattr(Recognizer, "see", counted)
    files, labels = birds(2), LabelSet.from_names(NAMES)
    paths = {name: nano_bundle(name) for name in ("fp32", "int8")} | {"again": nano_bundle("int8")}
    found = scores(paths, Questions("birds", labels, files, np.array([0, 20])), 1)
    assert looks == ["nano-fp32", "nano-int8"] * 2
    for name in ("int8", "again"):
        alone = Recognizer(paths[name], labels, threads=1).evidence(files[1]).log_probs
        np.testing.assert_allclose(found[name][1], alone, atol=1e-5)
    assert np.abs(found["fp32"] - found["int8"]).max() > 1e-4


def test_the_tables_have_a_row_for_each_scheme_and_pair_and_short_ones_fewer(
    nano_bundle: Callable[..., Path], birds: Callable[[int], list[Path]]
) -> None:
    truths = np.array([number * len(SPECIES) // 2 for number in range(2)])
    asked = Questions("birds", LabelSet.from_names(NAMES), birds(2), truths)
    document = {
        "checkpoint": "nano",
        "original": ORIGINAL,
        **measure({"fp32": nano_bundle("fp32"), "int8-channel": nano_bundle("int8")}, [asked], 1),
    }
    document["pairs"] = [
        {
            "fitted": "int4, gptq",
            "nearest": "int4, nearest",
            "data": {"birds": against_nearest(np.array([0]), sure_of([0]), sure_of([1]), sure_of([0]))},
        }
    ]
    results = {"scheme_accuracy_nano": document, "schemes_nano": {"schemes": {}}}
    lines = TABLES["scheme_accuracy"](results).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| fp32", "| int8-channel"]
    assert lines[2].endswith("| 100.0 | - | - | - | - |")
    assert lines[3].split(" | ")[3:6] == ["+0.0 [-65.8, +65.8], p = 1", "0 / 0", "0 of 2"]
    assert len({line.count(" | ") for line in lines}) == 1
    assert len(TABLES["schemes_short"](results).splitlines()) == 3
    (row,) = TABLES["scheme_pairs"](results).splitlines()[2:]
    assert row.startswith("| int4, gptq - nearest | +100.0 [")
    assert "| 0.0 to 100.0, p = 1 | -" in row
    assert TABLES["scheme_accuracy"]({}) == TABLES["scheme_pairs"]({}) == "not measured yet"


def test_bytes_are_of_the_weights_without_the_embedding_table(nano_bundle: Callable[..., Path]) -> None:
    found = facts(nano_bundle("int8"))
    data = [nano_bundle("int8") / f"{part}.onnx.data" for part in ("vision", "decoder")]
    assert found["weights_bytes"] == sum(path.stat().st_size for path in data)
    assert found["calibration_digest"] is None
