"""The aviary: species differ, drawings repeat, and the text says exactly what a species is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fgr_edge.data.aviary import (
    ATTRIBUTES,
    HELD_OUT_SEEDS,
    NAMES,
    SPECIES,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    differences,
    species_named,
)
from fgr_edge.data.aviary_drawing import draw, pixels
from fgr_edge.data.aviary_text import look_alikes, phrase, reasoning
from fgr_edge.errors import DataError


def test_there_are_forty_species_in_eight_families_of_five() -> None:
    assert len(set(NAMES)) == 40
    families = [s.family for s in SPECIES]
    assert all(families.count(f) == 5 for f in set(families)) and len(set(families)) == 8


def test_species_of_one_family_differ_in_at_least_four_attributes() -> None:
    for a, b in itertools.combinations(SPECIES, 2):
        if a.family == b.family:
            assert len(differences(a, b)) >= 4, (a.name, b.name)


def test_training_validation_and_held_out_seeds_are_disjoint() -> None:
    ranges = sorted((r.start, r.stop) for r in (TRAINING_SEEDS, VALIDATION_SEEDS, HELD_OUT_SEEDS))
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ranges))


def test_a_drawing_repeats_for_its_seed_and_changes_with_it() -> None:
    first = np.asarray(draw(SPECIES[0], 7, 96))
    assert first.shape == (96, 96, 3)
    assert np.array_equal(first, np.asarray(draw(SPECIES[0], 7, 96)))
    assert np.array_equal(first.transpose(2, 0, 1), pixels((0, 7, 96)))
    assert not np.array_equal(first, np.asarray(draw(SPECIES[0], 8, 96)))


def test_a_drawing_is_the_same_on_every_machine() -> None:
    # Mean colours of the four quarters, with room for a pillow release that rounds differently.
    got = np.asarray(draw(species_named("River Kingfisher"), 11, 224), np.float64)
    quarters = got.reshape(2, 112, 2, 112, 3).mean((1, 3)).reshape(4, 3)
    expected = np.array(QUARTERS)
    assert np.abs(quarters - expected).max() < 1.0, quarters.round(1).tolist()


QUARTERS = [[74.6, 110.2, 109.4], [90.2, 117.2, 93.9], [68.5, 91.1, 82.9], [80.7, 99.8, 67.7]]


@pytest.mark.parametrize("species", SPECIES[::6], ids=lambda s: s.name)
def test_two_species_never_look_the_same(species) -> None:  # type: ignore[no-untyped-def]
    own = np.asarray(draw(species, 3, 64), np.int16)
    for other in look_alikes(species):
        # The pictures share the seed but not the scene; the birds are compared through their words instead.
        assert reasoning(other) != reasoning(species)
        assert np.abs(np.asarray(draw(other, 3, 64), np.int16) - own).max() > 30


def test_reasoning_states_every_attribute_and_ends_with_the_name() -> None:
    for species in SPECIES:
        text = reasoning(species)
        assert text.startswith(species.family) and text.endswith(f"So {species.name}.")
        for key in ATTRIBUTES:
            if key not in ("pattern", "breast"):
                assert phrase(species, key) in text, (species.name, key)
        assert f"{species.breast} {species.pattern} breast" in text


def test_the_comparison_names_an_attribute_that_really_differs() -> None:
    for species in SPECIES:
        for other in look_alikes(species):
            key = differences(species, other)[0]
            assert f"{other.name} has {phrase(other, key)}" in reasoning(species)
            assert phrase(other, key) != phrase(species, key)


def test_an_unknown_species_is_named_in_the_error() -> None:
    with pytest.raises(DataError, match="Dodo"):
        species_named("Dodo")
