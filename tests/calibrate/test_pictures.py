"""The choice of calibration pictures: classes in turn, the same every time, nothing unreadable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgr_edge.calibrate.pictures import AVIARY, calibration_pictures, choose_pictures
from fgr_edge.data.labelled import read_labelled
from fgr_edge.errors import ConfigError, DataError
from fgr_edge.runtime.labels import LabelSet


def photographs(root: Path, **counts: int) -> Path:
    """A folder per class with so many pictures of noise."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / name / f"{number:03d}.png")
    return root


def test_classes_are_taken_in_turn(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=20, pear=3, plum=9)
    found = calibration_pictures(root, tmp_path, count=12)
    counts = Counter(picture.label for picture in found.chosen)
    assert counts["pear"] == 3 and sorted(counts.values()) == [3, 4, 5]
    assert {picture.label for picture in found.chosen[:3]} == {"apple", "pear", "plum"}


def test_every_picture_is_chosen_or_left_over_once(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=7, pear=5)
    found = calibration_pictures(root, tmp_path, count=6)
    assert Counter((*found.chosen, *found.rest)) == Counter(read_labelled(root))
    assert len(found.chosen) == 6 and found.source == str(root)


def test_the_choice_depends_on_nothing_but_pictures_and_seed(tmp_path: Path) -> None:
    pictures = read_labelled(photographs(tmp_path / "data", apple=30, pear=30))
    first, again = (choose_pictures(pictures, "data", count=10) for _ in range(2))
    other = choose_pictures(pictures, "data", count=10, seed=1)
    assert first == again
    assert set(first.chosen) != set(other.chosen) and first.sha256 != other.sha256


def test_the_digest_is_of_bytes_and_labels_wherever_they_lie(tmp_path: Path) -> None:
    here, there, elsewhere = (photographs(tmp_path / name, apple=3, pear=3) for name in ("a", "b", "c"))
    first = calibration_pictures(here, tmp_path)
    assert calibration_pictures(there, tmp_path).sha256 == first.sha256
    (elsewhere / "pear").rename(elsewhere / "quince")
    assert calibration_pictures(elsewhere, tmp_path).sha256 != first.sha256
    Image.new("RGB", (8, 8)).save(there / "pear" / "001.png")
    assert calibration_pictures(there, tmp_path).sha256 != first.sha256


def test_unreadable_pictures_are_left_out_and_listed(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=20, pear=20)
    broken = root / "apple" / "003.png"
    broken.write_bytes(broken.read_bytes()[:40])
    found = calibration_pictures(root, tmp_path, count=40)
    assert [skipped["path"] for skipped in found.unreadable] == [str(broken)]
    assert len(found.chosen) == 39 and broken not in {picture.path for picture in found.chosen}


def test_more_than_five_percent_unreadable_is_an_error(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=20, pear=20)
    for number in range(3):
        (root / "pear" / f"{number:03d}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3 of the 40 photographs cannot be opened, more than 5%"):
        calibration_pictures(root, tmp_path)


def test_pictures_of_one_class_are_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=8)
    with pytest.raises(DataError, match=r"all 8 photographs are of 'apple'; expected at least two classes.*folder per"):
        calibration_pictures(root, tmp_path)


def test_labels_that_do_not_match_are_named(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=2, pear=2, plum=2)
    with pytest.raises(DataError, match=r"labels lack 2 classes of the photographs: 'pear', 'plum'"):
        calibration_pictures(root, tmp_path, labels=LabelSet.from_names(["Apple", "Fig"]))


def test_fewer_than_two_pictures_are_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", apple=2, pear=2)
    with pytest.raises(ConfigError, match="1 calibration pictures asked for, expected at least 2"):
        calibration_pictures(root, tmp_path, count=1)


def test_without_photographs_birds_are_drawn_and_the_source_says_so(tmp_path: Path) -> None:
    found = calibration_pictures(None, tmp_path, count=30, per_species=1, labels=LabelSet.from_names(["Apple", "Fig"]))
    assert found.source == AVIARY and len(found.chosen) == 30 and len(found.rest) == 10
    assert len({picture.label for picture in found.chosen}) == 30
