"""Scores over tries with made-up logits: those of one form after another, whatever the chunk."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.label_trie import label_scores
from fgr_edge.runtime.label_trie.label_scores import WORTH_THREADS, chunk_nodes, chunk_room, log_normalizers, score_all
from fgr_edge.runtime.label_trie.trie import LabelTrie
from tests.runtime.made_up_tries import END, VOCAB, MadeUpCalls, one_by_one, random_table, random_trie, tables_with

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


@pytest.fixture(params=["C", "numpy"], autouse=True)
def _whoever_adds_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(label_scores, "log_sums", lambda rows: None)


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
    for trie, table in tables_with(bad):
        with pytest.raises(EngineError, match="logits are not finite numbers"):
            score_all(trie, table[0], MadeUpCalls(trie, table), 512)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_a_row_of_minus_infinity_is_an_error() -> None:
    with pytest.raises(EngineError, match="logits are not finite numbers"):
        log_normalizers(np.full((1, 4), -np.inf, np.float32))


def test_a_row_has_the_same_normalizer_whatever_stands_beside_it() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (40, 1024)).astype(np.float32)
    rows[7] += 200.0
    rows[9] -= 200.0
    together = log_normalizers(rows)
    assert all(log_normalizers(row[None])[0] == value for row, value in zip(rows, together, strict=True))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(together, np.log(np.exp(exact).sum(axis=1)), atol=1e-5)


def test_threads_change_no_normalizer() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (33, 151_936)).astype(np.float32)
    assert logits.size >= WORTH_THREADS
    assert (log_normalizers(logits, 2) == log_normalizers(logits)).all()
    logits[32, 5] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        log_normalizers(logits, 2)
