"""Drafts are what the text, or earlier texts, say comes next: the likeliest first, bounded, and never certain."""

from __future__ import annotations

import pytest

from fgr_edge.runtime.guessing.drafts import Draft, Drafter
from fgr_edge.runtime.guessing.ngrams import NgramTable


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


def test_what_was_guessed_is_not_counted_for_the_text() -> None:
    made = drafter(prompt=[7])
    for token in (1, 2, 3, 1):
        made.take(token, guessed=True)
    assert made.draft(4).tokens == []
    for token in (2, 3, 1):
        made.take(token)
    assert made.draft(1).tokens == [2]


def test_two_continuations_are_two_branches_and_a_chain_takes_the_likelier() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 5, 6]]
    made, chain = drafter(*texts), drafter(*texts, branches=1)
    for one in (made, chain):
        one.take(1)
        one.take(2)
    assert branches_of(made.draft(20)) == {(3,), (3, 4), (5,), (5, 6)}
    assert branches_of(chain.draft(20)) == {(3,), (3, 4)}
    assert not made.draft(20).is_chain and chain.draft(20).is_chain


def test_a_chain_has_no_branches_where_a_longer_context_knows_one_continuation_alone() -> None:
    made = drafter([1, 2, 3, 4, 5], [7, 3, 9], [8, 3, 9], [6, 3, 9], branches=1)
    for token in (1, 2, 3):
        made.take(token)
    assert made.draft(8).parents == list(range(-1, len(made.draft(8).tokens) - 1))


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
    assert made._table.after(hash((1,))) == {2: 1}


def test_a_prompt_is_not_learned() -> None:
    made = drafter(prompt=[1, 2, 3])
    made.take(4)
    made.finish()
    made.begin([])
    made.take(1)
    assert made.draft(5).tokens == []


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_draft_is_no_longer_than_asked_for(most: int) -> None:
    made = drafter([1, 2, 3, 4, 5, 6])
    made.take(1)
    assert len(made.draft(most).tokens) == most


def test_a_draft_ends_where_a_guess_is_not_worth_it() -> None:
    made = drafter([1, 2, 3, 4, 5, 6])
    made.take(1)
    shares = made.draft(5).shares
    assert made.draft(5, [shares[0], shares[1], 1.0, 0.0, 0.0]).shares == shares[:2]
    assert made.draft(5, [1.0] * 5).tokens == []


def test_the_likeliest_branch_comes_first_and_the_tree_stays() -> None:
    made = drafter(*[[1, 2, 3, 4, 5]] * 9, *[[1, 2, 6, 7, 8]] * 8)
    made.take(1)
    made.take(2)
    draft = made.draft(6)
    assert not draft.is_chain
    for count in (6, 4, 1):
        moved = draft.trunk_first(count)
        some = Draft(draft.tokens[:count], draft.parents[:count], draft.shares[:count])
        assert branches_of(moved) == branches_of(some)
        assert sorted(moved.shares, reverse=True) == some.shares
    assert draft.trunk_first(6).tokens[:3] == [3, 4, 5]
    assert draft.trunk_first(6).parents[:3] == [-1, 0, 1]


def test_a_chain_stays_as_it_is() -> None:
    made = drafter([1, 2, 3, 4, 5])
    made.take(1)
    draft = made.draft(4)
    assert draft.trunk_first(4) == draft
    assert draft.trunk_first(2) == Draft(draft.tokens[:2], draft.parents[:2], draft.shares[:2])


def test_what_is_remembered_of_earlier_texts_follows_what_is_learned() -> None:
    made = drafter(*[[1, 2, 3]] * 3)
    made.take(1)
    made.take(2)
    assert made.draft(1).tokens == [3]
    for _ in range(9):
        made.begin([])
        for token in (1, 2, 4):
            made.take(token)
        made.finish()
    made.begin([])
    made.take(1)
    made.take(2)
    assert made.draft(1).tokens == [4]


def test_finishing_tells_how_much_of_a_text_was_known() -> None:
    made = drafter()
    for expected in (0.0, 0.6):
        made.begin([])
        for token in range(20):
            made.take(token)
        assert made.finish() == pytest.approx(expected)


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
