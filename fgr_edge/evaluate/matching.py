"""Whether an answer names the right class: the papers' measures, and the stricter one that this project reports first.

Substring matching takes a wrong option for right where it contains the right name ("Border Collie" for "Collie"): 381
of Fine-R1's 35,566 released questions have such an option. Exact matching does not, so both are reported.
"""

from __future__ import annotations

import re
import unicodedata

_SPACING = re.compile(r"[\s_\-‐-―/]+")
SUPER_CATEGORIES = ("aircraft", "car", "flower")


def normalised(name: str) -> str:
    """What counts as the same name: case, spaces, underscores, hyphens, slashes and other punctuation apart.

    "Boeing_727-200" and "boeing 727 200." are the same, "MD-80" and "MD80" are not.
    """
    spaced = _SPACING.sub(" ", unicodedata.normalize("NFKC", name).casefold())
    kept = "".join(c for c in spaced if not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split())


def exact_match(answer: str | None, truth: str) -> bool:
    """Whether the answer, normalised, is the name and nothing else."""
    return answer is not None and normalised(answer) == normalised(truth)


def substring_match(answer: str | None, truth: str) -> bool:
    """Fine-R1's closed-world score: the name, lower case and without underscores, stands somewhere in the answer."""
    return answer is not None and truth.lower().replace("_", " ") in answer.lower().replace("_", " ")


def text_inclusion(prediction: str, truth: str, *, car: bool = False) -> bool:
    """Fine-R1's open-world score: the name, lower case and without underscores, stands somewhere in the prediction.

    Of a car's name the last two words (body type and year) are dropped, where that leaves any.
    """
    words = truth.lower().replace("_", " ").split()
    if car and len(words) > 2:
        words = words[:-2]
    return " ".join(words) in prediction.lower()


def super_category(question: str | None) -> str:
    """The coarse word that relative similarity measures from: aircraft, car, flower, and "object" for all else.

    Fine-R1's code reads it from the picture's path, which gives "object" for its birds, dogs and pets. Here it is read
    from the question, which gives the same for every released record and does not depend on where the pictures lie.
    """
    asked = (question or "").lower()
    return next((word for word in SUPER_CATEGORIES if re.search(rf"\b{word}\b", asked)), "object")


def asks_for_car(question: str | None) -> bool:
    return super_category(question) == "car"
