"""What counts as a photograph of a store, under which name, and how often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fgr_edge.bulk.shard import line_of
from fgr_edge.bulk.store import Photograph, read_store
from fgr_edge.errors import DataError, ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.jpg", "a/1.png", "notes.txt"):
        path = tmp_path / "store" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "store"


def test_a_folder_is_searched_to_its_bottom_in_order_of_paths(folder: Path) -> None:
    store = read_store(folder)
    assert store.root == folder
    assert store.photographs == (Photograph("a/1.png", 7), Photograph("b/2.jpg", 7))
    assert store.size_bytes == 14


def test_a_text_list_names_each_photograph_once_and_keeps_those_that_are_absent(folder: Path) -> None:
    (folder / "list.txt").write_text("# today's\nb/2.jpg\n\na/../b/2.jpg\n/elsewhere/3.jpg\n", encoding="utf-8-sig")
    store = read_store(folder / "list.txt")
    assert store.photographs == (Photograph("b/2.jpg", 7), Photograph("/elsewhere/3.jpg", None))


def test_a_labelled_list_starts_from_the_folder_that_is_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n2.jpg,Royal Gala\n")
    store = read_store(tmp_path / "list.csv", images=folder / "b")
    assert (store.root, store.photographs) == (folder / "b", (Photograph("2.jpg", 7),))


def test_the_digest_moves_with_names_sizes_and_order_only(folder: Path) -> None:
    before = read_store(folder).sha256
    os.utime(folder / "a" / "1.png", (0, 0))
    assert read_store(folder).sha256 == before
    (folder / "a" / "1.png").write_bytes(b"longer than before")
    changed = read_store(folder).sha256
    (folder / "a" / "1.png").rename(folder / "a" / "0.png")
    assert len({before, changed, read_store(folder).sha256}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "lists no photograph"), ("gone.jpg\n", "none of its 1 photographs is there"), (b"\xff\xfe", "UTF-8")],
)
def test_a_list_without_a_photograph_is_refused(folder: Path, text: str | bytes, message: str) -> None:
    (folder / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_store(folder / "list.txt")


def test_a_source_that_is_absent_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_store(tmp_path / "gone")
    with pytest.raises(ImageError, match="holds no picture"):
        read_store(tmp_path)


def test_a_folder_needs_no_other_folder(folder: Path) -> None:
    with pytest.raises(DataError, match="leave it out"):
        read_store(folder, images=folder)


def test_a_file_name_that_is_no_text_has_a_record_all_the_same(tmp_path: Path) -> None:
    import json

    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    store = read_store(tmp_path)
    line = line_of({"image": store.photographs[0].name})
    assert os.fsencode(json.loads(line.decode("utf-8"))["image"]) == b"caf\xe9.jpg"
    assert len(store.sha256) == 64
