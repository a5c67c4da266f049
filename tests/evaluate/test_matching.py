"""What counts as the right name: on names made here and on Fine-R1's released questions, where they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fgr_edge.data.labelled import read_records
from fgr_edge.evaluate.matching import (
    asks_for_car,
    exact_match,
    normalised,
    substring_match,
    super_category,
    text_inclusion,
)

RELEASED = Path(__file__).parents[3] / "shared" / "fine-r1" / "eval"
needs_released = pytest.mark.skipif(not RELEASED.is_dir(), reason=f"no released questions in {RELEASED}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Royal_Gala", "royal gala"),
        ("Black-footed  Albatross", "Black footed albatross."),
        ("Boeing 727–200", "boeing 727-200"),
        ("Heermann's Gull", "Heermanns gull"),
        ("STRASSE", "straße"),
        ("Kiwi\n", '"Kiwi"'),
    ],
)
def test_case_spacing_and_punctuation_do_not_matter(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert exact_match(one, other)


@pytest.mark.parametrize(("one", "other"), [("MD-80", "MD80"), ("Collie", "Border Collie"), ("rose", "roses")])
def test_different_names_stay_different(one: str, other: str) -> None:
    assert not exact_match(one, other)


def test_no_answer_matches_nothing() -> None:
    assert not exact_match(None, "Kiwi") and not substring_match(None, "Kiwi")


def test_substring_match_takes_a_longer_name_and_a_list_for_right() -> None:
    assert substring_match("Border Collie", "Collie") and not exact_match("Border Collie", "Collie")
    assert substring_match("Kiwi or lime", "LIME")
    assert substring_match("sooty_albatross", "Sooty Albatross")
    assert not substring_match("Lime", "Kiwi")


def test_text_inclusion_drops_body_and_year_of_cars_alone() -> None:
    name = "Ferrari FF Coupe 2012"
    assert text_inclusion("A Ferrari FF, red", name, car=True) and not text_inclusion("A Ferrari FF, red", name)
    assert not text_inclusion("A Ferrari", name, car=True)
    assert not text_inclusion("a dog", "Audi 2012", car=True), "a short name is not cut to nothing"
    assert text_inclusion("It is a Royal Gala.", "royal_gala")


def test_the_super_category_is_a_word_of_the_question() -> None:
    assert super_category("What is the aircraft featured in this picture?") == "aircraft"
    assert super_category("What kind of car is this?") == "car" and asks_for_car("What kind of car is this?")
    assert super_category("Do you know what bird this is?") == "object"
    assert super_category("What is on this card?") == "object" and super_category(None) == "object"


@needs_released
def test_381_released_questions_have_an_option_that_substring_match_takes_for_right() -> None:
    fooled: Counter[str] = Counter()
    for source in sorted(RELEASED.glob("*.jsonl")):
        for record in read_records(source, RELEASED):
            wrong = [option for option in record.options if option != record.label]
            fooled[source.stem] += any(substring_match(option, record.label) for option in wrong)
            assert not any(exact_match(option, record.label) for option in wrong)
    assert {name: count for name, count in fooled.items() if count} == {
        "dog_seen": 40,
        "flower_seen": 311,
        "flower_unseen": 30,
    }
    assert len(fooled) == 12


@needs_released
def test_questions_give_the_super_category_that_the_papers_code_reads_from_paths() -> None:
    words = {"aircraft": "aircraft", "birds": "bird", "cars": "car", "flower": "flower"}
    for source in sorted(RELEASED.glob("*_unseen.jsonl")):
        for record in read_records(source, Path("")):
            by_path = next((word for part, word in words.items() if part in str(record.path)), "object")
            assert super_category(record.question) == by_path
