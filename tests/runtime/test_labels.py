"""Class names are checked with their line named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from fgr_edge.errors import LabelError
from fgr_edge.runtime.labels import LabelSet, read_labels

# Reading and checking


def test_names_keep_their_order_and_lose_their_margins() -> None:
    assert LabelSet.from_names(["  Royal Gala\t", "Pink Lady"]).names == ("Royal Gala", "Pink Lady")


@pytest.mark.parametrize(
    "name",
    [
        "Käsekuchen",
        "皇家嘎拉",
        "りんご",
        "🍎",
        "👩‍🌾 apple",  # joined by U+200D
        '"Gala"',
        "Gala's",
        "apple/red",
        "back\\slash",
        "100 % juice",
        "{question}",
        "<|im_end|>",
        "</answer>",
        "a  b",
        "#1 apple",
        "-",
        "№ 5 ½",
    ],
)
def test_odd_but_legal_names_are_kept_as_they_are(name: str) -> None:
    assert LabelSet.from_names([name, "other"]).names == (name, "other")


def test_names_are_brought_into_one_unicode_form() -> None:
    composed = "Käse"
    assert LabelSet.from_names([unicodedata.normalize("NFD", composed)]).names == (composed,)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "empty; expected one class name a line"),
        (["a", "  "], "label 2 is empty; expected a class name"),
        (["Royal Gala", "Pink", "royal  gala"], "'Royal Gala' and 'royal  gala' are the same name; expected each"),
        (["Royal Gala", "ROYAL_GALA"], "'Royal Gala' and 'ROYAL_GALA' are the same"),
        (["Straße", "STRASSE"], "same name"),
        (["Käse", unicodedata.normalize("NFD", "Käse")], "same name"),
        (["a", "b\x00c"], r"label 2 \('b\\x00c'\) holds the character U\+0000, which no name has; remove it"),
        (["a\nb"], r"U\+000A"),
        (["a\x1b[31mb"], r"U\+001B"),
        (["a\u2028b"], r"U\+2028"),
        (["a\ud800"], r"U\+D800"),
        (["x" * 201], "label 1 has 201 characters, expected at most 200: 'x{40}'"),
        ([5], "label 1 is a int, expected text"),
        ([None], "label 1 is a NoneType, expected text"),
    ],
)
def test_names_that_cannot_be_used_are_refused_by_position(names: list[object], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        LabelSet.from_names(names)  # type: ignore[arg-type]


def test_a_file_of_names_may_have_a_mark_comments_blanks_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("﻿# apples\r\nRoyal Gala\r\n\r\n  Käse \r\n# more\nPink Lady".encode())
    assert read_labels(path).names == ("Royal Gala", "Käse", "Pink Lady")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "labels.txt: the list of labels is empty"),
        (b"# only a comment\n\n", "labels.txt: the list of labels is empty"),
        ("Käse\n".encode("latin-1"), "labels.txt cannot be read as UTF-8 text.*expected one class name a line"),
        ("Gala\n".encode("utf-16"), "labels.txt cannot be read as UTF-8 text"),
        (b"Gala\nPink\ngala\n", r"labels.txt: labels 'Gala' \(line 1\) and 'gala' \(line 3\) are the same name"),
        (b"Gala\x00\n", r"labels.txt: .*U\+0000"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(LabelError, match=words):
        read_labels(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"nowhere.txt does not exist; expected a text file"):
        read_labels(tmp_path / "nowhere.txt")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path)
