"""Label tries: what is merged, what is kept apart, and that the order of the labels changes nothing."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgr_edge.errors import LabelError
from fgr_edge.runtime.label_trie.trie import LabelTrie

END = 9


def trie_of(*texts: str) -> LabelTrie:
    """One token a character, the closing token after them."""
    return LabelTrie.build([[*map(ord, text), END] for text in texts], texts)


def text_at(trie: LabelTrie, node: int) -> str:
    return "".join(chr(trie.tokens[n]) for n in trie.path(node) if trie.tokens[n] != END)


def test_common_beginnings_are_one_path() -> None:
    trie = trie_of("Royal Gala", "Royal", "Pink")
    # Root, "Royal Gala" and "Pink" by letters, and three closing tokens.
    assert len(trie) == 1 + 10 + 4 + 3
    assert [text_at(trie, leaf) for leaf in trie.leaf_of] == ["Royal Gala", "Royal", "Pink"]
    assert trie.form_of[trie.leaf_of].tolist() == [0, 1, 2]
    assert trie.forms_below[0] == 3
    royal = trie.path(int(trie.leaf_of[1]))[-2]
    assert trie.forms_below[royal] == 2
    assert trie.tokens[trie.children_of(royal)].tolist() == [END, ord(" ")]


def test_inner_nodes_are_those_with_children_but_the_root() -> None:
    trie = trie_of("ab", "ac", "b")
    assert [text_at(trie, node) for node in trie.inner] == ["a", "ab", "ac", "b"]
    assert set(trie.inner) | set(trie.leaf_of) | {0} == set(range(len(trie)))
    assert [len(level) for level in trie.levels] == [2, 3, 2]


def test_case_and_leading_spaces_are_other_tokens() -> None:
    names = ["gala", "Gala", " gala", "  gala", "GALA", "gala "]
    trie = trie_of(*names)
    assert [text_at(trie, leaf) for leaf in trie.leaf_of] == names


def test_a_single_label_is_a_path() -> None:
    trie = trie_of("Kiwi")
    assert trie.parents.tolist() == [-1, 0, 1, 2, 3, 4]
    assert trie.inner.tolist() == [1, 2, 3, 4] and trie.leaf_of.tolist() == [5]


def test_a_single_token_has_no_inner_node() -> None:
    trie = LabelTrie.build([[7]], ["x"])
    assert len(trie) == 2 and trie.inner.tolist() == [] and trie.children_of(0).tolist() == [1]


SEQUENCES = st.lists(st.lists(st.integers(10, 13), min_size=1, max_size=6), min_size=1, max_size=20, unique_by=tuple)


@given(SEQUENCES, st.randoms(use_true_random=False))
def test_the_order_of_the_labels_changes_no_node(sequences: list[list[int]], random: object) -> None:
    closed = [[*ids, END] for ids in sequences]
    order = list(range(len(closed)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first = LabelTrie.build(closed, [""] * len(closed))
    second = LabelTrie.build([closed[i] for i in order], [""] * len(closed))
    for field in dataclasses.fields(LabelTrie):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "leaf_of":
            a = a[order]
        if field.name == "levels":
            assert [level.tolist() for level in a] == [level.tolist() for level in b]
        elif field.name != "form_of":
            np.testing.assert_array_equal(a, b)


@given(SEQUENCES)
def test_every_sequence_is_the_path_to_its_leaf(sequences: list[list[int]]) -> None:
    closed = [[*ids, END] for ids in sequences]
    trie = LabelTrie.build(closed, [""] * len(closed))
    for ids, leaf in zip(closed, trie.leaf_of, strict=True):
        path = trie.path(int(leaf))
        assert trie.tokens[path].tolist() == ids
        assert trie.depths[path].tolist() == list(range(1, len(ids) + 1))
        for parent, child in zip([0, *path], path, strict=False):
            assert child in trie.children_of(parent) and trie.parents[child] == parent
    # Preorder, children by their tokens, no two alike.
    assert (trie.parents[1:] < np.arange(1, len(trie))).all()
    for node in range(len(trie)):
        assert (np.diff(trie.tokens[trie.children_of(node)]) > 0).all()
        assert trie.forms_below[node] == max(1, trie.forms_below[trie.children_of(node)].sum())
        below = [other for other in range(len(trie)) if node in trie.path(other) or node == 0]
        assert below == list(range(node, trie.ends[node]))


@pytest.mark.parametrize(
    "sequences",
    [
        [[1, 2], [3], [1, 2]],  # the same
        [[1, 2], [3], [1, 2, 4]],  # one goes on where the other ends
        [[1, 2, 4], [3], [1, 2]],
    ],
)
def test_labels_that_their_tokens_do_not_tell_apart_are_both_named(sequences: list[list[int]]) -> None:
    with pytest.raises(LabelError, match=r"labels '(Royal|Gala)' and '(Royal|Gala)' cannot be told apart") as caught:
        LabelTrie.build(sequences, ["Royal", "Pink", "Gala"])
    assert "'Royal'" in str(caught.value) and "'Gala'" in str(caught.value)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(LabelError, match="'Royal'"):
        LabelTrie.build([[], [1]], ["Royal", "Gala"])


def test_100_000_labels_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(10, 3000, (100_000, 4))
    sequences = [[*ids, 3000 + i % 500, END] for i, ids in enumerate(words.tolist())]
    names = [str(i) for i in range(len(sequences))]
    tracemalloc.start()
    try:
        trie = LabelTrie.build(sequences, names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(trie.leaf_of) == 100_000 and len(trie) > 400_000
    assert peak < 100e6, "64 MB measured, of which 29 MB are kept"
