"""Drafts are what the text, or earlier texts, say comes next: the likeliest first, bounded, and never certain."""

from __future__ import annotations

import pytest

from fgr_edge.runtime.drafts import LONGEST, Draft, Drafter
from fgr_edge.runtime.ngrams import NgramTable, context_keys


def drafter(*texts: list[int], prompt: list[int] | None = None, branches: int = 4) -> Drafter:
    def known() -> NgramTable:
        table = NgramTable()
        for text in texts:
            table.add(text)
        return table

    made = Drafter(known, branches=branches)
    made.begin(prompt or [])
    return made


def branches_of(draft: Draft) -> set[tuple[int, ...]]:
    """Every path from the end of the text."""
    paths: list[tuple[int, ...]] = []
    for parent, token in zip(draft.parents, draft.tokens, strict=True):
        assert parent < len(paths), "parents come first"
        paths.append((*(() if parent < 0 else paths[parent]), token))
    return set(paths)


def test_an_earlier_text_is_guessed_to_its_end() -> None:
    made = drafter([5, 6, 7, 8, 9])
    made.take(5)
    draft = made.draft(20)
    assert (draft.tokens, draft.parents, draft.is_chain) == ([6, 7, 8, 9], [-1, 0, 1, 2], True)
    assert made.draft(2).tokens == [6, 7]


def test_a_text_repeats_itself_and_its_prompt() -> None:
    made = drafter(prompt=[1, 2, 3])
    assert made.draft(4).tokens == []
    for token in (9, 1, 2):
        made.take(token)
    assert made.draft(4).tokens[0] == 3
    for token in (3, 40, 41, 9, 1, 2, 3):
        made.take(token)
    assert made.draft(1).tokens == [40]


def test_two_continuations_are_two_branches_and_a_chain_takes_the_likelier() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 5, 6]]
    made, chain = drafter(*texts), drafter(*texts, branches=1)
    for one in (made, chain):
        one.take(1)
        one.take(2)
    assert branches_of(made.draft(20)) == {(3,), (3, 4), (5,), (5, 6)}
    assert branches_of(chain.draft(20)) == {(3,), (3, 4)}
    assert not made.draft(20).is_chain and chain.draft(20).is_chain


def test_shares_fall_along_a_branch_and_the_likeliest_come_first() -> None:
    made = drafter([1, 2, 3, 4, 5], [1, 2, 3, 6, 7], [1, 8, 3, 4, 5])
    made.take(1)
    draft = made.draft(50)
    assert draft.shares == sorted(draft.shares, reverse=True)
    assert min(draft.shares) > 0 and max(draft.shares) < 1
    for parent, share in zip(draft.parents, draft.shares, strict=True):
        assert parent < 0 or share < draft.shares[parent]
    siblings = [share for parent, share in zip(draft.parents, draft.shares, strict=True) if parent < 0]
    assert sum(siblings) < 1


def test_a_habit_is_believed_more_than_what_was_seen_once() -> None:
    once, often = drafter([1, 2, 3]), drafter(*[[1, 2, 3]] * 20)
    for one in (once, often):
        one.take(1)
    assert once.draft(1).shares[0] < 0.7 < 0.94 < often.draft(1).shares[0]


def test_the_longer_context_decides() -> None:
    made = drafter(*[[1, 2, 3]] * 9, [7, 2, 4])
    for token in (7, 2):
        made.take(token)
    assert made.draft(1).tokens == [4]


def test_a_finished_text_is_learned_and_an_abandoned_one_is_not() -> None:
    made = drafter()
    for token in (1, 2, 3):
        made.take(token)
    made.begin([])
    made.take(1)
    assert made.draft(5).tokens == []
    for token in (4, 5):
        made.take(token)
    made.finish()
    made.begin([])
    made.take(1)
    assert made.draft(5).tokens == [4, 5]


def test_what_was_learned_can_be_forgotten_and_what_was_known_before_stays() -> None:
    made = drafter([7, 8, 9])
    for token in (1, 2, 3):
        made.take(token)
    made.finish()
    made.forget()
    made.begin([])
    made.take(1)
    assert made.draft(5).tokens == []
    made.take(7)
    assert made.draft(5).tokens == [8, 9]


def test_a_text_that_goes_on_after_it_was_finished_is_learned_once() -> None:
    made = drafter()
    made.take(1)
    made.take(2)
    made.finish()
    made.take(3)
    made.finish()
    assert made._table is not None
    assert made._table.after(context_keys([1])[0]) == {2: 1}


def test_a_prompt_is_not_learned() -> None:
    made = drafter(prompt=[1, 2, 3])
    made.take(4)
    made.finish()
    made.begin([])
    made.take(1)
    assert made.draft(5).tokens == []


def test_a_loop_is_followed_no_further_than_the_longest_branch() -> None:
    made = drafter(*[[1] * 400] * 50)
    made.take(1)
    assert len(made.draft(1000).tokens) <= LONGEST


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_draft_grows_as_long_as_it_is_told_to(stop: int) -> None:
    asked: list[tuple[int, float, float]] = []

    def grow(tokens: int, expected: float, share: float) -> bool:
        asked.append((tokens, expected, share))
        return tokens < stop

    made = drafter([1, 2, 3, 4, 5, 6])
    made.take(1)
    draft = made.draft(9, grow)
    assert len(draft.tokens) == stop
    assert [tokens for tokens, _, _ in asked] == list(range(stop + 1))
    assert asked[-1][1] == pytest.approx(sum(draft.shares))


def test_what_came_before_is_counted_when_the_first_text_begins() -> None:
    made: list[int] = []

    def known() -> NgramTable:
        made.append(1)
        return NgramTable()

    drafts = Drafter(known)
    assert not made
    drafts.begin([])
    drafts.begin([])
    assert made == [1]
