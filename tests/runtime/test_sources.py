"""What is named on the command line becomes pictures, in order."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from fgr_edge.errors import ImageError
from fgr_edge.runtime.sources import pictures


def test_files_keep_their_order_and_need_not_exist_yet(tmp_path: Path) -> None:
    named = [str(tmp_path / "b.png"), str(tmp_path / "missing.jpg"), str(tmp_path / "a.txt")]
    assert list(pictures(named)) == [(name, Path(name)) for name in named]


def test_a_folder_gives_its_pictures_by_path_below_it_too(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "notes.txt", "sub/d.csv", "0.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    expected = [tmp_path / name for name in ("0.jpeg", "a.PNG", "b.jpg", "sub/c.webp")]
    assert list(pictures([str(tmp_path)])) == [(str(path), path) for path in expected]


def test_a_dash_reads_one_picture_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8 bytes")))
    assert list(pictures(["-"])) == [("stdin", b"\xff\xd8 bytes")]


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"holds no picture; expected files ending in .*\.jpg"):
        list(pictures([str(tmp_path)]))
