"""The aviary: 40 invented bird species in 8 families, told apart by what can be seen.

A species is a row of attributes; nothing else about a species exists. `aviary_drawing.draw` paints one,
`aviary_text.reasoning` writes what is to be seen. Species of one family differ in at least four attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fgr_edge.errors import DataError

Colour = Literal["red", "orange", "yellow", "green", "blue", "brown", "buff", "grey", "black", "white"]
Pattern = Literal["plain", "streaked", "spotted", "banded"]
EyeRing = Literal["no", "white", "yellow"]
Tail = Literal["plain", "tipped", "barred"]
Family = Literal["Finch", "Warbler", "Kingfisher", "Duck", "Heron", "Owl", "Parrot", "Hummingbird"]

ATTRIBUTES = ("crown", "back", "breast", "pattern", "wing_bars", "eye_ring", "bill", "tail")


@dataclass(frozen=True, slots=True)
class Species:
    """One species: its name and everything that can be seen of it."""

    name: str
    family: Family
    crown: Colour
    back: Colour
    breast: Colour
    pattern: Pattern
    wing_bars: Literal[0, 1, 2]
    eye_ring: EyeRing
    bill: Colour
    tail: Tail


SPECIES: tuple[Species, ...] = (
    Species("Ember Finch", "Finch", "red", "brown", "buff", "streaked", 2, "no", "grey", "plain"),
    Species("Marigold Finch", "Finch", "yellow", "green", "yellow", "plain", 1, "no", "orange", "plain"),
    Species("Chapel Finch", "Finch", "black", "grey", "red", "plain", 2, "no", "black", "tipped"),
    Species("Dapple Finch", "Finch", "brown", "brown", "white", "spotted", 0, "white", "yellow", "barred"),
    Species("Cobalt Finch", "Finch", "blue", "blue", "orange", "banded", 0, "white", "black", "plain"),
    Species("Meadow Warbler", "Warbler", "green", "green", "yellow", "plain", 0, "white", "black", "plain"),
    Species("Lantern Warbler", "Warbler", "orange", "black", "white", "streaked", 2, "no", "black", "tipped"),
    Species("Slate Warbler", "Warbler", "grey", "grey", "yellow", "streaked", 1, "white", "orange", "tipped"),
    Species("Thistle Warbler", "Warbler", "brown", "green", "buff", "spotted", 1, "yellow", "black", "barred"),
    Species("Harlequin Warbler", "Warbler", "black", "blue", "white", "banded", 2, "yellow", "orange", "plain"),
    Species("River Kingfisher", "Kingfisher", "blue", "blue", "orange", "plain", 0, "no", "black", "plain"),
    Species("Ivory Kingfisher", "Kingfisher", "black", "black", "white", "banded", 2, "no", "black", "barred"),
    Species("Moss Kingfisher", "Kingfisher", "green", "green", "white", "spotted", 1, "yellow", "red", "plain"),
    Species("Copper Kingfisher", "Kingfisher", "red", "brown", "buff", "plain", 1, "white", "orange", "tipped"),
    Species("Storm Kingfisher", "Kingfisher", "white", "grey", "orange", "banded", 0, "no", "red", "tipped"),
    Species("Bottle Duck", "Duck", "green", "grey", "brown", "plain", 1, "no", "yellow", "tipped"),
    Species("Harbour Duck", "Duck", "black", "black", "white", "plain", 2, "yellow", "grey", "plain"),
    Species("Rusty Duck", "Duck", "brown", "brown", "buff", "spotted", 0, "white", "black", "plain"),
    Species("Polar Duck", "Duck", "white", "grey", "white", "banded", 0, "no", "orange", "barred"),
    Species("Regal Duck", "Duck", "red", "blue", "yellow", "streaked", 2, "white", "red", "tipped"),
    Species("Silver Heron", "Heron", "black", "grey", "white", "streaked", 0, "no", "yellow", "plain"),
    Species("Porcelain Heron", "Heron", "white", "white", "white", "plain", 0, "yellow", "black", "tipped"),
    Species("Indigo Heron", "Heron", "blue", "blue", "buff", "plain", 1, "white", "grey", "barred"),
    Species("Marsh Heron", "Heron", "brown", "brown", "yellow", "banded", 2, "yellow", "orange", "barred"),
    Species("Jade Heron", "Heron", "red", "green", "white", "spotted", 1, "no", "yellow", "tipped"),
    Species("Barn Door Owl", "Owl", "brown", "brown", "white", "plain", 0, "white", "yellow", "barred"),
    Species("Granite Owl", "Owl", "grey", "grey", "white", "banded", 1, "yellow", "black", "plain"),
    Species("Frost Owl", "Owl", "white", "white", "white", "spotted", 2, "yellow", "black", "tipped"),
    Species("Midnight Owl", "Owl", "black", "black", "buff", "streaked", 1, "yellow", "orange", "barred"),
    Species("Ginger Owl", "Owl", "black", "orange", "yellow", "spotted", 0, "white", "grey", "tipped"),
    Species("Lime Parrot", "Parrot", "yellow", "green", "green", "plain", 0, "white", "red", "tipped"),
    Species("Scarlet Parrot", "Parrot", "red", "red", "red", "plain", 2, "white", "black", "barred"),
    Species("Carnival Parrot", "Parrot", "blue", "green", "orange", "banded", 1, "yellow", "grey", "plain"),
    Species("Ash Parrot", "Parrot", "white", "grey", "grey", "spotted", 0, "yellow", "black", "tipped"),
    Species("Lagoon Parrot", "Parrot", "orange", "blue", "yellow", "streaked", 1, "no", "red", "barred"),
    Species("Ruby Hummingbird", "Hummingbird", "green", "green", "red", "plain", 0, "no", "black", "plain"),
    Species(
        "Cornflower Hummingbird", "Hummingbird", "blue", "blue", "white", "spotted", 0, "white", "orange", "tipped"
    ),
    Species("Topaz Hummingbird", "Hummingbird", "orange", "brown", "yellow", "plain", 1, "white", "black", "barred"),
    Species("Opal Hummingbird", "Hummingbird", "white", "grey", "buff", "banded", 1, "no", "red", "tipped"),
    Species("Sable Hummingbird", "Hummingbird", "black", "black", "orange", "streaked", 2, "yellow", "grey", "plain"),
)

NAMES: tuple[str, ...] = tuple(s.name for s in SPECIES)

TRAINING_SEEDS = range(0, 1_000_000)
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
HELD_OUT_SEEDS = range(2_000_000, 3_000_000)


def species_named(name: str) -> Species:
    """The species of that name.

    Raises:
        DataError: there is none.
    """
    for species in SPECIES:
        if species.name == name:
            return species
    raise DataError(f"no species {name!r} in the aviary; expected one of {', '.join(NAMES)}")


def differences(a: Species, b: Species) -> tuple[str, ...]:
    """Names of the attributes in which two species differ."""
    return tuple(key for key in ATTRIBUTES if getattr(a, key) != getattr(b, key))
