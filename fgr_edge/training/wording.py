"""What nano is asked and what it answers, in words.

Asked with the very wordings of the runtime. Answers: the name alone, or Fine-R1's
`<think>…</think> <answer>…</answer>`; one fixed answer per class and mode.
"""

from __future__ import annotations

from dataclasses import dataclass

from fgr_edge.data import aviary_text, grocery_text
from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.data.grocery import GroceryClasses
from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, DIRECT_TEMPLATE, REASON_TEMPLATE

COMMON_QUESTIONS = (
    DEFAULT_QUESTION,
    "What is this?",
    "What is shown in this picture?",
    "Which category does this belong to?",
    "Name the object in the image.",
)
BIRD_QUESTIONS = (
    "What bird species is this?",
    "Which bird is this?",
    "What is the species of the bird in this image?",
    "What is the name of this bird?",
)
GROCERY_QUESTIONS = (
    "What grocery product is this?",
    "Which product is this?",
    "What kind of fruit, vegetable or carton is this?",
    "What is the name of this product?",
)


@dataclass(frozen=True, slots=True)
class Answers:
    """The classes of one data set: questions to ask, and each class's answer in both modes."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    direct: tuple[str, ...]
    reason: tuple[str, ...]


def asked(question: str, reason: bool) -> str:
    """The user's turn."""
    return (REASON_TEMPLATE if reason else DIRECT_TEMPLATE).replace("{question}", question)


def reasoned(thought: str, name: str) -> str:
    """An answer with its reasoning."""
    return f"<think>{thought}</think> <answer>{name}</answer>"


def bird_answers() -> Answers:
    """The aviary."""
    thoughts = tuple(reasoned(aviary_text.reasoning(s), s.name) for s in SPECIES)
    return Answers(NAMES, COMMON_QUESTIONS + BIRD_QUESTIONS, NAMES, thoughts)


def grocery_answers(classes: GroceryClasses) -> Answers:
    """The grocery classes."""
    thoughts = tuple(reasoned(grocery_text.reasoning(classes, i), name) for i, name in enumerate(classes.fine))
    return Answers(classes.fine, COMMON_QUESTIONS + GROCERY_QUESTIONS, classes.fine, thoughts)


def corpus(groups: tuple[Answers, ...]) -> list[str]:
    """Every text that the vocabulary is made from; names count more, so that they take few tokens."""
    lines: list[str] = []
    for group in groups:
        lines += list(group.names) * 20 + list(group.reason)
        for question in group.questions:
            lines += [asked(question, reason) for reason in (False, True)] * 5
    return lines
