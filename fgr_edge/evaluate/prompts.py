"""What a model is asked in the papers' protocols, and where its answer stands.

The closed-world wording and the reading of the answer are those of Fine-R1's evaluation code
(PKU-ICST-MIPL/FineR1_ICLR2026, eval/evaluation.py); its open-world wording is `prompt_text.REASON_TEMPLATE`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, REASON_TEMPLATE

_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL)


def closed_world(question: str | None, options: Sequence[str]) -> str:
    """Choose among `options`, thinking first. They are written as a Python list, without letters, as in the paper."""
    return (
        f"Given the question: {question or DEFAULT_QUESTION}, based on the options provided in {list(options)!r}, "
        "output the thinking process in <think> </think> and final choice in <answer> </answer> tags. "
        "The response format should be: <think>...</think> <answer>choice</answer>."
    )


def open_world(question: str | None) -> str:
    """Name the picture freely, thinking first."""
    return REASON_TEMPLATE.replace("{question}", question or DEFAULT_QUESTION)


def answer_in(text: str) -> str | None:
    """What stands between `<answer>` and `</answer>`; None where nothing does, also when the text was cut off."""
    found = _ANSWER.search(text)
    return (found.group(1).strip() or None) if found else None
