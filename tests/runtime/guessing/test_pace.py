"""Calls have the rows that are worth their time, as measured; guessing that does not pay is left out for a while."""

from __future__ import annotations

import pytest

from fgr_edge.runtime.guessing.pace import ROWS, Pace, Profit, padded


def measured(seconds: dict[int, float]) -> Pace:
    pace = Pace()
    for rows, taken in seconds.items():
        for _ in range(5):
            pace.add(rows, taken)
    pace.reckon()
    return pace


def size(pace: Pace, share: float) -> int:
    """Rows of a call whose guesses all have this probability."""
    shares: list[float] = []
    while len(shares) < ROWS[-1] - 1 and share >= pace.worth[len(shares)]:
        shares.append(share)
    return pace.rows(shares)


def test_calls_are_of_few_even_sizes() -> None:
    assert all(rows % 2 == 0 for rows in ROWS)
    assert [padded(rows) for rows in (1, 2, 3, 5, 32)] == [2, 2, 4, 6, 32]


def test_rows_that_cost_nothing_are_all_used() -> None:
    assert size(measured(dict.fromkeys((1, *ROWS), 1.0)), 0.1) == ROWS[-1]


def test_rows_that_cost_as_much_as_calls_are_not_used() -> None:
    assert size(measured({rows: float(rows) for rows in (1, *ROWS)}), 0.7) == 1


def test_a_step_in_the_cost_is_where_drafts_end() -> None:
    pace = measured({1: 1.0, 2: 1.0, 4: 1.05, 6: 1.1, 8: 1.15, 12: 3.5, 16: 4.5, 24: 7.0, 32: 9.0})
    for _ in range(50):
        pace.wrote(4, 0.8)
    pace.reckon()
    assert size(pace, 0.6) == 8


def test_unlikely_guesses_end_a_draft() -> None:
    pace = measured({rows: 1 + 0.05 * rows for rows in (1, *ROWS)})
    assert size(pace, 0.01) == 1 < size(pace, 0.3)


def test_guesses_that_do_not_hold_are_believed_less() -> None:
    pace = measured({rows: 1 + 0.2 * rows for rows in (1, *ROWS)})
    before = size(pace, 0.4)
    for _ in range(20):
        pace.guessed(3.0, 0)
    pace.reckon()
    assert size(pace, 0.4) < before
    for _ in range(400):
        pace.guessed(0.0, 0)
    pace.reckon()
    assert size(pace, 0.4) == before, "after a while without any, guesses are tried again"


def test_a_call_that_no_guess_is_worth_has_one_row() -> None:
    pace = measured({rows: 1 + 0.05 * rows for rows in (1, *ROWS)})
    assert pace.rows([]) == 1
    assert pace.rows([0.001]) == 1
    assert pace.rows([0.9, 0.001]) == 2, "the rest is left out"


def test_where_tokens_come_fast_a_row_must_hold_more() -> None:
    seconds = {rows: 1 + 0.1 * rows for rows in (1, *ROWS)}
    slow, fast = measured(seconds), measured(seconds)
    for _ in range(50):
        fast.wrote(8, 2.0)
    fast.reckon()
    assert size(fast, 0.2) < size(slow, 0.2)


def test_the_time_that_guessing_takes_counts() -> None:
    seconds = {rows: 1 + 0.02 * rows for rows in (1, *ROWS)}
    quick, slow = measured(seconds), measured(seconds)
    for _ in range(1000):
        quick.drafted(8, 1e-6)
        slow.drafted(8, 2.4)
    slow.reckon()
    assert size(slow, 0.25) < size(quick, 0.25)


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
    assert pace.seconds(2) == pytest.approx(2.0, rel=0.15)
    assert 4.0 < pace.seconds(12) < 8.0


# Whether guessing pays


def known() -> Profit:
    profit = Profit()
    for _ in range(30):
        profit.plain(1.0)
    return profit


def tokens_until_rest(profit: Profit, tokens: int, seconds: float, most: int = 1000) -> int:
    written = 0
    while not profit.rest and written < most:
        profit.guessed(tokens, seconds)
        written += tokens
    return written


def test_guesses_that_pay_go_on() -> None:
    assert tokens_until_rest(known(), 3, 2.0) >= 1000


def test_guesses_that_cost_more_than_they_gain_are_left_out_soon_and_longer_each_time() -> None:
    profit, rests = known(), []
    for _ in range(3):
        assert tokens_until_rest(profit, 2, 3.0) <= 24
        rests.append(profit.rest)
        profit.rest = 0
    assert rests == [rests[0], 2 * rests[0], 4 * rests[0]]


def test_little_is_lost_where_guesses_never_pay() -> None:
    profit, seconds, tokens = known(), 0.0, 0
    while tokens < 10_000:
        if profit.rests(1):
            profit.plain(1.0)
            seconds += 1.0
        else:
            profit.guessed(1, 1.5)
            seconds += 1.5
        tokens += 1
    assert seconds < 1.01 * tokens


def test_what_was_gained_pays_for_what_is_computed_again() -> None:
    profit = known()
    for _ in range(40):
        profit.guessed(3, 1.5)
    profit.guessed(1, 31.0, again=30)
    assert not profit.rest


def test_one_disturbed_call_is_no_reason_to_rest() -> None:
    profit = known()
    profit.guessed(2, 1000.0)
    assert not profit.rest


def test_a_rest_ends_when_texts_have_become_familiar() -> None:
    profit = known()
    tokens_until_rest(profit, 1, 2.0)
    tokens_until_rest(profit, 1, 2.0)
    profit.learned(0.0)
    assert profit.rest
    for _ in range(10):
        profit.learned(0.5)
    assert not profit.rest


def test_what_a_plain_token_takes_is_measured_again_when_a_text_begins() -> None:
    profit = known()
    profit.begin()
    assert not profit.rest
    for _ in range(100):
        profit.guessed(3, 1.5)
    profit.begin()
    assert profit.rest > 0 and not profit.is_measured
    while profit.rests(1):
        profit.plain(0.4)
    assert tokens_until_rest(profit, 3, 1.5) < 1000, "the machine has become faster"
