"""The reader of labelled photographs: four layouts, one result; a bad list says where it is bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgr_edge.data.labelled import LabelledPicture, read_labelled
from fgr_edge.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("Royal_Gala/a.png", "Royal_Gala/b.jpg", "Kiwi/c.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def record(**changes: object) -> str:
    """A line in the form of Fine-R1's evaluation files."""
    known = {
        "image_path": "Kiwi/c.jpg",
        "question": "What is it?",
        "options": ["Kiwi", "Lime"],
        "ground_truth": "Kiwi",
    }
    return json.dumps({**known, **changes}) + "\n"


def test_a_folder_per_class_gives_its_names(root: Path) -> None:
    assert read_labelled(root) == [
        LabelledPicture(root / "Kiwi" / "c.jpg", "Kiwi"),
        LabelledPicture(root / "Royal_Gala" / "a.png", "Royal Gala"),
        LabelledPicture(root / "Royal_Gala" / "b.jpg", "Royal Gala"),
    ]


@pytest.mark.parametrize(("suffix", "tab"), [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
def test_a_table_is_read_by_its_columns_from_its_own_folder(root: Path, suffix: str, tab: str) -> None:
    table = root / f"list.{suffix}"
    rows = [("label", "shop", "path"), ("Royal Gala", "here", "Royal_Gala/b.jpg"), ("Kiwi", "", "Kiwi/c.jpg")]
    table.write_text("\ufeff" + "\r\n".join(tab.join(row) for row in rows), encoding="utf-8")
    assert read_labelled(table) == [
        LabelledPicture(root / "Royal_Gala/b.jpg", "Royal Gala"),
        LabelledPicture(root / "Kiwi/c.jpg", "Kiwi"),
    ]


def test_paths_of_a_list_may_start_from_another_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    table = tmp_path_factory.mktemp("lists") / "list.csv"
    table.write_text("path,label\nKiwi/c.jpg,Kiwi\n")
    assert read_labelled(table, root=root) == [LabelledPicture(root / "Kiwi/c.jpg", "Kiwi")]
    with pytest.raises(DataError, match="1 of 1 photographs are not there"):
        read_labelled(table)
    with pytest.raises(DataError, match="has no use"):
        read_labelled(root, root=root)


def test_records_keep_their_question_and_options(root: Path) -> None:
    lines = root / "records.jsonl"
    lines.write_text(record() + "\n" + json.dumps({"image_path": "Royal_Gala/a.png", "ground_truth": "Royal Gala"}))
    first, second = read_labelled(lines)
    assert first == LabelledPicture(root / "Kiwi/c.jpg", "Kiwi", "What is it?", ("Kiwi", "Lime"))
    assert second == LabelledPicture(root / "Royal_Gala/a.png", "Royal Gala")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("l.csv", "path,label\nKiwi/c.jpg,Kiwi\nKiwi/c.jpg\n", r"l\.csv:3: .*expected a path and a label"),
        ("l.csv", "path,label\nKiwi/c.jpg,Kiwi,Lime\n", r"l\.csv:2: "),
        ("l.csv", 'path,label\nKiwi/c.jpg,"Ki"wi\n', r"l\.csv:2: .*RFC 4180"),
        ("l.csv", "file,class\nKiwi/c.jpg,Kiwi\n", "has the columns file, class; expected path and label"),
        ("l.csv", "", "has the columns none"),
        ("l.csv", "path,label\n", "lists no photograph"),
        ("l.jsonl", "", "lists no photograph"),
        ("l.jsonl", record() + "{\n", r"l\.jsonl:2: not JSON"),
        ("l.jsonl", "[1]\n", r"l\.jsonl:1: found \[1\]"),
        ("l.jsonl", record(ground_truth=7), "ground_truth"),
        ("l.jsonl", record(options="Kiwi"), "expected a list of names"),
        ("l.jsonl", record(options=["Lime", "Plum"]), "must hold 'Kiwi'"),
        ("l.jsonl", record(options=["Kiwi", "Lime", "Lime"]), "each name once"),
        ("l.txt", "Kiwi/c.jpg Kiwi\n", "no known layout; expected a folder per class; .csv"),
        ("l.parquet", "PAR1", "no known layout"),
    ],
)
def test_a_malformed_list_says_where_and_what(root: Path, name: str, text: str, found: str) -> None:
    (root / name).write_text(text)
    with pytest.raises(DataError, match=found):
        read_labelled(root / name)


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl"])
def test_a_list_that_is_not_utf8_is_a_data_error(root: Path, name: str) -> None:
    (root / name).write_bytes(b"path,label\nKiwi/c.jpg,Pur\xe9e\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_labelled(root / name)


def test_missing_photographs_are_counted_and_the_first_named(root: Path) -> None:
    table = root / "l.csv"
    table.write_text("path,label\nKiwi/c.jpg,Kiwi\n" + "".join(f"none/{i}.jpg,Kiwi\n" for i in range(7)))
    with pytest.raises(DataError, match="7 of 8 photographs are not there") as caught:
        read_labelled(table)
    assert "none/4.jpg and 2 more" in str(caught.value) and "none/5.jpg" not in str(caught.value)


def test_a_source_that_is_not_there_is_a_data_error(root: Path) -> None:
    with pytest.raises(DataError, match="does not exist; expected a folder per class"):
        read_labelled(root / "none.csv")


def test_a_grocery_list_is_read_with_names_as_a_person_writes_them(root: Path) -> None:
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    (root / "classes.csv").write_text(f"{header}\nRoyal-Gala,0,Apple,0\nKiwi,1,Kiwi,1\n")
    (root / "mine.txt").write_text("Kiwi/c.jpg, 1, 1\nRoyal_Gala/a.png, 0, 0\n")
    assert [(p.path.name, p.label) for p in read_labelled(root / "mine.txt")] == [
        ("c.jpg", "Kiwi"),
        ("a.png", "Royal Gala"),
    ]
    with pytest.raises(DataError, match=r"name one of its lists, .*test\.txt"):
        read_labelled(root)
    (root / "mine.txt").write_text("Kiwi/c.jpg, 2, 1\n")
    with pytest.raises(DataError, match="class 2 is not among the 2 of"):
        read_labelled(root / "mine.txt")


def test_the_real_grocery_list_is_read_whole(grocery_root: Path) -> None:
    pictures = read_labelled(grocery_root / "val.txt")
    assert len(pictures) == 296 and len({picture.label for picture in pictures}) == 60
    assert pictures[0].label == "Golden Delicious"


def test_a_real_record_list_is_read_as_it_is_written(grocery_root: Path) -> None:
    lines = grocery_root.parent / "fine-r1" / "eval" / "dog_seen.jsonl"
    if not lines.is_file():
        pytest.skip(f"no {lines}")
    with pytest.raises(DataError, match="5276 of 5276 photographs are not there"):
        read_labelled(lines)
