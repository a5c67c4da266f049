"""Scores over tries with made-up logits: in full or best-first they are the same, and the bound on the rest holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.label_scores import (
    BEST_FIRST_NODES,
    WORTH_THREADS,
    BestScores,
    Weighting,
    chunk_nodes,
    chunk_room,
    log_normalizers,
    score_all,
    score_best,
)
from fgr_edge.runtime.trie import LabelTrie

VOCAB = 24
END = 0


class MadeUpCalls:
    """`TreeCalls` over a table of logits instead of a decoder; as strict about what may be asked for when.

    Args:
        table: [N, V], of each node.
        room: nodes held until `close`.
    """

    def __init__(self, trie: LabelTrie, table: np.ndarray, room: int = BEST_FIRST_NODES) -> None:
        self.trie, self.table, self.room = trie, table, room
        self.held: set[int] = set()
        self.calls: list[int] = []

    @property
    def left(self) -> int:
        return self.room - len(self.held)

    def close(self) -> None:
        self.held.clear()

    def logits(self, nodes: Sequence[int], wanted: Sequence[int] | None = None) -> np.ndarray:
        assert len(nodes) <= self.left
        for node in nodes:
            assert node in self.trie.inner, "leaves and the root need no logits"
            assert node not in self.held, "asked for twice"
            assert self.trie.parents[node] in self.held | {0}, "a child before its parent"
            self.held.add(node)
        self.calls.append(len(nodes))
        rows = list(nodes) if wanted is None else [nodes[i] for i in wanted]
        return self.table[rows]


def random_trie(rng: np.random.Generator, forms: int, tokens: int = 6) -> LabelTrie:
    """Sequences of up to five of a few tokens, so that many begin alike."""
    sequences: set[tuple[int, ...]] = set()
    while len(sequences) < forms:
        sequences.add(tuple(rng.integers(1, 1 + tokens, rng.integers(1, 6)).tolist()))
    return LabelTrie.build([[*ids, END] for ids in sorted(sequences)], [""] * forms)


def random_table(rng: np.random.Generator, trie: LabelTrie, sharpness: float) -> np.ndarray:
    """Logits of every node; 0 is flat, 8 is sure of itself."""
    return (sharpness * rng.standard_normal((len(trie), VOCAB))).astype(np.float32)


def one_by_one(trie: LabelTrie, table: np.ndarray) -> np.ndarray:
    """Log-probability of each form, token after token, in float64."""
    rows = table.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return np.array([sum(rows[trie.parents[n], trie.tokens[n]] for n in trie.path(int(leaf))) for leaf in trie.leaf_of])


def plain(trie: LabelTrie) -> Weighting:
    """Each form a class of its own, uncalibrated."""
    forms = len(trie.leaf_of)
    return Weighting.build(trie, np.arange(forms), np.zeros(forms), 1.0)


def weights(weighting: Weighting, forms: np.ndarray) -> np.ndarray:
    """Weight of each class before the shares are made to add up to 1."""
    return np.exp((weighting.class_log_probs(forms) - weighting.bias) / weighting.temperature)


def best_of(
    trie: LabelTrie,
    table: np.ndarray,
    weighting: Weighting,
    top_k: int = 1,
    tolerance: float = 0.01,
    room: int = BEST_FIRST_NODES,
) -> BestScores | None:
    calls = MadeUpCalls(trie, table, room)
    found = score_best(trie, table[0], calls, weighting, top_k=top_k, tolerance=tolerance)  # type: ignore[arg-type]
    assert found is None or found.nodes == sum(calls.calls)
    return found


# Full scores


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_full_scores_are_those_of_one_form_after_another_whatever_the_chunk(chunk: int) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        trie = random_trie(rng, 40)
        table = random_table(rng, trie, 3.0)
        calls = MadeUpCalls(trie, table, room=chunk_room(chunk, int(trie.depths.max())))
        found = score_all(trie, table[0], calls, chunk)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, one_by_one(trie, table), atol=1e-5)
        assert not calls.held, "the cache is as it was"


def test_one_long_name_among_short_ones_does_not_cost_a_call_a_node() -> None:
    sequences = [[*[1 + (i * 7 + j) % 20 for j in range(4)], 1 + i // 20, END] for i in range(400)]
    sequences.append([*([21] * 100), END])
    trie = LabelTrie.build(sequences, [""] * len(sequences))
    table = np.zeros((len(trie), VOCAB), np.float32)
    calls = MadeUpCalls(trie, table, room=chunk_room(110, int(trie.depths.max())))
    score_all(trie, table[0], calls, 110)  # type: ignore[arg-type]
    assert len(calls.calls) <= 2 * len(trie.inner) / 110 + 1
    assert sum(calls.calls) < 1.2 * len(trie.inner)


def test_a_trie_without_inner_nodes_needs_no_call() -> None:
    trie = LabelTrie.build([[3], [5]], ["a", "b"])
    table = np.random.default_rng(0).standard_normal((3, VOCAB)).astype(np.float32)
    calls = MadeUpCalls(trie, table)
    np.testing.assert_allclose(score_all(trie, table[0], calls, 16), one_by_one(trie, table), atol=1e-6)  # type: ignore[arg-type]
    assert calls.calls == []


def test_logits_of_a_call_stay_within_their_bytes() -> None:
    assert chunk_nodes(151936) * 151936 * 4 <= 64 * 1024 * 1024 < (chunk_nodes(151936) + 1) * 151936 * 4
    assert chunk_nodes(320) == 512 and chunk_nodes(10**9) == 16


# Numbers


@pytest.mark.parametrize("vocab", [5, 131072, 151936])
def test_normalizers_are_those_of_float64(vocab: int) -> None:
    rows = (20 * np.random.default_rng(0).standard_normal((5, vocab))).astype(np.float32)
    exact = rows.astype(np.float64)
    top = exact.max(axis=1)
    exact = top + np.log(np.exp(exact - top[:, None]).sum(axis=1))
    np.testing.assert_allclose(log_normalizers(rows), exact, atol=1e-5)


def test_normalizers_of_large_logits_do_not_overflow() -> None:
    rows = np.full((2, 4), 3e38, np.float32)
    rows[1] = -3e38
    np.testing.assert_allclose(log_normalizers(rows), [3e38, -3e38], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_no_numbers_are_an_error_wherever_they_are(bad: float) -> None:
    rng = np.random.default_rng(0)
    trie = random_trie(rng, 20)
    for node in (0, int(trie.inner[0]), int(trie.inner[-1])):
        table = random_table(rng, trie, 1.0)
        table[node, 3] = bad
        with pytest.raises(EngineError, match="logits are not finite numbers"):
            score_all(trie, table[0], MadeUpCalls(trie, table), 512)  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="logits are not finite numbers"):
            best_of(trie, table, plain(trie), tolerance=0.0)


@pytest.mark.filterwarnings("error")
def test_a_row_of_minus_infinity_is_an_error() -> None:
    with pytest.raises(EngineError, match="logits are not finite numbers"):
        log_normalizers(np.full((1, 4), -np.inf, np.float32))


# Best first


def weighting_of(rng: np.random.Generator, trie: LabelTrie, temperature: float, *, synonyms: bool) -> Weighting:
    forms = len(trie.leaf_of)
    classes = forms // 3 if synonyms else forms
    class_of = np.concatenate([np.arange(classes), rng.integers(0, classes, forms - classes)])
    return Weighting.build(trie, rng.permutation(class_of), rng.normal(0, 0.7, classes), temperature)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("synonyms", [False, True])
def test_best_first_finds_the_first_classes_and_bounds_the_rest(
    temperature: float, sharpness: float, synonyms: bool
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        trie = random_trie(rng, 60)
        table = random_table(rng, trie, sharpness)
        weighting = weighting_of(rng, trie, temperature, synonyms=synonyms)
        exact = one_by_one(trie, table)
        full = weights(weighting, exact)
        for top_k in (1, 3, 10):
            for tolerance in (0.5, 0.01):
                found = best_of(trie, table, weighting, top_k, tolerance)
                assert found is not None and found.rest <= tolerance
                visited = np.isfinite(found.log_probs)
                np.testing.assert_allclose(found.log_probs[visited], exact[visited], atol=1e-5)
                known = weights(weighting, found.log_probs)
                assert 1 - known.sum() / full.sum() <= found.rest + 1e-6
                if sharpness:  # a flat model has ties
                    first = np.argsort(-known, kind="stable")[:top_k]
                    np.testing.assert_array_equal(first, np.argsort(-full, kind="stable")[:top_k])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_rest_is_bounded_from_the_first_call_on(temperature: float) -> None:
    """Not only at the end: what is stopped early by a large tolerance is bounded too."""
    for seed in range(16):
        rng = np.random.default_rng(seed)
        trie = random_trie(rng, 80, tokens=3)
        table = random_table(rng, trie, rng.choice([0.0, 0.3, 2.0, 10.0]))
        weighting = weighting_of(rng, trie, temperature, synonyms=bool(seed % 2))
        full = weights(weighting, one_by_one(trie, table))
        for tolerance in (0.999, 0.9, 0.3, 1e-4, 0.0):
            found = best_of(trie, table, weighting, 1, tolerance)
            assert found is not None
            unvisited = 1 - weights(weighting, found.log_probs).sum() / full.sum()
            assert unvisited <= found.rest + 1e-6 <= tolerance + 2e-6


@pytest.mark.parametrize("late", [0.005, 0.0])
def test_a_late_synonym_does_not_upset_the_order_of_the_first_classes(late: float) -> None:
    # Class 0 is one form; class 1 is a form a little less likely, and another that comes last: with it, class 1 leads.
    shares = np.array([0.450, 0.447, *[0.0098] * 10, late])  # twelve nodes are a call, the last is left out
    trie = LabelTrie.build([[1 + i, END] for i in range(len(shares))], [""] * len(shares))
    table = np.full((len(trie), VOCAB), -50.0, np.float32)
    table[0, 1 : 1 + len(shares)] = np.log(shares + 1e-9)
    table[1:, END] = 0.0
    weighting = Weighting.build(trie, np.array([*range(len(shares) - 1), 1]), np.zeros(len(shares) - 1), 1.0)
    found = best_of(trie, table, weighting, top_k=2, tolerance=0.02)
    assert found is not None
    known = weights(weighting, found.log_probs)
    assert known.argmax() == weights(weighting, one_by_one(trie, table)).argmax() == (1 if late else 0)


def test_two_classes_that_are_close_and_wholly_visited_need_no_look_at_the_others() -> None:
    shares = np.array([0.4505, 0.4495, *[0.005] * 20])
    trie = LabelTrie.build([[1 + i, END] for i in range(len(shares))], [""] * len(shares))
    table = np.full((len(trie), VOCAB), -50.0, np.float32)
    table[0, 1 : 1 + len(shares)] = np.log(shares)
    table[1:, END] = 0.0
    found = best_of(trie, table, plain(trie), tolerance=0.2)
    assert found is not None and found.nodes == 4, "the smallest call settles it"


def test_everything_is_visited_where_nothing_may_be_left() -> None:
    rng = np.random.default_rng(3)
    trie = random_trie(rng, 50)
    found = best_of(trie, random_table(rng, trie, 1.0), plain(trie), tolerance=0.0)
    assert found is not None and np.isfinite(found.log_probs).all()
    assert (found.rest, found.nodes) == (0.0, len(trie.inner))


def test_more_first_classes_than_there_are_is_all_of_them() -> None:
    rng = np.random.default_rng(4)
    trie = random_trie(rng, 9)
    found = best_of(trie, random_table(rng, trie, 6.0), plain(trie), top_k=100)
    assert found is not None and np.isfinite(found.log_probs).all()


def test_a_sure_model_is_read_at_a_few_nodes() -> None:
    rng = np.random.default_rng(5)
    trie = random_trie(rng, 1000)
    found = best_of(trie, random_table(rng, trie, 8.0), plain(trie))
    assert found is not None and found.nodes < len(trie.inner) / 10


def test_where_the_room_runs_out_there_is_no_answer() -> None:
    rng = np.random.default_rng(6)
    trie = random_trie(rng, 200)
    table = random_table(rng, trie, 0.0)
    assert best_of(trie, table, plain(trie), room=40) is None
    assert best_of(trie, table, plain(trie), room=0) is None
    assert best_of(trie, table, plain(trie), room=len(trie.inner)) is not None


def test_the_order_of_the_labels_changes_no_bit() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        trie = random_trie(rng, 50)
        table = random_table(rng, trie, 3.0)
        sequences = [trie.tokens[trie.path(int(leaf))].tolist() for leaf in trie.leaf_of]
        order = rng.permutation(len(sequences))
        other = LabelTrie.build([sequences[i] for i in order], [""] * len(sequences))
        np.testing.assert_array_equal(
            score_all(other, table[0], MadeUpCalls(other, table), 512),  # type: ignore[arg-type]
            score_all(trie, table[0], MadeUpCalls(trie, table), 512)[order],  # type: ignore[arg-type]
        )
        first, second = best_of(trie, table, plain(trie), 3), best_of(other, table, plain(other), 3)
        assert first is not None and second is not None
        np.testing.assert_array_equal(second.log_probs, first.log_probs[order])
        assert second.nodes == first.nodes and second.rest == pytest.approx(first.rest, abs=1e-12)


def test_forms_of_a_class_add_up() -> None:
    trie = LabelTrie.build([[1], [2], [3]], ["a", "b", "A"])
    weighting = Weighting.build(trie, np.array([0, 1, 0]), np.zeros(2), 1.0)
    np.testing.assert_allclose(np.exp(weighting.class_log_probs(np.log([0.1, 0.2, 0.3]))), [0.4, 0.2])
    np.testing.assert_array_equal(weighting.class_log_probs(np.array([-np.inf, -1.0, -np.inf])), [-np.inf, -1.0])


def test_threads_change_no_normalizer() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (33, 151_936)).astype(np.float32)
    assert logits.size >= WORTH_THREADS
    assert (log_normalizers(logits, 2) == log_normalizers(logits)).all()
    logits[32, 5] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        log_normalizers(logits, 2)
