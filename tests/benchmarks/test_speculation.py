"""The simulation counts steps as a decoder would make them; tables show what the documents hold."""

from __future__ import annotations

from typing import Any

from benchmarks.speculation import PLAIN, VARIANTS, Steps, Told, simulate, summary
from benchmarks.speculation_rows import bundle_rows, chunk_rows, cost_rows, text_rows
from fgr_edge.runtime.guessing.drafts import Drafter
from fgr_edge.runtime.guessing.ngrams import NgramTable
from fgr_edge.runtime.guessing.pace import ROWS

TEXT = list(range(100, 141))


def known() -> NgramTable:
    table = NgramTable()
    table.add(TEXT)
    return table


def test_a_text_without_guesses_takes_a_step_a_token() -> None:
    done = Steps()
    simulate(Drafter(NgramTable), [], TEXT, 8, done, learn=False)
    assert (done.tokens, done.steps, done.drafted, done.held) == (40, 40, 0, 0)


def test_a_text_that_is_known_takes_a_step_for_every_row() -> None:
    done = Steps()
    simulate(Drafter(known), [], TEXT, 8, done, learn=False)
    assert (done.tokens, done.steps) == (40, 5)
    assert done.drafted == done.held == 35


def test_a_text_is_learned_for_the_next_where_it_may_be() -> None:
    for learn, steps in ((True, 45), (False, 80)):
        drafter, done = Drafter(NgramTable), Steps()
        for _ in range(2):
            simulate(drafter, [], TEXT, 8, done, learn=learn)
        assert done.steps == steps


def test_wrong_rows_are_counted() -> None:
    done = Steps()
    simulate(Drafter(known), [], [100, 101, 7, 8, 9], 8, done, learn=False)
    assert done.held == 1 and done.drafted > 5 and done.steps == 3


def told(seconds: float) -> Told:
    return Told(tokens=100, decode_ms=1e3 * seconds, total_ms=2e3 * seconds, calls=50, drafted=150)


def test_gains_are_of_the_same_round() -> None:
    rounds = [{name: told(slow * (1.0 if name == PLAIN else 0.5)) for name in VARIANTS} for slow in (1, 10, 3)]
    found = summary(rounds)
    assert found[PLAIN]["of_plain"] == 1.0 and found["phrases"]["of_plain"] == 2.0
    assert found["phrases"]["of_plain_range"] == [2.0, 2.0] and found["phrases"]["tokens_per_call"] == 2.0


def test_tables_have_a_row_for_each_figure() -> None:
    one: dict[str, Any] = {"tokens_per_step": 2.0, "drafted_rows_per_step": 7.0, "acceptance": 0.2}
    document: dict[str, Any] = {
        "machine": {"load_average_1m": 0.5},
        "texts": {"of": [{"rows": 8, "branches": 4, "earlier": one, "online": {**one, "guessing_us_per_step": 90.0}}]},
        "bundles": [
            {"bundle": "b", "pictures": "p", "texts": 3, "variants": summary([{n: told(1.0) for n in VARIANTS}])}
        ],
        "rows": [{"bundle": "b", "ms": {"1": 1.0}, "of_one": {str(rows): 1.0 for rows in ROWS}}],
    }
    assert text_rows(document) == [["8, 4", "2.00", "7.0", "20", "2.00", "7.0", "20", "0.09"]]
    assert text_rows({**document, "texts": None}) == []
    assert len(bundle_rows(document)) == len(VARIANTS) and bundle_rows(document)[0][3] == "0 of 3"
    assert len(cost_rows(document)[0]) == 2 + len(ROWS)
    chunk = {"chunk_tokens": 512, "prefill_ms": 9.0, "of_whole": 1.0, "working_bytes": 2_000_000, "difference": 1e-6}
    chunks = {"bundle": "b", "prompts": [{"prompt_tokens": 1024, "chunks": [chunk, {**chunk, "chunk_tokens": None}]}]}
    assert [row[1] for row in chunk_rows([chunks])] == ["512", "all"]
