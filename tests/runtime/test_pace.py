"""A draft grows where a larger call is worth its time, as measured."""

from __future__ import annotations

import pytest

from fgr_edge.runtime.pace import ROWS, Pace, padded


def measured(seconds: dict[int, float]) -> Pace:
    pace = Pace()
    for rows, taken in seconds.items():
        for _ in range(5):
            pace.add(rows, taken)
    return pace


def size(pace: Pace, share: float) -> int:
    """Rows of a call whose guesses all have this probability."""
    tokens = 0
    while pace.grows(tokens, share * tokens, share):
        tokens += 1
    return tokens + 1


def test_calls_are_of_few_even_sizes() -> None:
    assert all(rows % 2 == 0 for rows in ROWS)
    assert [padded(rows) for rows in (1, 2, 3, 5, 32)] == [2, 2, 4, 6, 32]


def test_rows_that_cost_nothing_are_all_used() -> None:
    assert size(measured(dict.fromkeys((1, *ROWS), 1.0)), 0.1) == ROWS[-1]


def test_rows_that_cost_as_much_as_calls_are_not_used() -> None:
    assert size(measured({rows: float(rows) for rows in (1, *ROWS)}), 0.7) == 2


def test_a_step_in_the_cost_is_where_drafts_end() -> None:
    pace = measured({1: 1.0, 2: 1.0, 4: 1.05, 6: 1.1, 8: 1.15, 12: 3.5, 16: 4.5, 24: 7.0, 32: 9.0})
    assert size(pace, 0.6) == 8


def test_unlikely_guesses_end_a_draft() -> None:
    pace = measured({rows: 1 + 0.05 * rows for rows in (1, *ROWS)})
    assert size(pace, 0.01) == 2 < size(pace, 0.3)


def test_guesses_that_do_not_hold_are_believed_less() -> None:
    pace = measured({rows: 1 + 0.2 * rows for rows in (1, *ROWS)})
    before = size(pace, 0.4)
    for _ in range(200):
        pace.guessed(3.0, 0)
    assert size(pace, 0.4) < before


def test_first_calls_and_outliers_are_not_the_cost_of_a_call() -> None:
    pace = Pace()
    for taken in (50.0, 9.0, 1.0, 1.0, 1000.0, 1.0):
        pace.add(4, taken)
    assert pace.seconds(4) < 1.5


def test_a_size_whose_first_calls_were_disturbed_is_tried_again() -> None:
    pace = measured({1: 1.0, 2: 1.1, 4: 50.0, 8: 1.4})
    assert pace.seconds(4) == pytest.approx(1.4)
    assert measured({1: 1.0, 4: 1.2, 8: 50.0}).seconds(8) == pytest.approx(2.4)


def test_a_size_that_was_not_measured_is_guessed_from_its_neighbour() -> None:
    pace = measured({1: 2.0, 8: 4.0})
    assert pace.seconds(2) == pytest.approx(2.0, rel=0.1)
    assert 4.0 < pace.seconds(12) < 8.0
