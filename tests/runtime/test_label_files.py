"""Files of class names are read alike in every format, and what cannot be used is named with its line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgr_edge.errors import LabelError, MissingExtraError
from fgr_edge.runtime.label_files import rows_of
from fgr_edge.runtime.labels import Label, LabelSet, label_from_json, read_labels

LABELS = LabelSet(
    (
        Label("Royal Gala", "Apple", ("Gala", "Tenroy"), 'red, "sweet"\nand small'),
        Label("Käse"),
        Label("Apple", "Fruit"),
    )
)
FILES = {
    "a.csv": 'name,parent,synonyms,description\nRoyal Gala,Apple,Gala|Tenroy,"red, ""sweet""\nand small"\n'
    "Käse,,,\n\nApple,Fruit\n",
    "b.CSV": 'Parent , description,NAME,synonyms\n Apple ,"red, ""sweet""\nand small", Royal Gala,Gala ; Tenroy;\n'
    ",,Käse,\nFruit,,Apple,",
    "c.tsv": 'name\tparent\tsynonyms\tdescription\nRoyal Gala\tApple\tGala|Tenroy\t"red, ""sweet""\nand small"\n'
    "Käse\nApple\tFruit\n",
    "d.json": '[{"name": "Royal Gala", "parent": "Apple", "synonyms": ["Gala", "Tenroy"], '
    '"description": "red, \\"sweet\\"\\nand small"}, "Käse", {"name": "Apple", "parent": "Fruit"}]',
    "e.json": '{"version": 2, "labels": [{"name": "Royal Gala", "parent": "Apple", "synonyms": ["Gala", "Tenroy"], '
    '"description": "red, \\"sweet\\"\\nand small"}, "Käse", {"name": "Apple", "parent": "Fruit", "synonyms": []}]}',
    "f.toml": '[[labels]]\nname = "Royal Gala"\nparent = "Apple"\nsynonyms = ["Gala", "Tenroy"]\n'
    'description = """red, "sweet"\nand small"""\n[[labels]]\nname = "Käse"\n'
    '[[labels]]\nname = "Apple"\nparent = "Fruit"\n',
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_format_gives_the_same_labels(tmp_path: Path, name: str, mark: str) -> None:
    (tmp_path / name).write_bytes((mark + FILES[name]).encode())
    assert read_labels(tmp_path / name) == LABELS


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.json", "labels.toml", "labels", "labels.names"])
def test_windows_lines_are_read(tmp_path: Path, name: str) -> None:
    text = {
        ".csv": "name,parent\r\na,c\r\nb,\r\n",
        ".tsv": "name\tparent\r\na\tc\r\nb\r\n",
        ".json": '[{"name": "a", "parent": "c"},\r\n"b"]',
        ".toml": '[[labels]]\r\nname = "a"\r\nparent = "c"\r\n[[labels]]\r\nname = "b"\r\n',
    }.get(Path(name).suffix, "# names\r\na\r\nb\r\n")
    (tmp_path / name).write_bytes(text.encode())
    labels = read_labels(tmp_path / name)
    assert labels.names == ("a", "b")
    assert labels.groups == ({"c": (0,)} if "." in name and not name.endswith("names") else {})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.txt", "a\n\nb\x00", r"l.txt: line 3 \('b\\x00'\) holds the character U\+0000"),
        ("l.txt", "a\n# c\n" + "x" * 201, "l.txt: line 3 has 201 characters"),
        ("l.csv", "", "l.csv: the table is empty; expected a header with 'name'"),
        ("l.csv", "name\n", "l.csv: the list of labels is empty"),
        ("l.csv", "Gala\nPink\n", "l.csv: line 1 has the column 'Gala'; expected 'name' and any of 'parent', 'syn"),
        ("l.csv", "name;parent\na;b\n", "l.csv: line 1 has the column 'name;parent'; expected .* with ',' between"),
        ("l.csv", "name,colour\na,red\n", "the column 'colour'"),
        ("l.csv", "name,,\na,b\n", "the column ''"),
        ("l.csv", "name,Name\na,b\n", "the column 'name' twice"),
        ("l.csv", "parent\na\n", "line 1 has no column 'name'"),
        ("l.csv", "name,parent\na,b,c\n", r"line 2 has 3 cells, expected 2 \(name, parent\); put quotes around"),
        ("l.csv", 'name,description\na,"two\nlines"\n ,x\n', "line 4: the name is empty"),
        ("l.csv", 'name\na\n"b\n', "line 3 is no row of a table .*check its quotes"),
        ("l.csv", "name,parent\na,b\nA,c\n", r"l.csv: labels 'a' \(line 2\) and 'A' \(line 3\) are the same name"),
        ("l.csv", "name,synonyms\na,c\nb,C\n", r"labels 'c' \(line 2\) and 'C' \(line 3\) are the same"),
        ("l.csv", "name,parent\na,b\nb,a\n", "l.csv: the parents of the labels go round: a -> b -> a"),
        ("l.csv", f"name,description\na,{'x' * 140_000}\n", "line 2 is no row of a table"),
        ("l.json", "[", "l.json: this is not JSON .*line 1"),
        ("l.json", "[" * 100_000, "l.json: this is not JSON"),
        ("l.json", '"a"', "l.json: there is no list of labels; expected a list"),
        ("l.json", '{"names": []}', "there is no list of labels"),
        ("l.json", '["a", 5]', "l.json: label 2 is a int, expected a name or an object with 'name'"),
        ("l.json", '["a", "a"]', r"labels 'a' \(label 1\) and 'a' \(label 2\) are the same"),
        ("l.json", '[{"nome": "a"}]', "label 1 has the key 'nome'; expected 'name' and, if wanted, 'parent'"),
        ("l.json", '[{"parent": "a"}]', "label 1 has no key 'name'"),
        ("l.json", '[{"name": "a", "parent": 3}]', "label 1: the parent of 'a' is a int, expected text"),
        ("l.json", '[{"name": "a", "synonyms": "b"}]', "label 1 has synonyms that are a str, expected a list"),
        ("l.json", '["\\ud800"]', r"U\+D800"),
        ("l.toml", "labels = \n", "l.toml: this is not TOML .*line 1"),
        ("l.toml", "[[label]]\n", r"there is no list of labels; expected \[\[labels\]\] tables"),
        ("l.toml", "[[labels]]\nname = 1979-05-27\n", "label 1: the name is a date, expected text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LabelError, match=words):
        read_labels(tmp_path / name)


@given(st.sampled_from([".csv", ".tsv", ".json", ".toml", ".txt"]), st.text('nameprt,;|"[]{}:=\n\t\r# ', max_size=40))
def test_no_text_gives_anything_but_labels_or_a_label_error(suffix: str, text: str) -> None:
    try:
        labels = LabelSet(tuple(label_from_json(row, place) for place, row in rows_of(text, suffix)))
    except LabelError:
        return
    assert LabelSet.from_json(labels.to_json()) == labels


def test_toml_without_a_reader_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10))
    monkeypatch.setitem(sys.modules, "tomli", None)  # what Python takes for "cannot be imported"
    (tmp_path / "l.toml").write_text('[[labels]]\nname = "a"\n')
    with pytest.raises(MissingExtraError, match=r"tomli is not installed.*pip install tomli, or .* \.csv or \.json"):
        read_labels(tmp_path / "l.toml")
