"""The grocery reader, on a folder made here and on the real photographs where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fgr_edge.data.grocery import pretty, read_classes, read_split
from fgr_edge.data.grocery_text import CUES, look_alikes, reasoning
from fgr_edge.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "grocery"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a.jpg")
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    (tmp_path / "classes.csv").write_text(f"{header}\nRoyal-Gala,0,Apple,0\nSour-Milk,1,Sour-Milk,1\n")
    (tmp_path / "train.txt").write_text("train/a.jpg, 0, 0\n\n")
    return tmp_path


def test_names_are_written_as_a_person_writes_them(root: Path) -> None:
    classes = read_classes(root)
    assert classes.fine == ("Royal Gala", "Sour Milk")
    assert classes.coarse == ("Apple", "Sour Milk") and classes.coarse_of == (0, 1)
    assert pretty("Oatly-Oat-Milk") == "Oatly Oat Milk"


def test_a_split_is_read_in_order_without_empty_lines(root: Path) -> None:
    (photograph,) = read_split(root, "train")
    assert (photograph.path.name, photograph.fine, photograph.coarse) == ("a.jpg", 0, 0)


@pytest.mark.parametrize(
    ("text", "found"),
    [("train/a.jpg, 0\n", "expected 'path"), ("train/b.jpg, 0, 0\n", "b.jpg"), ("\n", "no photograph"),
     ("train/a.jpg, x, 0\n", "expected 'path")],
)  # fmt: skip
def test_a_malformed_list_is_a_data_error(root: Path, text: str, found: str) -> None:
    (root / "train.txt").write_text(text)
    with pytest.raises(DataError, match=found):
        read_split(root, "train")


def test_a_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.csv"):
        read_classes(tmp_path)
    with pytest.raises(DataError, match=r"val\.txt"):
        read_split(tmp_path, "val")


def test_class_ids_out_of_order_are_a_data_error(root: Path) -> None:
    path = root / "classes.csv"
    path.write_text(path.read_text().replace("Gala,0", "Gala,2"))
    with pytest.raises(DataError, match="in order"):
        read_classes(root)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no photographs in {REAL}")
def test_the_real_data_set_is_read_whole_and_every_class_has_its_words() -> None:
    classes = read_classes(REAL)
    assert (len(classes.fine), len(classes.coarse)) == (81, 43)
    assert [len(read_split(REAL, split)) for split in ("train", "val", "test")] == [2640, 296, 1265]
    assert set(CUES) == set(classes.fine) and len(set(CUES.values())) == 81
    for number, name in enumerate(classes.fine):
        text = reasoning(classes, number)
        assert text.endswith(f"So {name}.") and name not in look_alikes(classes, number)
