"""The confusion picture: counts, an order that puts the confused side by side, and a drawing that is well formed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from fgr_edge.evaluate.confusion import Confusion, affinity, arrange, clusters, confused_pairs
from fgr_edge.evaluate.confusion_picture import MOST_CLASSES, draw
from fgr_edge.runtime.labels import Label, LabelSet

FLAT = LabelSet.from_names([f"class {i}" for i in range(6)])


def confusion(pairs: Sequence[tuple[int, int | None, int]], labels: LabelSet = FLAT) -> Confusion:
    return Confusion.of([(t, a) for t, a, count in pairs for _ in range(count)], labels)


def test_pairs_are_counted_and_no_answer_has_its_own_column() -> None:
    got = confusion([(0, 0, 3), (0, 5, 2), (1, None, 4)])
    assert got.counts.shape == (6, 7) and got.counts.sum() == 9
    assert (got.counts[0, 0], got.counts[0, 5], got.counts[1, 6]) == (3, 2, 4)


def test_the_most_often_confused_come_first_and_right_answers_not_at_all() -> None:
    got = confused_pairs(confusion([(0, 0, 9), (0, 1, 2), (1, 0, 2), (2, None, 3), (3, 3, 5)]))
    assert [(p.truth, p.answer, p.count, p.of) for p in got] == [(2, None, 3, 3), (1, 0, 2, 2), (0, 1, 2, 11)]


def test_classes_taken_for_each_other_stand_side_by_side() -> None:
    # A chain 0-3-5 and a pair 1-4; class 2 is never confused.
    got = confusion([(i, i, 10) for i in range(6)] + [(0, 3, 5), (3, 5, 6), (4, 1, 7)])
    arrangement = arrange(got, 100)
    assert sorted(arrangement.order) == list(range(6))
    neighbours = {frozenset(pair) for pair in pairwise(arrangement.order)}
    assert {frozenset((0, 3)), frozenset((3, 5)), frozenset((1, 4))} <= neighbours
    framed = [set(arrangement.order[start : start + size]) for start, size, _ in arrangement.blocks]
    assert {0, 3, 5} in framed and {1, 4} in framed and len(framed) == 2


def test_hidden_blocks_are_found_again_in_any_order() -> None:
    rng = np.random.default_rng(0)
    block = rng.permutation(40) // 5  # eight blocks of five classes, scattered
    counts = np.where(block[:, None] == block[None], rng.integers(1, 6, (40, 40)), 0)
    counts[np.arange(40), rng.integers(0, 40, 40)] += 1  # noise
    got = clusters(affinity(counts), 0.1)
    assert sorted(i for group in got for i in group) == list(range(40))
    assert [len(group) for group in got] == [5] * 8
    assert all(len(set(block[group])) == 1 for group in got)


def test_classes_of_one_parent_stay_together_and_are_framed_by_name() -> None:
    labels = LabelSet(
        (Label("a", "As"), Label("x", "Xs"), Label("b", "As"), Label("y", "Xs"), Label("c", "As"), Label("alone"))
    )
    got = arrange(confusion([(0, 1, 3), (0, 4, 1), (2, 2, 1), (3, 3, 1), (5, 5, 1)], labels), 100)
    by_name = {name: {labels.names[i] for i in got.order[start : start + size]} for start, size, name in got.blocks}
    assert by_name == {"As": {"a", "b", "c"}, "Xs": {"x", "y"}}


def test_what_is_neither_shown_nor_answered_is_not_drawn() -> None:
    assert set(arrange(confusion([(0, 0, 1), (1, 4, 1)]), 100).order) == {0, 1, 4}


def test_of_too_many_classes_the_most_confused_are_drawn() -> None:
    labels = LabelSet.from_names([f"class {i}" for i in range(200)])
    got = confusion([(i, i, 2) for i in range(200)] + [(i, 199 - i, 1) for i in range(30)], labels)
    arrangement = arrange(got, MOST_CLASSES)
    assert len(arrangement.order) == MOST_CLASSES and arrangement.left_out == 80
    assert set(range(30)) <= set(arrangement.order)
    assert "80 less confused classes are not drawn" in draw(got)


def test_the_drawing_is_well_formed_and_every_count_can_be_pointed_at() -> None:
    labels = LabelSet.from_names(["Ham & <Eggs>", 'The "Best"', "plain"])
    svg = draw(confusion([(0, 0, 12), (0, 1, 3), (1, None, 2)], labels))
    root = ElementTree.fromstring(svg)
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert titles == [
        "Ham & <Eggs> → Ham & <Eggs>: 12 of 15 (80%)",
        'Ham & <Eggs> → The "Best": 3 of 15 (20%)',
        'The "Best" → (no class named): 2 of 2 (100%)',
    ]


def test_mistakes_and_right_answers_have_their_own_colours_that_deepen_with_the_logarithm() -> None:
    svg = draw(confusion([(0, 0, 100), (0, 1, 1), (0, 2, 10), (0, 3, 100)]))
    cells = re.findall(r'class="cell".*?rgb\((\d+),(\d+),(\d+)\)"><title>class 0 → class (\d)', svg)
    colour = {int(answer): np.array([int(r), int(g), int(b)]) for r, g, b, answer in cells}
    assert colour[0][2] > colour[0][0], "right is blue"
    assert colour[3][0] > colour[3][2], "mistaken is red"
    assert colour[2] == pytest.approx((colour[1] + colour[3]) / 2, abs=1), "10 lies halfway from 1 to 100"


def test_an_evaluation_without_mistakes_is_drawn() -> None:
    assert ElementTree.fromstring(draw(confusion([(0, 0, 1)]))) is not None
