"""Free text of both modes, from a scripted model: names, thoughts, budgets, stop tokens, streaming."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from fgr_edge.runtime.answer import Answerer, Text, Thought, reasoning_in
from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.label_trie.label_scorer import REASONED
from fgr_edge.runtime.prompt import PromptBuilder, PromptSpec
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

pytest.importorskip("transformers")

T = TypeVar("T")
END, OTHER_END = "<|im_end|>", "<|endoftext|>"
SPEC = PromptSpec("{image}{question}", "{question}", "{question}", "?", "<|image_pad|>")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    """One token a byte."""
    from tests.tiny import tokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(folder)
    return PromptBuilder(folder / "tokenizer.json", SPEC)


@pytest.fixture(scope="module")
def qwen_prompts(qwen_tokenizer: Path) -> PromptBuilder:
    return PromptBuilder(qwen_tokenizer, SPEC)


class Script:
    """A model that wants to write `text`, and the stop token after it; each token has log-odds of 5 over the rest."""

    def __init__(self, prompts: PromptBuilder, text: str, end: str = END) -> None:
        stop = prompts.token_id(end)
        assert stop is not None
        self.vocab = prompts.tokenizer.get_vocab_size()
        self.wanted = [*prompts.encode_text(text), stop]
        self.fed: list[int] = []

    def logits(self) -> np.ndarray:
        row = np.zeros(self.vocab, np.float32)
        if self.fed == self.wanted[: len(self.fed)] and len(self.fed) < len(self.wanted):
            row[self.wanted[len(self.fed)]] = 5.0
        else:
            row[self.wanted[-1]] = 5.0
        return row

    def extend(self, tokens: Sequence[int]) -> LazyLogits:
        assert len(tokens)
        self.fed += tokens
        row = self.logits()
        return LazyLogits(lambda: row)


def finished(stream: Generator[str, None, T]) -> tuple[list[str], T]:
    """Pieces, and what the generator returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stop:
            return pieces, stop.value


def answerer_of(prompts: PromptBuilder) -> Answerer:
    stops = [prompts.token_id(END), prompts.token_id(OTHER_END)]
    return Answerer(prompts, [stop for stop in stops if stop is not None])


def answer(
    prompts: PromptBuilder, text: str, *, mode: str = "direct", room: int = 500, end: str = END
) -> tuple[list[str], Text, Script]:
    """A free answer."""
    answerer, script = answerer_of(prompts), Script(prompts, text, end)
    write = answerer.name if mode == "direct" else answerer.reason
    pieces, done = finished(write(script.logits(), script.extend, Sampler(SamplingConfig()), room))
    assert "".join(pieces) == done.text, "what is streamed is the text"
    return pieces, done, script


def thought(prompts: PromptBuilder, text: str, room: int = 500) -> tuple[Thought, Script]:
    script = Script(prompts, text)
    stream = answerer_of(prompts).think(script.logits(), script.extend, Sampler(SamplingConfig()), room)
    pieces, done = finished(stream)
    assert "".join(pieces) == done.text
    assert len(script.fed) == done.tokens
    np.testing.assert_array_equal(done.logits, script.logits())
    return done, script


def answer_after(prompts: PromptBuilder, text: str, room: int) -> tuple[Text, Script]:
    """A thought of at most `room` tokens, then the answer."""
    answerer, script = answerer_of(prompts), Script(prompts, text)
    sampler = Sampler(SamplingConfig())
    first, done = finished(answerer.think(script.logits(), script.extend, sampler, room))
    second, given = finished(answerer.name_after(done, script.extend, sampler))
    assert "".join(first + second) == given.text, "what is streamed is the text"
    return given, script


def share(vocab: int) -> float:
    """Probability of a scripted token."""
    return float(np.exp(5) / (np.exp(5) + vocab - 1))


# Direct


def test_a_free_answer_is_the_text_up_to_the_stop_token(prompts: PromptBuilder) -> None:
    pieces, done, script = answer(prompts, " Royal Gala\n")
    assert (done.text, done.name, done.tokens) == (" Royal Gala\n", "Royal Gala", 12)
    assert len(pieces) == 12
    # Every token counts, the stop token too.
    assert done.probability == pytest.approx(share(script.vocab) ** 13, rel=1e-5)


def test_any_stop_token_ends_an_answer(prompts: PromptBuilder) -> None:
    assert answer(prompts, "Gala", end=OTHER_END)[1].text == "Gala"


def test_an_answer_ends_where_its_room_does(prompts: PromptBuilder) -> None:
    _, done, script = answer(prompts, "Royal Gala", room=5)
    assert (done.text, done.tokens, len(script.fed)) == ("Royal", 5, 5)


def test_an_empty_answer_has_no_name(prompts: PromptBuilder) -> None:
    assert answer(prompts, " ")[1].name is None
    done = answer(prompts, "")[1]
    assert (done.text, done.tokens, done.name) == ("", 0, None)
    assert done.probability == pytest.approx(share(prompts.tokenizer.get_vocab_size()))


def test_characters_of_several_tokens_are_streamed_whole(prompts: PromptBuilder) -> None:
    pieces, done, _ = answer(prompts, "Käse 🧀 皇")
    assert done.text == "Käse 🧀 皇"
    assert {"ä", "🧀", "皇"} <= set(pieces)
    assert answer(prompts, "🧀", room=2)[1].text == ""  # half a character is none


# Reasoning

THOUGHT = "<think>A red apple with stripes.</think>"


def test_a_thought_and_an_answer_are_read_from_free_text(prompts: PromptBuilder) -> None:
    _, done, _ = answer(prompts, f"{THOUGHT} <answer> Royal Gala </answer> bye", mode="reason")
    assert done.name == "Royal Gala"
    assert done.text.endswith("bye")
    assert done.probability is None
    assert reasoning_in(done.text) == "A red apple with stripes."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{THOUGHT} <answer>Royal Gala", "Royal Gala"),  # never closed
        (f"{THOUGHT} Royal Gala", None),
        (f"{THOUGHT} <answer> </answer>", None),
        ("", None),
    ],
)
def test_an_answer_that_cannot_be_read_is_none(prompts: PromptBuilder, text: str, name: str | None) -> None:
    _, done, _ = answer(prompts, text, mode="reason")
    assert (done.name, done.text) == (name, text)


def test_a_thought_ends_at_its_closing_tag(prompts: PromptBuilder) -> None:
    done, script = thought(prompts, f"{THOUGHT} <answer>Pink Lady</answer>")
    assert (done.text, done.frame) == (THOUGHT, REASONED)
    assert script.fed == script.wanted[: len(THOUGHT)]


def test_a_thought_is_closed_at_its_budget(prompts: PromptBuilder) -> None:
    done, _ = thought(prompts, "<think>A long thought</think> <answer>Pink Lady</answer>", room=16)
    assert (done.text, done.tokens) == ("<think>A long th", 16)
    assert (done.frame.lead, done.frame.tail) == ("</think> <answer>", "</answer>")


def test_a_model_that_stops_without_a_thought_is_asked_for_its_answer(prompts: PromptBuilder) -> None:
    done, _ = thought(prompts, "No idea.")
    assert (done.text, done.frame.lead) == ("No idea.", "</think> <answer>")
    assert reasoning_in(done.text + done.frame.lead) == "No idea."


def test_a_free_answer_after_a_closed_thought_reads_as_one_text(prompts: PromptBuilder) -> None:
    text = "<think>A long th</think> <answer>Pink Lady</answer>"
    free, script = answer_after(prompts, text, room=len("<think>A long th"))
    assert (free.text, free.name, free.tokens) == (text, "Pink Lady", len("<think>A long thPink Lady</answer>"))
    assert script.fed == script.wanted[: len(script.fed)], "only what the model wanted was fed to it"


def test_a_budget_that_is_not_used_up_changes_nothing(prompts: PromptBuilder) -> None:
    text = f"{THOUGHT} <answer>Pink Lady</answer>"
    done, _ = answer_after(prompts, text, room=400)
    assert (done.text, done.name) == (text, "Pink Lady")


def test_what_closes_a_thought_has_room_kept_for_it(prompts: PromptBuilder) -> None:
    # Recognizer keeps `closing_tokens` slots of the cache beside the thought's own and the name's.
    done, _ = thought(prompts, "<think>T", room=5)
    around = prompts.encode_text(done.frame.lead + done.frame.tail)
    assert len(around) + 1 <= answerer_of(prompts).closing_tokens


@pytest.mark.parametrize("written", ["</think><answer>Gala</answer>", "</think>\n<answer>Gala</answer>", "</think>"])
def test_the_answer_tag_stands_once_whatever_token_ends_the_thought(qwen_prompts: PromptBuilder, written: str) -> None:
    # One token may hold the end of one tag and the beginning of the next: "><" in the Qwen vocabulary.
    done, _ = thought(qwen_prompts, f"<think>Red{written}")
    between = (done.text + done.frame.lead).removeprefix("<think>Red</think>")
    assert between in ("<answer>", " <answer>", "\n<answer>")


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think> a\nb </think> <answer>c</answer>", "a\nb"),
        ("no tags", "no tags"),
        ("<think>open", "open"),
        ("", ""),
    ],
)
def test_reasoning_is_what_stands_before_the_closing_tag(text: str, thought: str) -> None:
    assert reasoning_in(text) == thought
