"""Answers of both modes, from a scripted model: names, thoughts, budgets, stop tokens, streaming."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.runtime.answer import Answer, Answerer, reasoning_in
from fgr_edge.runtime.prompt import PromptBuilder, PromptSpec
from fgr_edge.runtime.sampling import Sampler, SamplingConfig

pytest.importorskip("transformers")

END, OTHER_END = "<|im_end|>", "<|endoftext|>"
LABELS = ("Royal", "Royal Gala", "Pink Lady", "Käse 🧀")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    from tests.tiny import tokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(folder)
    spec = PromptSpec("{image}{question}", "{question}", "{question}", "?", "<|image_pad|>")
    return PromptBuilder(folder / "tokenizer.json", spec)


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

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        assert len(tokens)
        self.fed += tokens
        return self.logits()


def finished(stream: Generator[str, None, Answer]) -> tuple[list[str], Answer]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stop:
            return pieces, stop.value


def answer(
    prompts: PromptBuilder,
    text: str,
    *,
    labels: Sequence[str] = (),
    mode: str = "direct",
    room: int = 500,
    budget: int | None = None,
    end: str = END,
) -> tuple[list[str], Answer, Script]:
    answerer = Answerer(prompts, [prompts.token_id(END), prompts.token_id(OTHER_END)], labels)  # type: ignore[list-item]
    script = Script(prompts, text, end)
    given: tuple[Any, ...] = (script.logits(), script.extend, Sampler(SamplingConfig()), room)
    stream = answerer.direct(*given) if mode == "direct" else answerer.reason(*given, budget)
    pieces, done = finished(stream)
    assert "".join(pieces) == done.text, "what is streamed is the text"
    return pieces, done, script


def share(vocab: int) -> float:
    """Probability of a scripted token."""
    return float(np.exp(5) / (np.exp(5) + vocab - 1))


# Direct


def test_a_free_answer_is_the_text_up_to_the_stop_token(prompts: PromptBuilder) -> None:
    pieces, done, script = answer(prompts, " Royal Gala\n")
    assert (done.text, done.name, done.label, done.tokens) == (" Royal Gala\n", "Royal Gala", None, 12)
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
    assert answer(prompts, "")[1] == Answer("", 0, None, None, pytest.approx(share(prompts.tokenizer.get_vocab_size())))


def test_characters_of_several_tokens_are_streamed_whole(prompts: PromptBuilder) -> None:
    pieces, done, _ = answer(prompts, "Käse 🧀 皇")
    assert done.text == "Käse 🧀 皇"
    assert {"ä", "🧀", "皇"} <= set(pieces)
    assert answer(prompts, "🧀", room=2)[1].text == ""  # half a character is none


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_every_label_can_be_chosen_directly(prompts: PromptBuilder, label: int) -> None:
    _, done, _ = answer(prompts, LABELS[label], labels=LABELS)
    assert (done.text, done.name, done.label) == (LABELS[label], LABELS[label], label)
    assert done.probability is not None and done.probability > 0.9


def test_a_label_that_the_model_does_not_want_is_still_one_of_the_list(prompts: PromptBuilder) -> None:
    _, done, _ = answer(prompts, "Granny Smith", labels=LABELS)
    assert done.name in LABELS


def test_a_labels_probability_is_its_share_among_the_labels(prompts: PromptBuilder) -> None:
    # Only the first letter is a choice here, between three that begin with R, P and K.
    _, done, _ = answer(prompts, "Pink Lady", labels=["Royal", "Pink Lady", "Käse"])
    assert done.probability == pytest.approx(np.exp(5) / (np.exp(5) + 2), rel=1e-5)


# Reasoning

THOUGHT = "<think>A red apple with stripes.</think>"


def test_a_thought_and_an_answer_are_read_from_free_text(prompts: PromptBuilder) -> None:
    _, done, _ = answer(prompts, f"{THOUGHT} <answer> Royal Gala </answer> bye", mode="reason")
    assert done.name == "Royal Gala"
    assert done.text.endswith("bye")
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


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_every_label_can_be_chosen_after_a_thought(prompts: PromptBuilder, label: int) -> None:
    text = f"{THOUGHT} <answer>{LABELS[label]}</answer>"
    _, done, script = answer(prompts, text, labels=LABELS, mode="reason")
    assert (done.text, done.label, done.name) == (text, label, LABELS[label])
    assert done.probability is not None and done.probability > 0.9
    assert script.fed == script.wanted[: len(script.fed)], "only what the model wanted was fed to it"


def test_a_model_that_stops_without_a_thought_still_answers_with_a_label(prompts: PromptBuilder) -> None:
    _, done, _ = answer(prompts, "No idea.", labels=LABELS, mode="reason")
    assert done.text.startswith("No idea.</think> <answer>")
    assert done.name in LABELS
    assert reasoning_in(done.text) == "No idea."


def test_a_thought_is_closed_at_its_budget(prompts: PromptBuilder) -> None:
    text = "<think>A long th</think> <answer>Pink Lady</answer>"
    _, done, script = answer(
        prompts, text.replace("A long th", "A long thought"), mode="reason", budget=16, labels=LABELS
    )
    assert done.text.startswith("<think>A long th</think> <answer>")
    _, free, script = answer(prompts, text, mode="reason", budget=len("<think>A long th"))
    assert (free.text, free.name) == (text, "Pink Lady")
    assert script.fed == script.wanted[: len(script.fed)]


def test_a_budget_that_is_not_used_up_changes_nothing(prompts: PromptBuilder) -> None:
    text = f"{THOUGHT} <answer>Pink Lady</answer>"
    _, done, _ = answer(prompts, text, mode="reason", budget=400)
    assert (done.text, done.name) == (text, "Pink Lady")


def test_what_may_follow_a_thought_has_room_kept_for_it(prompts: PromptBuilder) -> None:
    # Recognizer keeps `closing_tokens` slots of the cache beside the thought's own.
    long = "x" * 150
    answerer = Answerer(prompts, [prompts.token_id(END)], [long, "y"])  # type: ignore[list-item]
    script = Script(prompts, f"<think>T</think> <answer>{long}</answer>")
    sampler = Sampler(SamplingConfig())
    before = len("<think>T")
    finished(answerer.reason(script.logits(), script.extend, sampler, 500, before))
    assert len(script.fed) - before <= answerer.closing_tokens


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
