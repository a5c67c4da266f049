"""The papers' wordings, letter by letter, and the reading of an answer."""

from __future__ import annotations

import pytest

from fgr_edge.evaluate.prompts import answer_in, closed_world, open_world


def test_the_closed_world_prompt_is_the_papers() -> None:
    assert closed_world("What bird is this?", ("Common Raven", "Heermann's Gull")) == (
        "Given the question: What bird is this?, based on the options provided in "
        "['Common Raven', \"Heermann's Gull\"], "
        "output the thinking process in <think> </think> and final choice in <answer> </answer> tags. "
        "The response format should be: <think>...</think> <answer>choice</answer>."
    )


def test_the_open_world_prompt_is_the_papers_whatever_is_asked() -> None:
    assert open_world("What is {question}?") == (
        "Given the question: What is {question}?. This is a fine-grained question. Output reasoning in "
        "<think></think> and the final answer in <answer></answer>."
    )
    assert "category of the object" in open_world(None) and "category of the object" in closed_world(None, "abcd")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>red</think> <answer> Royal Gala\n</answer>", "Royal Gala"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer>Kiwi", None),
        ("<answer> </answer>", None),
        ("Kiwi", None),
    ],
)
def test_the_answer_stands_between_its_tags(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer
