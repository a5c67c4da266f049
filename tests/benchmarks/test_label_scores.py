"""The benchmark of label scores: its names, its ways of scoring, its ratios."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import label_names, label_scores
from fgr_edge import Recognizer
from fgr_edge.runtime.labels import LabelSet


def test_names_differ_and_do_not_change() -> None:
    found = label_names.names(20_000)
    assert len({name.casefold() for name in found}) == 20_000
    assert found[:1000] == label_names.names(1000)
    with pytest.raises(ValueError, match="expected at most so many"):
        label_names.names(200_000)


def test_every_way_is_timed_and_compared(nano_bundle: Callable[..., Path], birds: Callable[[int], list[Path]]) -> None:
    recognizer = Recognizer(nano_bundle("fp32"), ["any"], threads=1)
    labels = LabelSet.from_names(label_names.names(12))
    row = label_scores.measure(label_scores.open_case(recognizer, "12", labels, 100), birds(2), 1)
    assert set(row["ways_ms"]) == {"best", "full", *label_scores.PREFILLS, "cached", "whole"}
    assert all(value["p50"] > 0 for value in row["ways_ms"].values())
    assert row["inner_nodes"] >= row["best_nodes"]["p50"] > 0 and row["best_rest"]["p50"] <= 0.01
    ratios = label_scores.with_ratios(row)["ratios"]
    assert ratios["whole_of_best"] == pytest.approx(
        row["ways_ms"]["whole"]["p50"] / row["ways_ms"]["best"]["p50"], rel=1e-2
    )


def test_full_scores_of_long_lists_are_left_out(nano_bundle: Callable[..., Path]) -> None:
    recognizer = Recognizer(nano_bundle("fp32"), ["any"], threads=1)
    case = label_scores.open_case(recognizer, "12", LabelSet.from_names(label_names.names(12)), 11)
    assert set(label_scores.ways(case, passes=True, scores=[])) == {"best", "cached", "whole"}
    assert set(label_scores.ways(case, passes=False, scores=[])) == {"best"}
