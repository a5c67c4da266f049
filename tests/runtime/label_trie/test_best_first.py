"""The likeliest labels over tries with made-up logits: those of full scores, and the bound on the rest holds."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.label_trie.best_first import BEST_FIRST_NODES, BestScores, Weighting, score_best
from fgr_edge.runtime.label_trie.label_scores import score_all
from fgr_edge.runtime.label_trie.trie import LabelTrie
from tests.runtime.made_up_tries import END, VOCAB, MadeUpCalls, one_by_one, random_table, random_trie, tables_with


def plain(trie: LabelTrie) -> Weighting:
    """Each form a class of its own, uncalibrated."""
    forms = len(trie.leaf_of)
    return Weighting.build(trie, np.arange(forms), np.zeros(forms), 1.0)


def least_nodes(trie: LabelTrie, table: np.ndarray) -> int:
    """Visited until the rest has at most 1 %, where every next node is the likeliest."""
    exact = np.zeros(len(trie))
    rows = table - np.log(np.exp(table.astype(np.float64)).sum(axis=1))[:, None]
    for nodes in trie.levels:
        exact[nodes] = exact[trie.parents[nodes]] + rows[trie.parents[nodes], trie.tokens[nodes]]
    shares = np.exp(exact)
    inner = trie.inner[np.argsort(-shares[trie.inner], kind="stable")]
    frontier, known, visited = {0}, 0.0, 0
    for node in (0, *inner.tolist()):
        frontier.discard(node)
        children = trie.children_of(node)
        known += shares[children[trie.form_of[children] >= 0]].sum()
        frontier.update(children[trie.form_of[children] < 0].tolist())
        left = sum(shares[other] for other in frontier)
        if left <= 0.01 * (left + known):
            return visited
        visited += 1
    return visited


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


def test_a_trie_that_does_not_fit_is_given_up_before_the_room_is_full() -> None:
    rng = np.random.default_rng(7)
    trie = random_trie(rng, 400)
    calls = MadeUpCalls(trie, table := random_table(rng, trie, 0.0), room=len(trie.inner) - 1)
    assert score_best(trie, table[0], calls, plain(trie), top_k=1, tolerance=0.01) is None  # type: ignore[arg-type]
    assert sum(calls.calls) <= len(trie.inner) / 4


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_no_numbers_are_an_error_wherever_they_are(bad: float) -> None:
    for trie, table in tables_with(bad):
        with pytest.raises(EngineError, match="logits are not finite numbers"):
            best_of(trie, table, plain(trie), tolerance=0.0)


@pytest.mark.parametrize("logit", [-2000.0, -np.inf])
@pytest.mark.filterwarnings("error")
def test_names_whose_probability_is_no_number_above_zero_still_have_an_order(logit: float) -> None:
    rng = np.random.default_rng(0)
    trie = random_trie(rng, 30)
    table = random_table(rng, trie, 1.0)
    table[:, 1:] = logit
    full = score_all(trie, table[0], MadeUpCalls(trie, table), 512)  # type: ignore[arg-type]
    found = best_of(trie, table, plain(trie))
    assert found is not None and found.rest == 0.0
    assert found.log_probs.argmax() == full.argmax()


@pytest.mark.parametrize("keeps", [0.9, 0.1, 1e-3])
def test_hardly_more_is_visited_than_must_be_however_much_probability_names_lose(keeps: float) -> None:
    """One node after another, the likeliest first, is the least; a call takes many, and three or four must do."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        trie = random_trie(rng, 300, tokens=8)
        table = random_table(rng, trie, 3.0)
        lost = np.logaddexp.reduce(table[:, :9], axis=1) + np.log(1 / keeps - 1)  # to tokens that no name has
        table[:, 9:] = (lost - np.log(VOCAB - 9))[:, None]
        calls = MadeUpCalls(trie, table)
        found = score_best(trie, table[0], calls, plain(trie), top_k=1, tolerance=0.01)  # type: ignore[arg-type]
        assert found is not None
        assert found.nodes <= 2 * least_nodes(trie, table) + 16 and len(calls.calls) <= 5


def test_forms_of_a_class_add_up() -> None:
    trie = LabelTrie.build([[1], [2], [3]], ["a", "b", "A"])
    weighting = Weighting.build(trie, np.array([0, 1, 0]), np.zeros(2), 1.0)
    np.testing.assert_allclose(np.exp(weighting.class_log_probs(np.log([0.1, 0.2, 0.3]))), [0.4, 0.2])
    np.testing.assert_array_equal(weighting.class_log_probs(np.array([-np.inf, -1.0, -np.inf])), [-np.inf, -1.0])
