"""A set of labels knows the levels above its classes, in any order of rows, and refuses what has no clear meaning."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgr_edge.data.aviary import SPECIES
from fgr_edge.data.grocery import read_classes
from fgr_edge.errors import LabelError
from fgr_edge.runtime.labels import Label, LabelSet, compile_forms, normalized, read_labels

ROWS = (
    Label("Royal Gala", "Apple", ("Gala",)),
    Label("Apple", "Fruit", description="no answer itself"),
    Label("Pink Lady", "apple"),
    Label("Carrot"),
    Label("Fuji Persimmon", "Fruit"),
)


def facts(labels: LabelSet) -> dict[str, object]:
    """What must not depend on the order of the rows, with names in place of indices."""
    return {
        "sha256": labels.sha256,
        "labels": set(labels.labels),
        "inner": set(labels.inner),
        "above": {name: labels.ancestors(index) for index, name in enumerate(labels.names)},
        "forms": {(text, labels.names[index]) for text, index in labels.forms},
        "groups": {name: {labels.names[i] for i in below} for name, below in labels.groups.items()},
    }


def test_parents_are_levels_and_no_answers() -> None:
    labels = LabelSet(ROWS)
    assert labels.names == ("Royal Gala", "Pink Lady", "Carrot", "Fuji Persimmon")
    assert len(labels) == 4
    assert [row.name for row in labels.inner] == ["Apple"]
    assert labels.ancestors(0) == labels.ancestors(1) == ("Apple", "Fruit")  # "apple" is spelled as its own row
    assert (labels.ancestors(2), labels.ancestors(3)) == ((), ("Fruit",))
    assert labels.groups == {"Apple": (0, 1), "Fruit": (0, 1, 3)}
    assert labels.forms == (("Royal Gala", 0), ("Gala", 0), ("Pink Lady", 1), ("Carrot", 2), ("Fuji Persimmon", 3))


def test_a_class_that_is_its_own_parent_has_no_level_above() -> None:
    labels = LabelSet((Label("Banana", "banana"), Label("Royal Gala", "Apple")))
    assert labels.ancestors(0) == ()
    assert labels.groups == {"Apple": (1,)}


def test_a_class_called_as_the_level_it_shares_with_others_is_refused() -> None:
    with pytest.raises(LabelError, match=r"'Apple' is its own parent, and other .* such as 'Any Apple' \(no model"):
        LabelSet((Label("Apple", "Apple"), Label("Royal Gala", "Apple")))
    assert len(LabelSet((Label("Apple", "Any Apple"), Label("Royal Gala", "Any Apple")))) == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (((("a", "b"), ("b", "a"))), "go round: (a -> b -> a|b -> a -> b); remove one"),
        (((("leaf", "x"), ("x", "y"), ("y", "z"), ("z", "y"))), "go round: (y -> z -> y|z -> y -> z)"),
        (tuple((f"n{i}", f"n{(i + 1) % 20}") for i in range(20)), r"go round: n\d+ -> n\d+ -> n\d+ -> n\d+ -> … ->"),
    ],
)
def test_parents_that_go_round_are_named(rows: tuple[tuple[str, str], ...], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        LabelSet(tuple(Label(name, parent) for name, parent in rows))


def test_levels_are_bounded() -> None:
    def chain(levels: int) -> LabelSet:
        return LabelSet(tuple(Label(f"n{i}", f"n{i + 1}") for i in range(levels)))

    assert len(chain(64).ancestors(0)) == 64
    with pytest.raises(LabelError, match="more than 64 levels"):
        chain(65)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((Label("Gala"), Label("Royal", synonyms=("GALA",))), "'Gala' and 'GALA' are the same name"),
        ((Label("Gala", synonyms=("red_one",)), Label("Royal", synonyms=("Red one",))), "'red_one' and 'Red one'"),
        ((Label("Apple", "Fruit"), Label("apple"), Label("Gala", "Apple")), "'Apple' and 'apple'"),
        ((), "the list of labels is empty"),
    ],
)
def test_names_and_synonyms_of_two_classes_differ(rows: tuple[Label, ...], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        LabelSet(rows)


def test_synonyms_of_one_class_may_differ_in_case_alone_and_count_once() -> None:
    labels = LabelSet((Label("Gala", synonyms=("gala", " Gala ", "gala", "GALA")),))
    assert labels.forms == (("Gala", 0), ("gala", 0), ("GALA", 0))


def test_a_synonym_may_repeat_the_name_of_a_level() -> None:
    labels = LabelSet((Label("Yellow Onion", "Onion", ("Onion",)), Label("Onion", "Vegetable")))
    assert labels.forms == (("Yellow Onion", 0), ("Onion", 0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Label(" "), "the name is empty"),
        (lambda: Label("a", ""), "the parent of 'a' is empty"),
        (lambda: Label("a", "b\x07"), r"the parent of 'a' \('b\\x07'\) holds the character U\+0007"),
        (lambda: Label("a", synonyms=("b", "x" * 201)), "synonym 2 of 'a' has 201 characters"),
        (lambda: Label("a", synonyms="bc"), "synonyms of 'a' are one text, expected a list"),  # type: ignore[arg-type]
        (lambda: Label("a", description=3), "the description of 'a' is a int"),  # type: ignore[arg-type]
        (lambda: Label("a", description="\ud800"), "the description of 'a' is not Unicode text"),
    ],
)
def test_a_row_is_checked_when_it_is_made(make: Callable[[], Label], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        make()


names = st.text("abAB _-", min_size=1, max_size=4).filter(lambda text: bool(text.strip()))
rows_strategy = st.lists(
    st.builds(
        Label,
        names,
        st.none() | names,
        st.lists(names, max_size=2).map(tuple),
        st.none() | st.text(max_size=5).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(rows_strategy, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: list[Label], rng: random.Random) -> None:
    shuffled = list(rows)
    rng.shuffle(shuffled)
    try:
        labels = LabelSet(tuple(rows))
    except LabelError:
        with pytest.raises(LabelError):
            LabelSet(tuple(shuffled))
        return
    assert facts(LabelSet(tuple(shuffled))) == facts(labels)
    assert LabelSet.from_json(labels.to_json()) == labels


@given(rows_strategy)
def test_names_of_classes_and_levels_never_meet(rows: list[Label]) -> None:
    try:
        labels = LabelSet(tuple(rows))
    except LabelError:
        return
    assert len(labels) > 0
    assert not {*map(normalized, labels.names)} & {*map(normalized, labels.groups)}
    assert all(name in labels.ancestors(i) for name, below in labels.groups.items() for i in below)
    assert {row.name for row in labels.inner} <= set(labels.groups)


def test_the_digest_tells_names_parents_and_synonyms_apart_but_not_descriptions() -> None:
    def digest(*rows: Label) -> str:
        return LabelSet(rows).sha256

    base = digest(Label("a"), Label("b"))
    others = [
        digest(Label("a")),
        digest(Label("a"), Label("B")),
        digest(Label("a", "c"), Label("b")),
        digest(Label("a", synonyms=("c",)), Label("b")),
    ]
    assert len({base, *others}) == 5
    assert digest(Label("b", description="x"), Label("a")) == base


def test_forms_are_compiled_between_lead_and_tail() -> None:
    forms = LabelSet((Label("ab", synonyms=("c",)), Label("d"))).forms
    found = compile_forms(forms, lambda text: [*map(ord, text)], "<", ">", (0,))
    assert found == [[*map(ord, f"<{text}>"), 0] for text in ("ab", "c", "d")]


def test_a_hundred_thousand_names_with_parents_are_checked_in_seconds() -> None:
    rows = [Label(f"Species {i}", f"Genus {i % 1000}", (f"S. {i}",)) for i in range(100_000)]
    start = time.process_time()
    labels = LabelSet((*rows, *(Label(f"Genus {i}", f"Family {i % 10}") for i in range(1000))))
    assert time.process_time() - start < 5  # about 1 s; quadratic work would take minutes
    assert (len(labels), len(labels.forms), len(labels.groups["Family 3"])) == (100_000, 200_000, 10_000)


# The files of models/nano


def in_file(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["name"], row["parent"]) for row in csv.DictReader(file)]


def test_the_aviary_file_gives_each_species_its_family(nano_checkpoint: Path) -> None:
    path = nano_checkpoint / "labels_aviary.csv"
    assert in_file(path) == [(species.name, species.family) for species in SPECIES]
    assert read_labels(path).names == read_labels(path.with_suffix(".txt")).names


def test_the_grocery_file_gives_each_class_its_coarse_class(nano_checkpoint: Path, grocery_root: Path) -> None:
    classes = read_classes(grocery_root)
    coarse = [classes.coarse[i] for i in classes.coarse_of]
    expected = LabelSet(tuple(map(Label, classes.fine, coarse)))
    path = nano_checkpoint / "labels_grocery.csv"
    assert read_labels(path) == expected
    assert expected.names == classes.fine == read_labels(path.with_suffix(".txt")).names
