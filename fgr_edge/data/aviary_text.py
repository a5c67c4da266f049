"""What a careful observer writes about a bird of the aviary: exact, because it is written from its attributes.

The shape is Fine-R1's: what is seen, candidate species, what sets them apart, the conclusion.
"""

from __future__ import annotations

from fgr_edge.data.aviary import SPECIES, Species, differences

BILLS = {
    "Finch": "short cone bill", "Warbler": "thin bill", "Kingfisher": "dagger bill", "Duck": "flat bill",
    "Heron": "long legs and neck", "Owl": "round face", "Parrot": "hooked bill", "Hummingbird": "needle bill",
}  # fmt: skip
WING_BARS = {0: "no wing bars", 1: "one wing bar", 2: "two wing bars"}


def phrase(species: Species, attribute: str) -> str:
    """One attribute in words: `red crown`, `two wing bars`.

    Raises:
        KeyError: there is no such attribute.
    """
    if attribute == "wing_bars":
        return WING_BARS[species.wing_bars]
    value = str(getattr(species, attribute))
    words = {"pattern": "{} breast pattern", "eye_ring": "{} eye ring"}.get(attribute, "{} " + attribute)
    return words.format(value)


def look_alikes(species: Species, count: int = 2) -> tuple[Species, ...]:
    """The `count` species of its family that differ least from it, the table's order deciding ties."""
    family = [other for other in SPECIES if other.family == species.family and other != species]
    return tuple(sorted(family, key=lambda other: len(differences(species, other)))[:count])


def description(species: Species) -> str:
    """Everything that can be seen of it, in one line."""
    return (
        f"{BILLS[species.family]}, {species.crown} crown, {species.back} back, "
        f"{species.breast} {species.pattern} breast, {WING_BARS[species.wing_bars]}, "
        f"{species.eye_ring} eye ring, {species.bill} bill, {species.tail} tail"
    )


def reasoning(species: Species) -> str:
    """The text between `<think>` and `</think>`."""
    others = look_alikes(species)
    names = ", ".join(s.name for s in (species, *others))
    against = "; ".join(f"{other.name} has {phrase(other, differences(species, other)[0])}" for other in others)
    return f"{species.family}: {description(species)}. Candidates: {names}. {against}. So {species.name}."
