"""Text that is guessed and checked is the text that is written token by token, whatever is guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.runtime.guessing.drafts import Drafter
from fgr_edge.runtime.guessing.habits import FLOAT_SHARE, ROUNDED_SHARE
from fgr_edge.runtime.guessing.ngrams import NgramTable
from fgr_edge.runtime.guessing.speculation import PROBED, Speculation
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

pytest.importorskip("transformers")

from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT
from tests.tiny import Feed, TinyModels, drawing, feed

if TYPE_CHECKING:
    from fgr_edge.runtime.head import LazyLogits

our_products = pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)

GRID = (10, 6)
TOKENS = 160
NEVER_RIGHT = 7  # a token that greedy texts here do not hold


def by_the_engines_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose several rows are rounded otherwise than one: there is something to doubt, with or without our library."""
    monkeypatch.setattr(library, "instructions", lambda: None)


def started(recognizer: Recognizer, given: Feed, tokens: int = TOKENS) -> np.ndarray:
    logits: np.ndarray = recognizer.model.decoder.prefill(
        given.embeds, given.positions, max_new_tokens=tokens, branches=32, deepstack=given.deepstack
    )
    return logits


def written(
    logits: np.ndarray | LazyLogits,
    advance: Callable[[Sequence[int]], LazyLogits],
    config: SamplingConfig | None = None,
    count: int = TOKENS,
) -> list[int]:
    """Tokens as the answerer writes them, stop tokens or not."""
    sampler = Sampler(config or SamplingConfig())
    tokens: list[int] = []
    while len(tokens) < count:
        tokens.append(sampler.next(logits))
        logits = advance(tokens[-1:])
    return tokens


def guessing(
    recognizer: Recognizer,
    texts: Sequence[Sequence[int]] = (),
    *,
    doubt_share: float | None = FLOAT_SHARE,
    trees: bool = True,
    probed: bool = False,
    alike: bool = False,
) -> Speculation:
    """Speculation that knows some texts."""

    def known() -> NgramTable:
        table = NgramTable()
        for text in texts:
            table.add(text)
        return table

    drafter = Drafter(known, branches=4 if trees else 1)
    made = Speculation(
        recognizer.model.decoder,
        recognizer.model.embedding.gather,
        drafter,
        doubt_share=doubt_share,
        trees=trees,
        alike=alike,
    )
    always(made, lambda rows: 1 + 0.01 * rows)
    if not probed:
        made._probe = None
    return made


def always(speculation: Speculation, seconds: Callable[[int], float]) -> None:
    """Guess always, as if calls took so long."""
    speculation._pace.seconds = seconds  # type: ignore[method-assign, assignment]
    speculation._pace.drafted = speculation._pace.wrote = lambda *a: None  # type: ignore[method-assign, assignment]
    speculation._pace.reckon()
    speculation._profit.guessed = lambda *a: None  # type: ignore[method-assign]


def with_distractors(text: Sequence[int]) -> list[list[int]]:
    """The text, and others that leave it again and again: trees with a wrong branch before the right one."""
    wrong = [[*text[i : i + 3], NEVER_RIGHT, i % 300 + 8] for i in range(0, len(text), 2)]
    return [list(text), *wrong, *wrong]


def cache_of(recognizer: Recognizer, length: int) -> list[np.ndarray]:
    return [buffer.array[:, :, :length].copy() for buffer in recognizer.model.decoder._cache.values()]


# Greedy


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize(
    ("shape", "precision"), [("qwen2.5", "fp32"), ("qwen2.5-untied", "fp32"), ("qwen3", "fp32"), ("qwen2.5", "int8")]
)
def test_greedy_tokens_are_the_same_and_take_fewer_calls(
    tiny_models: TinyModels, shape: str, precision: str, trees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "fp32":
        by_the_engines_kernels(monkeypatch)
    recognizer = Recognizer(tiny_models.bundle(shape, precision), threads=1)
    given = feed(recognizer, tiny_models.reference(shape, GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    length, cache = recognizer.model.decoder.length, cache_of(recognizer, recognizer.model.decoder.length)
    share = FLOAT_SHARE if precision == "fp32" else ROUNDED_SHARE
    speculation = guessing(recognizer, with_distractors(expected), doubt_share=share, trees=trees, probed=True)
    for _ in range(2):
        logits = started(recognizer, given)
        speculation.begin([])
        assert written(logits, speculation.advance) == expected
        speculation.end()
        assert recognizer.model.decoder.length == length
        for found, plain in zip(cache_of(recognizer, length), cache, strict=True):
            assert np.abs(found - plain).max() < (1e-4 if precision == "fp32" else 0.5) * np.abs(plain).max()
    counts = speculation.counts
    assert counts.tokens == 2 * TOKENS
    if precision == "fp32":
        assert counts.near_ties <= 2
        assert 0 < counts.rounding < 1e-4
        assert counts.calls < PROBED + 0.5 * (2 * TOKENS - PROBED)


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_wrong_guesses_change_nothing(tiny_models: TinyModels, shape: str) -> None:
    recognizer = Recognizer(tiny_models.bundle(shape), threads=1)
    given = feed(recognizer, tiny_models.reference(shape, GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    wrong = [[token, NEVER_RIGHT, NEVER_RIGHT + 1, token] for token in sorted(set(expected))]
    speculation = guessing(recognizer, wrong * 5)
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance) == expected
    assert speculation.counts.drafted > 100


def test_several_rows_have_the_same_bits_whatever_else_is_guessed(tiny_models: TinyModels) -> None:
    """What a text's bits depend on is that guesses are checked, not which: see `pace.ROWS`."""
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given, decoder = feed(recognizer, tiny_models.reference("qwen2.5", GRID)), recognizer.model.decoder
    started(recognizer, given)
    start, embeds = decoder.length, recognizer.model.embedding.gather(np.arange(40, 72))
    rows = []
    for count in (2, 4, 8, 16, 32):
        decoder.rewind(start)
        rows.append(decoder.check(embeds[:count]).after(1).full().copy())
        decoder.rewind(start)
        decoder.check(embeds[:1])
        decoder.rewind(start)
        siblings = [-1, 0, *[0] * (count - 2)]
        rows.append(decoder.check(embeds[:count], siblings).after(1).full().copy())
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])


def test_choices_in_doubt_are_made_by_what_single_tokens_give(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    cache = cache_of(recognizer, recognizer.model.decoder.length)
    speculation = guessing(recognizer, with_distractors(expected))
    speculation._doubt = 1e9
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance) == expected
    checked = recognizer.model.decoder.check(recognizer.model.embedding.gather(np.array([9])))
    again = speculation._doubted_row(checked, 0).again
    assert again is not None
    again()
    assert speculation.counts.near_ties >= TOKENS
    for found, plain in zip(cache_of(recognizer, recognizer.model.decoder.length), cache, strict=True):
        np.testing.assert_array_equal(found, plain)


def test_a_tie_that_rounding_breaks_otherwise_is_broken_as_without_guesses(tiny_models: TinyModels) -> None:
    """Logits of several rows are falsified by less than the doubt: the tokens stay."""
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    random = np.random.default_rng(0)
    outcome = {}
    for doubt in (0.0, 8.0):
        speculation = guessing(recognizer, with_distractors(expected))
        speculation._doubt = doubt
        check = recognizer.model.decoder.check

        def noisy(*arguments: Any, check: Any = check) -> Any:
            done = check(*arguments)
            logits = done.call.logits()
            logits += random.uniform(-2, 2, logits.shape).astype(np.float32)
            return done

        recognizer.model.decoder.check = noisy  # type: ignore[method-assign, assignment]
        logits = started(recognizer, given)
        speculation.begin([])
        outcome[doubt] = written(logits, speculation.advance)
        recognizer.model.decoder.check = check  # type: ignore[method-assign]
    assert outcome[8.0] == expected
    assert outcome[0.0] != expected, "the noise matters here"


# Rows that are alike


@our_products
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_a_token_alone_has_the_bits_of_one_that_is_checked(tiny_models: TinyModels, shape: str, threads: int) -> None:
    recognizer = Recognizer(tiny_models.bundle(shape, "int8"), threads=threads)
    given, decoder = feed(recognizer, tiny_models.reference(shape, GRID)), recognizer.model.decoder
    assert recognizer.model.alike
    started(recognizer, given)
    start, tokens = decoder.length, np.arange(40, 72)
    expected = np.stack([recognizer.model.advance([int(token)]).full().copy() for token in tokens])
    assert decoder.length == start + len(tokens)
    cache = cache_of(recognizer, decoder.length)
    for count in (2, 3, 4, 7, 8, 16, 32):
        decoder.rewind(start)
        for first in range(0, len(tokens) - count + 1, count):
            checked = decoder.check(recognizer.model.embedding.gather(tokens[first : first + count]))
            for row in range(count):
                np.testing.assert_array_equal(checked.after(row).full(), expected[first + row])
        for found, plain in zip(cache_of(recognizer, decoder.length), cache, strict=True):
            np.testing.assert_array_equal(found, plain[:, :, : decoder.length])


@our_products
def test_guesses_whose_bits_are_found_to_be_the_same_leave_nothing_in_doubt(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5", "int8"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    cache = cache_of(recognizer, recognizer.model.decoder.length)
    speculation = guessing(
        recognizer, with_distractors(expected), doubt_share=ROUNDED_SHARE, trees=False, probed=True, alike=True
    )
    for _ in range(2):
        logits = started(recognizer, given)
        speculation.begin([])
        assert written(logits, speculation.advance) == expected
        speculation.end()
        for found, plain in zip(cache_of(recognizer, recognizer.model.decoder.length), cache, strict=True):
            np.testing.assert_array_equal(found, plain)
    counts = speculation.counts
    assert (counts.near_ties, counts.again, counts.rounding) == (0, 0, 0.0)
    assert counts.calls < PROBED + 0.6 * (2 * TOKENS - PROBED)


def test_rows_whose_bits_are_found_to_differ_are_doubted_as_ever(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    decoder = recognizer.model.decoder

    expected = written(started(recognizer, given), recognizer.model.advance)
    speculation = guessing(recognizer, with_distractors(expected), trees=False, probed=True, alike=True)
    check, random = decoder.check, np.random.default_rng(0)

    def noisy(*arguments: Any) -> Any:
        done = check(*arguments)
        logits = done.call.logits()
        logits += random.uniform(-2, 2, logits.shape).astype(np.float32)
        return done

    decoder.check = noisy  # type: ignore[method-assign, assignment]
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance) == expected
    assert speculation.counts.near_ties > 0 and speculation.counts.rounding > 0.5


@our_products
def test_thoughts_and_their_answers_are_the_same_to_the_last_bit(nano_bundle: Callable[..., Path]) -> None:
    bundle, names = nano_bundle("int8"), ["Kiwi", "Lemon", "Red Kite"]
    plain, guessed = (Recognizer(bundle, names, threads=2, speculate=speculate) for speculate in (False, True))
    always(guessed._reader.speculation, lambda rows: 1 + 0.01 * rows)  # type: ignore[arg-type]
    for seed in (0, 1, 0, 2, 1):
        answers = [one(drawing(64, 96, seed), mode="reason") for one in (plain, guessed)]
        assert answers[0].text == answers[1].text
        assert answers[0].probability == answers[1].probability
    assert guessed.speculated is not None and guessed.speculated.calls < 0.9 * guessed.speculated.tokens
    assert guessed.speculated.near_ties == 0


# Sampling and screens


def assert_guessed_is_written(recognizer: Recognizer, given: Feed, config: SamplingConfig) -> None:
    """Guesses, right ones among wrong, change no token, and save calls."""
    expected = written(started(recognizer, given), recognizer.model.advance, config)
    speculation = guessing(recognizer, with_distractors(expected), probed=True)
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance, config) == expected
    assert speculation.counts.calls < 0.7 * TOKENS


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_tokens_with_a_repetition_penalty_are_the_same(tiny_models: TinyModels, penalty: float) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen3"), threads=1)
    given, config = feed(recognizer, tiny_models.reference("qwen3", GRID)), SamplingConfig(repetition_penalty=penalty)
    assert_guessed_is_written(recognizer, given, config)


def test_draws_are_the_same(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    config = SamplingConfig(do_sample=True, temperature=0.7, seed=5)
    assert_guessed_is_written(recognizer, given, config)


def test_a_screened_head_tells_the_same_tokens(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5", screened=True), threads=1)
    head = recognizer.model.decoder._head
    assert head is not None and head.screen is not None
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    speculation = guessing(recognizer, with_distractors(expected), probed=True)
    told: list[int | None] = []
    certain = head.screen.certain
    head.screen.certain = lambda *a: told.append(certain(*a)) or told[-1]  # type: ignore[method-assign, func-returns-value]
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance) == expected
    assert len(told) > TOKENS / 2 and sum(token is not None for token in told) > 0.8 * len(told)


# Bookkeeping


def test_a_text_may_end_where_the_cache_does(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    logits = recognizer.model.decoder.prefill(given.embeds, given.positions, max_new_tokens=1)
    room = recognizer.model.decoder.capacity - recognizer.model.decoder.length
    expected = written(logits, recognizer.model.advance, count=room)
    speculation = guessing(recognizer, with_distractors(expected))
    logits = recognizer.model.decoder.prefill(given.embeds, given.positions, max_new_tokens=1)
    speculation.begin([])
    assert written(logits, speculation.advance, count=room) == expected
    speculation.end()
    assert recognizer.model.decoder.length == recognizer.model.decoder.capacity


def test_tokens_that_are_given_together_follow_the_guessed_ones(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    text = written(started(recognizer, given), recognizer.model.advance, count=12)
    expected = recognizer.model.advance([90, 91, 92]).full().copy()
    speculation = guessing(recognizer, [text])
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance, count=12) == text
    np.testing.assert_allclose(speculation.advance([90, 91, 92]).full(), expected, atol=1e-3)
    speculation.end()
    assert recognizer.model.decoder.length == len(given.embeds) + 15


def test_the_first_text_may_hold_tokens_that_were_given_before_its_beginning_was_compared(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_the_engines_kernels(monkeypatch)
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    texts = []
    for speculation in (None, guessing(recognizer, probed=True)):
        logits = started(recognizer, given)
        advance = recognizer.model.advance
        if speculation is not None:
            speculation.begin([])
            advance = speculation.advance
        texts.append(written(logits, advance, count=9))
        texts[-1] += written(advance([90, 91, 92]), advance, count=PROBED + 60)
    assert texts[0] == texts[1]
    assert speculation is not None and 0 < speculation.counts.rounding < 1e-4


def test_guesses_that_do_not_pay_are_left_out_for_a_while(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    speculation = guessing(recognizer, [expected], probed=True)
    del speculation._profit.guessed
    check = recognizer.model.decoder.check

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return check(*arguments)

    recognizer.model.decoder.check = slow  # type: ignore[method-assign, assignment]
    for _ in range(3):
        logits = started(recognizer, given)
        speculation.begin([])
        assert written(logits, speculation.advance) == expected
        speculation.end()
    assert speculation.counts.rested > TOKENS / 2
    assert speculation.counts.drafted > 0


def test_tokens_after_a_rest_are_guessed_again(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    speculation = guessing(recognizer, [expected])
    speculation._profit.rest = TOKENS // 2
    logits = started(recognizer, given)
    speculation.begin([])
    assert written(logits, speculation.advance) == expected
    counts = speculation.counts
    assert counts.rested == TOKENS // 2 and counts.drafted > 0
    assert counts.calls < TOKENS


def test_a_text_that_was_left_does_not_disturb_the_next(tiny_models: TinyModels) -> None:
    recognizer = Recognizer(tiny_models.bundle("qwen2.5"), threads=1)
    given = feed(recognizer, tiny_models.reference("qwen2.5", GRID))
    expected = written(started(recognizer, given), recognizer.model.advance)
    speculation = guessing(recognizer, [expected])
    for count in (3, 17, TOKENS):
        logits = started(recognizer, given)
        speculation.begin([])
        assert written(logits, speculation.advance, count=count) == expected[:count]


# Recognizers


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_predictions_and_their_pieces_are_the_same(tiny_models: TinyModels, shape: str) -> None:
    labels = ["wren", "green finch", "greenshank", "owl"]
    for given in (labels, None):
        plain, guessed = (Recognizer(tiny_models.bundle(shape), given, threads=1, speculate=on) for on in (False, True))
        assert plain.speculated is None and guessed.speculated is not None
        for seed in range(3):
            for budget in (None, 40):
                streams = [
                    one.stream(drawing(90, 120, seed), mode="reason", think_budget=budget, top_k=3)
                    for one in (plain, guessed)
                ]
                pieces = [list(stream) for stream in streams]
                assert pieces[0] == pieces[1]
                one, other = (stream.prediction for stream in streams)
                assert (one.label, one.text, one.reasoning) == (other.label, other.text, other.reasoning)
                assert one.timings.generated_tokens == other.timings.generated_tokens
                if one.probability is not None and other.probability is not None:
                    assert one.probability == pytest.approx(other.probability, abs=1e-4)
        assert guessed.speculated.tokens > guessed.speculated.calls


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nano_thinks_the_same_about_photographs_and_birds(
    nano_bundle: Callable[..., Path],
    birds: Callable[[int], list[Path]],
    grocery_root: Path,
    precision: str,
) -> None:
    lines = (grocery_root / "val.txt").read_text().splitlines()[::25]
    pictures = [*birds(8), *(grocery_root / line.split(",")[0].strip() for line in lines)]
    plain, guessed = (Recognizer(nano_bundle(precision), threads=1, speculate=on) for on in (False, True))
    assert guessed._reader.speculation is not None and guessed.speculated is not None
    always(guessed._reader.speculation, lambda rows: 1 + 0.03 * rows)
    for picture in pictures:
        assert guessed(picture, mode="reason").text == plain(picture, mode="reason").text, picture
    assert guessed.speculated.tokens > 1.2 * guessed.speculated.calls
