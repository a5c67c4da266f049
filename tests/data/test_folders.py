"""The folder-per-class reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgr_edge.data.folders import read_folders
from fgr_edge.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("Royal_Gala/b.JPG", "Royal_Gala/a.png", "Royal_Gala/notes.txt", "Kiwi/x.jpeg", ".cache/y.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_classes_and_photographs_come_in_the_order_of_their_names(root: Path) -> None:
    data = read_folders(root)
    assert data.names == ("Kiwi", "Royal Gala")
    assert [(p.name, n) for p, n in data.photographs] == [("x.jpeg", 0), ("a.png", 1), ("b.JPG", 1)]


def test_the_first_photographs_of_each_class_can_be_taken(root: Path) -> None:
    assert [p.name for p, _ in read_folders(root, per_class=1).photographs] == ["x.jpeg", "a.png"]


def test_what_is_not_a_folder_of_folders_is_a_data_error(root: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_folders(root / "none")
    with pytest.raises(DataError, match="holds no folder"):
        read_folders(root / "Kiwi")
    (root / "Empty").mkdir()
    with pytest.raises(DataError, match="Empty holds no photograph"):
        read_folders(root)
