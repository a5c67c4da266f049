"""Successors of contexts are counted; the table stays within its bound, and keeps what recurs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from fgr_edge.runtime.guessing.ngrams import KEPT_SHARE, LENGTHS, ORDER, NgramTable


def successors(table: NgramTable, *context: int) -> dict[int, int]:
    return dict(table.after(hash(context)))


def test_successors_are_counted_after_contexts_of_every_length() -> None:
    table = NgramTable()
    table.add(range(20, 40))
    for length in LENGTHS:
        assert successors(table, *range(30 - length, 30)) == {30: 1}
    assert successors(table, 27, 28, 29) == {}, "no length that is counted"
    assert successors(table, 50) == {}
    assert list(LENGTHS) == sorted(LENGTHS, reverse=True) and LENGTHS[0] == ORDER


def test_shorter_contexts_count_what_the_longer_one_did_not_know() -> None:
    table = NgramTable()
    for _ in range(3):
        table.add([1, 2, 3])
    table.add([9, 2, 3])
    table.add([9, 2, 4])
    assert successors(table, 1, 2) == {3: 3}
    assert successors(table, 9, 2) == {3: 1, 4: 1}
    assert successors(table, 2) == {3: 2, 4: 1}, "after 1 and after 9, however often"


def test_what_was_known_is_told_and_what_changed_is_named() -> None:
    table = NgramTable()
    text = list(range(20, 40))
    assert table.add(text) == 0
    assert set(table.changed) == set(table.contexts)
    for _ in range(5):
        table.changed.clear()
        assert table.add(text) == len(text) - ORDER, "those that have a context of the longest kind"
    assert hash(tuple(text[:ORDER])) not in table.changed, "seen often"
    table.changed.clear()
    assert table.add([*text[:ORDER], 99]) == 0
    assert hash(tuple(text[:ORDER])) in table.changed


def test_tokens_before_the_start_are_context_only() -> None:
    table = NgramTable()
    table.add([1, 2, 3], start=2)
    assert successors(table, 1) == {}
    assert successors(table, 2) == successors(table, 1, 2) == {3: 1}


def test_the_largest_token_ids_keep_their_counts() -> None:
    table = NgramTable()
    for _ in range(5000):
        table.count((11,), 262143)
    assert table.only_after(hash((11,))) == (262143, 5000)
    table.count((11,), 0)
    assert successors(table, 11) == {262143: 5000, 0: 1}
    assert table.only_after(hash((11,))) is None


def test_a_full_table_forgets_old_contexts_that_did_not_recur() -> None:
    table = NgramTable(most=600)
    habit = list(range(1000, 1040))
    table.add(habit)
    table.add(habit)
    tokens = np.random.default_rng(0).integers(0, 900, 400).tolist()
    for start in range(0, 400, 20):
        table.add(tokens[start : start + 20])
        assert len(table) <= 600
    assert len(table) >= KEPT_SHARE * 600 - ORDER
    assert successors(table, *range(1000, 1008)) == {1008: 2}, "seen twice"
    assert successors(table, *tokens[:4]) == {}, "seen once, and first"
    assert successors(table, *tokens[-5:-1]) == {tokens[-1]: 1}, "seen last"


def test_a_table_of_nothing_but_habits_stays_within_its_bound() -> None:
    table = NgramTable(most=100)
    for start in range(0, 1000, 10):
        for _ in range(2):
            table.add(range(start, start + 10))
    assert len(table) <= 100


def test_the_same_texts_leave_the_same_table_in_every_process() -> None:
    program = (
        "from fgr_edge.runtime.guessing.ngrams import NgramTable as T; t = T(50)\n"
        "for i in range(9): t.add([i * j % 31 for j in range(40)])\n"
        "print(list(t.contexts.items()))"
    )
    said = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(said) == 1 and len(said.pop()) > 500
