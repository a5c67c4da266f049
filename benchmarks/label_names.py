"""Lists of class names of any length: real ones first, then generated ones that share words, as real taxonomies do.

In: how many. Out: as many different names, always the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLORS = ("Black", "Red", "Golden", "Grey", "White", "Blue", "Green", "Brown", "Yellow", "Scarlet")
PARTS = ("throated", "winged", "crowned", "tailed", "bellied", "faced", "backed", "footed", "capped", "necked")
KINDS = ("Warbler", "Sparrow", "Finch", "Gull", "Heron", "Orchid", "Lily", "Maple", "Terrier", "Beetle")
PLACES = ("Northern", "Southern", "Alpine", "Coastal", "Desert", "Island", "Lowland", "Marsh", "Prairie", "Forest")


def names(count: int) -> list[str]:
    """`count` names: those that models/nano was trained on, groceries first, then generated ones.

    Raises:
        ValueError: more than the 110,121 that there are.
    """
    known = [
        line
        for file in ("labels_grocery.txt", "labels_aviary.txt")
        for line in (ROOT / "models" / "nano" / file).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    found = list(islice(_chain(known, _generated()), count))
    if len(found) < count:
        raise ValueError(f"there are {len(found)} names, expected at most so many, not {count}")
    return found


def _chain(known: Sequence[str], generated: Iterator[str]) -> Iterator[str]:
    yield from known
    yield from generated


def _generated() -> Iterator[str]:
    # The first thousand vary in all words at once, so that a short list is as mixed as a long one.
    mixed = sorted(product(COLORS, PARTS, KINDS, PLACES), key=lambda words: hash_of(" ".join(words)))
    for color, part, kind, place in mixed:
        yield f"{place} {color}-{part} {kind}"
    for number, (color, part, kind, place) in product(range(2, 12), mixed):
        yield f"{place} {color}-{part} {kind} {number}"


def hash_of(text: str) -> int:
    """A number that looks random and is the same everywhere."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value
