"""Four options: the record's own or drawn ones, always in an order that the seed decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import DataError
from fgr_edge.evaluate.options import four_options
from fgr_edge.runtime.labels import Label, LabelSet

APPLES = ("Royal Gala", "Pink Lady", "Granny Smith")
LABELS = LabelSet((*(Label(name, "Apple") for name in APPLES), *(Label(f"Melon {i}", "Melon") for i in range(9))))
PICTURE = LabelledPicture(Path("a.jpg"), "Royal Gala")


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_siblings_come_first_and_others_fill_up() -> None:
    strangers = Counter[str]()
    for seed in range(60):
        drawn = four_options(PICTURE, 0, LABELS, rng(seed))
        assert set(APPLES) < set(drawn.names) and len(set(drawn.names)) == 4
        assert drawn.names[drawn.position] == "Royal Gala"
        strangers.update(set(drawn.names) - set(APPLES))
    assert len(strangers) == 9, "every other class is drawn at times"


def test_the_right_option_stands_everywhere_equally_often() -> None:
    own = LabelledPicture(Path("a.jpg"), "Collie", None, ("Collie", "Borzoi", "Border Collie", "Pug"))
    for picture, truth in ((PICTURE, 0), (own, None)):
        places = Counter(four_options(picture, truth, LABELS, rng(seed)).position for seed in range(400))
        assert all(70 <= places[place] <= 130 for place in range(4)), places  # 100 expected, 3.5 sigma


def test_a_seed_decides_the_options() -> None:
    assert four_options(PICTURE, 0, LABELS, rng(7)) == four_options(PICTURE, 0, LABELS, rng(7))
    assert four_options(PICTURE, 0, LABELS, rng(7)) != four_options(PICTURE, 0, LABELS, rng(8))


def test_a_records_own_options_are_kept_and_shuffled() -> None:
    own = ("Collie", "Borzoi", "Border Collie", "Pug")
    picture = LabelledPicture(Path("a.jpg"), "Collie", None, own)
    orders = {four_options(picture, None, LABELS, rng(seed)).names for seed in range(40)}
    assert all(sorted(order) == sorted(own) for order in orders) and len(orders) > 10


def test_without_levels_any_class_is_drawn() -> None:
    flat = LabelSet.from_names(LABELS.names)
    assert {len(set(four_options(PICTURE, 0, flat, rng(seed)).names)) for seed in range(20)} == {4}


def test_too_few_classes_or_options_are_a_data_error() -> None:
    with pytest.raises(DataError, match="draws 4 options and there are 3 classes"):
        four_options(PICTURE, 0, LabelSet.from_names(APPLES), rng(0))
    with pytest.raises(DataError, match="has 2 options; closed-4 expects 4"):
        four_options(LabelledPicture(Path("a.jpg"), "a", None, ("a", "b")), None, LABELS, rng(0))
