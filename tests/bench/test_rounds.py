"""What rounds are made into: rows, and signs that the machine was not steady or not warm."""

from __future__ import annotations

import pytest

from fgr_edge.bench.answers import AnswerRun
from fgr_edge.bench.rounds import Measured
from fgr_edge.bench.tokens import DecodeRun
from fgr_edge.bench.traffic import Traffic
from fgr_edge.runtime.prediction import Timings

NONE = Timings(
    preprocess_ms=0,
    vision_ms=0,
    prefill_ms=0,
    decode_ms=0,
    labels_ms=0,
    ttft_ms=0,
    total_ms=0,
    prompt_tokens=0,
    generated_tokens=0,
    scored_tokens=0,
)


def answers(*rounds_ms: tuple[float, ...]) -> list[AnswerRun]:
    """One tuple a round, one number a picture."""
    return [
        AnswerRun(picture, ms, NONE, abstained=False, reasoned=False)
        for round_ms in rounds_ms
        for picture, ms in enumerate(round_ms)
    ]


def test_pictures_of_different_sizes_are_not_unsteadiness() -> None:
    done = Measured(answers={"direct": answers(*[(10.0, 1000.0)] * 5)})
    assert done.unsteadiness() == {"direct answers": 0}
    shaken = Measured(answers={"direct": answers((10.0,), (20.0,), (10.0,), (20.0,), (15.0,))})
    assert shaken.unsteadiness()["direct answers"] > 0.5


def test_a_slow_first_round_is_told_from_steady_ones() -> None:
    cold = Measured(
        answers={"direct": answers((20.0, 40.0), (10.0, 20.0), (10.0, 20.0), (10.0, 20.0))},
        prefill_ms={64: [5.0, 5.0, 5.0, 5.0]},
        decodes={8: [DecodeRun(50, (float(ms),) * 8, None) for ms in (3, 1, 1, 1)]},
    )
    assert cold.slow_first_rounds() == {"direct answers": 2.0, "tg8": 3.0}


def test_three_rounds_say_nothing_of_the_machine() -> None:
    few = Measured(answers={"direct": answers((90.0,), (10.0,), (50.0,))}, prefill_ms={64: [9.0, 1.0, 5.0]})
    assert few.unsteadiness() == {} and few.slow_first_rounds() == {}


def test_the_share_of_the_roofline_is_of_each_rounds_own_bandwidth() -> None:
    done = Measured(
        decodes={4: [DecodeRun(10, (1.0,) * 4, None), DecodeRun(10, (2.0,) * 4, None)]}, bandwidth_gbps=[2.0, 1.0]
    )
    (row,) = done.decode_rows(Traffic(1_000_000, 0, 0, 0))
    assert row["tokens_per_s"]["max"] == pytest.approx(1000) and row["tokens_per_s"]["min"] == pytest.approx(500)
    assert row["roofline_share"] is not None
    assert row["roofline_share"]["min"] == row["roofline_share"]["max"] == pytest.approx(0.5)
    assert row["roofline_tokens_per_s"] == pytest.approx(1500)


def test_tokens_that_a_screen_could_not_tell_read_the_head_too() -> None:
    done = Measured(decodes={4: [DecodeRun(0, (1.0,) * 4, 1), DecodeRun(0, (1.0,) * 4, 3)]})
    (row,) = done.decode_rows(Traffic(weight_bytes=100, head_bytes=50, embedding_row_bytes=0, cache_bytes_per_token=0))
    assert (row["full_head_share"], row["bytes_per_token"]) == (0.5, 125)
    assert row["roofline_share"] is None and row["roofline_tokens_per_s"] is None
