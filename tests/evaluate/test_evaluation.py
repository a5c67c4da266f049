"""Whole evaluations of the nano model on drawn birds: what is asked, skipped, refused, and written down."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import ConfigError, DataError, StorageError
from fgr_edge.evaluate.evaluation import Evaluation, EvaluationConfig, class_indices, drawn, evaluate
from fgr_edge.evaluate.protocols import ProtocolName
from fgr_edge.evaluate.report import write_report
from fgr_edge.evaluate.table import table
from fgr_edge.runtime.labels import Label, LabelSet
from tests.command import Done

BIRDS = 20


@contextmanager
def quiet(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="module")
def birds_list(birds: Callable[[int], list[Path]]) -> Path:
    """list.csv beside drawings of as many species."""
    paths = birds(BIRDS)
    rows = [f"{path.name},{SPECIES[n * len(SPECIES) // BIRDS].name}" for n, path in enumerate(paths)]
    source = paths[0].parent / "list.csv"
    source.write_text("path,label\n" + "\n".join(rows))
    return source


@pytest.fixture(scope="module")
def config(nano_bundle: Callable[..., Path], nano_labels: Path, birds_list: Path) -> Callable[..., EvaluationConfig]:
    def make(protocol: ProtocolName = "closed-all", **changes: object) -> EvaluationConfig:
        bundle = nano_bundle("int8", nano_labels)
        given: dict[str, object] = {"bundle": bundle, "data": birds_list, "threads": 1, **changes}
        return EvaluationConfig(protocol=protocol, **given)  # type: ignore[arg-type]

    return make


def with_broken(birds_list: Path, tmp_path: Path, broken: int) -> Path:
    """The list after so many photographs that are no pictures."""
    lines = birds_list.read_text().splitlines()
    rows = [f"{birds_list.parent / row}" for row in lines[1:]]
    for number in range(broken):
        (tmp_path / f"broken{number}.png").write_bytes(b"\x89PNG but no more")
        rows.insert(number, f"{tmp_path / f'broken{number}.png'},{NAMES[0]}")
    source = tmp_path / "broken.csv"
    source.write_text("\n".join([lines[0], *rows]))
    return source


def test_nano_names_drawn_birds_in_both_modes(config: Callable[..., EvaluationConfig]) -> None:
    for mode, count in (("direct", 12), ("reason", 4)):
        got = evaluate(config(mode=mode, limit=count), quiet).document
        top_1 = got["measures"]["top_1"]
        assert isinstance(top_1, dict) and top_1["right"] == top_1["count"] == count == got["photographs"]
        assert got["confused"] == [] and len(got["per_class"]) == count
        assert got["labels_from"] == "bundle" and got["calibration"] == f"none: the bundle has none for {mode} mode"


def test_nano_is_right_among_four_options_by_its_label_scores(config: Callable[..., EvaluationConfig]) -> None:
    got = evaluate(config("closed-4", limit=5), quiet).document
    scores = got["measures"]["label_scores"]
    assert isinstance(scores, dict) and scores["share"] == 1.0
    positions = [got["measures"][f"label_scores_right_option_{place}"] for place in (1, 2, 3, 4)]
    assert sum(part["count"] for part in positions if isinstance(part, dict)) == 5
    assert all(len(set(outcome["options"])) == 4 for outcome in got["outcomes"])


def test_a_photograph_keeps_its_options_whatever_the_limit(config: Callable[..., EvaluationConfig]) -> None:
    few, more = (evaluate(config("closed-4", limit=limit), quiet).document["outcomes"] for limit in (2, 4))
    options = {outcome["path"]: outcome["options"] for outcome in more}
    shared = [outcome for outcome in few if outcome["path"] in options]
    assert shared and all(options[outcome["path"]] == outcome["options"] for outcome in shared)


def test_nano_names_drawn_birds_freely(config: Callable[..., EvaluationConfig]) -> None:
    got = evaluate(config("open", limit=4), quiet).document
    assert {outcome["answer"] for outcome in got["outcomes"]} == {outcome["truth"] for outcome in got["outcomes"]}
    assert got["measures"]["relative_similarity"] is None


def test_without_labels_of_its_own_the_classes_of_the_data_are_asked(
    nano_bundle: Callable[..., Path], birds_list: Path
) -> None:
    got = evaluate(EvaluationConfig(nano_bundle("int8"), birds_list, "closed-all", limit=2), quiet).document
    assert got["labels_from"] == "data" and len(got["labels"]) == BIRDS


def test_a_limit_draws_from_the_whole_list_by_seed() -> None:
    assert drawn(5, None, 0) == drawn(5, 9, 0) == [0, 1, 2, 3, 4]
    got = drawn(1000, 50, 3)
    assert got == sorted(set(got)) == drawn(1000, 50, 3) and len(got) == 50
    assert got != drawn(1000, 50, 4) and max(got) > 800 and min(got) < 200


def test_a_picture_that_cannot_be_opened_is_skipped_and_listed(
    config: Callable[..., EvaluationConfig], birds_list: Path, tmp_path: Path
) -> None:
    done = evaluate(config(data=with_broken(birds_list, tmp_path, 1)), quiet)
    assert done.document["photographs"] == BIRDS
    (skipped,) = done.document["skipped"]
    assert skipped["path"] == str(tmp_path / "broken0.png") and "broken0.png" in skipped["error"]
    assert "broken0.png" in table(done.document)


def test_more_than_5_percent_that_cannot_be_opened_is_an_error(
    config: Callable[..., EvaluationConfig], birds_list: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"2 of the 22 photographs cannot be opened, more than 5%.*broken1\.png"):
        evaluate(config(data=with_broken(birds_list, tmp_path, 2)), quiet)


def test_classes_that_the_labels_lack_are_named() -> None:
    labels = LabelSet((Label("Royal Gala", synonyms=("Gala",)), Label("Kiwi")))
    pictures = [LabelledPicture(Path("a.jpg"), name) for name in ("royal_gala", "gala", "Kiwi")]
    assert class_indices(pictures, labels) == [0, 0, 1]
    with pytest.raises(DataError, match=r"lack 2 classes of the photographs: 'Fig', 'Lime'. Expected .* 2 labels"):
        class_indices([*pictures, *(LabelledPicture(Path("a.jpg"), name) for name in ("Lime", "Fig", "Lime"))], labels)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"protocol": "closed-5"}, "expected closed-4, closed-all or open"),
        ({"text_encoder": Path("x")}, "no use in closed-all"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], found: str) -> None:
    given: dict[str, object] = {"bundle": Path("b"), "data": Path("d"), "protocol": "closed-all", **changes}
    with pytest.raises(ConfigError, match=found):
        EvaluationConfig(**given)  # type: ignore[arg-type]


class Outside(HTMLParser):
    """Collects what a page would load, and whether it runs scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture(scope="module")
def mistaken(
    config: Callable[..., EvaluationConfig], birds_list: Path, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    """An evaluation with mistakes: the labels of two species are exchanged in the list."""
    first, second = NAMES[0], NAMES[40 // BIRDS]
    text = birds_list.read_text().replace(first, "@").replace(second, first).replace("@", second)
    lines = [birds_list.parent.as_posix() + "/" + line for line in text.splitlines()[1:]]
    source = tmp_path_factory.mktemp("mistaken") / "list.csv"
    source.write_text("path,label\n" + "\n".join(lines))
    return evaluate(config(data=source), quiet)


def test_the_report_is_the_document_and_a_page_that_loads_nothing(mistaken: Evaluation, tmp_path: Path) -> None:
    results, page = write_report(mistaken, tmp_path / "a" / "report")
    assert json.loads(results.read_text()) == json.loads(json.dumps(mistaken.document))
    seen = Outside()
    seen.feed(page.read_text())
    assert {"svg", "img", "table", "figure"} <= set(seen.tags) and "script" not in seen.tags
    assert seen.loads and all(value.startswith("data:image/jpeg;base64,") for value in seen.loads)
    assert seen.tags.count("figure") == 2, "two pairs were confused"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.read_text())


def test_a_report_that_cannot_be_written_is_a_storage_error(mistaken: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(mistaken, tmp_path / "file" / "report")


def test_the_table_shows_measures_with_intervals_and_the_confused(mistaken: Evaluation) -> None:
    text = table(mistaken.document)
    assert re.search(r"top 1 +90\.0 %  69\.9 to 97\.2 % +18 of 20", text)
    assert f"1 of 1     {NAMES[0]} -> {NAMES[40 // BIRDS]}" in text


# The command


def test_eval_prints_one_document_and_writes_a_report(
    nano_bundle: Callable[..., Path],
    nano_labels: Path,
    birds_list: Path,
    tmp_path: Path,
    fgr_edge: Callable[..., Done],
) -> None:
    bundle = nano_bundle("int8", nano_labels)
    asked = (
        "eval",
        bundle,
        "--data",
        birds_list,
        "--protocol",
        "closed-all",
        "--limit",
        4,
        "--seed",
        5,
        "--threads",
        1,
    )
    code, out, err = fgr_edge(*asked, "--json", "--report", tmp_path / "r")
    document = json.loads(out)
    assert code == 0 and document["photographs"] == 4 and document["settings"]["seed"] == 5
    assert err.splitlines() == [f"wrote {tmp_path / 'r' / name}" for name in ("results.json", "report.html")]
    code, out, err = fgr_edge(*asked)
    assert code == 0 and "4 of 4" in out and err == ""


def test_eval_fails_in_one_line(
    nano_bundle: Callable[..., Path],
    nano_labels: Path,
    birds_list: Path,
    tmp_path: Path,
    fgr_edge: Callable[..., Done],
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("Kiwi\nLime\n")
    bundle = nano_bundle("int8", nano_labels)
    code, out, err = fgr_edge("eval", bundle, "--data", birds_list, "--protocol", "closed-all", "--labels", few)
    assert (code, out) == (1, "") and err.startswith("fgr-edge: the labels lack 20 classes") and err.count("\n") == 1
    assert fgr_edge("eval", bundle, "--data", birds_list)[0] == 2
