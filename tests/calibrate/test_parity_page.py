"""The parity page: whole by itself, with what a reader needs, also without matplotlib and without the pictures."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fgr_edge.calibrate.parity_document import Parity
from fgr_edge.calibrate.parity_page import PICTURED, page, write_parity
from fgr_edge.calibrate.parity_verdict import verdict
from fgr_edge.errors import StorageError
from fgr_edge.evaluate import figures
from tests.calibrate.parities import parity


class Tags(HTMLParser):
    """Which tags a page opens and never closes, what it would load, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "path", "use"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe")
        self.loaded += [value for key, value in attributes if key in ("src", "href", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words += data


def judged(bound: float | None = 0.001, *, lost: int = 3, gained: int = 1) -> Parity:
    document = parity(pictures=120, lost=lost, gained=gained)
    document["sensitivity"] = [
        {"unit": "vision.merger", "error": 0.008, "kept": "int8"},
        {"unit": "decoder.0", "error": 0.007, "kept": None},
    ]
    document["verdict"] = verdict(document, bound)
    return document


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "finch").mkdir()
    for number in range(4):
        Image.new("RGB", (300, 200), (10 * number, 60, 20)).save(tmp_path / "finch" / f"{number}.png")
    return tmp_path


def test_the_page_is_whole_and_loads_nothing(pictures: Path) -> None:
    pytest.importorskip("matplotlib")
    tags = Tags(page(judged(), pictures))
    assert not tags.open
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in tags.loaded)
    assert sum(value.startswith("data:") for value in tags.loaded) == 4


def test_the_verdict_comes_first_with_what_to_try(pictures: Path) -> None:
    words = Tags(page(judged(), pictures)).words
    order = ["points", "Over the bound", "What to try", "Accuracy, direct mode", "Stage by stage", "Changed answers"]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert "Within the bound" in Tags(page(judged(0.05), None)).words
    assert "No bound was set" in Tags(page(judged(None), None)).words


def test_flips_kept_units_and_sizes_are_on_the_page(pictures: Path) -> None:
    words = Tags(page(judged(), pictures)).words
    for text in (
        "Lost: right before, wrong now: 3",
        "Gained: wrong before, right now: 1",
        "vision.merger (int8)",
        "0.31x",
    ):
        assert text in words


def test_names_are_text_and_no_markup() -> None:
    text = page(judged(), None)
    assert "<b>Warbler" not in text and "Slate &lt;b&gt;Warbler&lt;/b&gt;" in text


def test_many_flips_are_listed_though_few_are_pictured() -> None:
    text = page(judged(lost=PICTURED + 5), None)
    assert text.count('class="card"') == PICTURED + 1  # and one gained
    assert "5 more" in text and text.count("<li><b>Ember Finch</b>") == 5


def test_a_stage_out_of_bounds_stands_out() -> None:
    document = judged()
    document["stages"][1]["within"] = False
    assert len(re.findall(r"<tr class=bad><td></td>|<tr class=bad><td>first logits", page(document, None))) == 1


def test_without_matplotlib_the_page_is_there_without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    text = page(judged(), None)
    assert "<svg" not in text and "fgr-edge[bench]" in text and not Tags(text).open


def test_pictures_that_are_gone_are_left_out(pictures: Path) -> None:
    (pictures / "finch" / "0.png").unlink()
    text = page(judged(), pictures)
    assert text.count("<img") == 3 and text.count('class="card"') == 4


def test_both_files_are_written_and_the_document_reads_back(tmp_path: Path) -> None:
    document = judged()
    paths = write_parity(document, tmp_path / "report", None)
    assert [path.name for path in paths] == ["parity.json", "parity.html"]
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(document))


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_parity(judged(), tmp_path / "file", None)
