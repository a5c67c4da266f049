"""`calibrate-labels` on the nano model and drawn birds: what is stored, refused, skipped, and written down."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fgr_edge.calibrate.label_calibration import CalibrationConfig, Report, calibrate_labels
from fgr_edge.calibrate.scoring import score_pictures
from fgr_edge.cli import main
from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import ConfigError, DataError, EngineError, OutputExistsError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import CONFIDENCE, read_confidence
from fgr_edge.runtime.guessing.phrases import PHRASES, stored_phrases
from fgr_edge.runtime.outliers import read_outliers
from fgr_edge.runtime.recognizer import Recognizer

COUNT = 20  # species; as few photographs as calibrate at all


@contextmanager
def quiet(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="module")
def pictures(birds: Callable[[int], list[Path]]) -> list[tuple[Path, str]]:
    """A drawing of each of the first species."""
    return [(path, species.name) for path, species in zip(birds(len(SPECIES)), SPECIES, strict=True)][:COUNT]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The species with their families as parents."""
    path = tmp_path_factory.mktemp("labels") / "families.csv"
    path.write_text("name,parent\n" + "".join(f"{species.name},{species.family}\n" for species in SPECIES[:COUNT]))
    return path


@pytest.fixture(scope="module")
def exported(nano_bundle: Callable[..., Path], families: Path) -> Path:
    return nano_bundle("int8", families)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change: linked, since an amendment never writes into a file."""
    return Path(shutil.copytree(exported, tmp_path / "bundle", copy_function=os.link))


def listed(folder: Path, rows: list[tuple[Path, str]]) -> Path:
    path = folder / "list.csv"
    path.write_text("path,label\n" + "".join(f"{picture},{label}\n" for picture, label in rows))
    return path


def calibrate(bundle: Path, data: Path, **changes: Any) -> Report:
    return calibrate_labels(CalibrationConfig(bundle, data, threads=1, **changes), quiet)


def files(bundle: Path) -> dict[str, Any]:
    return {name: entry["sha256"] for name, entry in Bundle.open(bundle, verify="full").manifest["files"].items()}


def test_a_calibrated_bundle_answers_with_calibrated_probabilities(
    bundle: Path, exported: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    report = calibrate(bundle, listed(tmp_path, pictures), risk=0.15)
    [mode] = report["modes"]
    assert (mode["photographs"], mode["classes_with_photographs"], mode["classes"]) == (COUNT, COUNT, COUNT)
    assert mode["before"]["accuracy"] > 0.9
    assert mode["temperature"] == 1.0, "without mistakes there is nothing to fit one on"
    assert len(mode["notes"]) == 1 and mode["notes"][0].startswith("Only 0 of 20 photographs are named wrongly")
    labels = Recognizer(bundle).labels
    assert labels is not None
    stored = read_confidence(Bundle.open(bundle), labels)["direct"]
    assert (stored.temperature, stored.accept_probability) == (mode["temperature"], mode["threshold"])
    assert (stored.risk, stored.risk_confidence, stored.photographs) == (0.15, 0.9, COUNT)
    detector = read_outliers(Bundle.open(bundle), "direct")
    assert detector is not None and detector.threshold == stored.outlier_threshold
    found = Recognizer(bundle, threads=1)(pictures[0][0])
    assert found.calibrated and found.label == pictures[0][1]
    old, new = files(exported), files(bundle)
    assert set(new) - set(old) == {CONFIDENCE, "outliers_direct.npz"}
    assert all(new[name] == old[name] for name in old)


def test_a_bundle_that_errs_gets_the_temperature_that_was_fitted(
    bundle: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    # Half of the photographs carry their neighbour's name: the model is far too sure, and must be told so.
    rows = [(path, pictures[i ^ 1][1] if i % 4 < 2 else label) for i, (path, label) in enumerate(pictures)]
    [mode] = calibrate(bundle, listed(tmp_path, rows), risk=0.9)["modes"]
    assert mode["before"]["accuracy"] == 0.5
    assert mode["temperature"] > 2 and mode["after"]["nll"] < mode["before"]["nll"]
    labels = Recognizer(bundle).labels
    assert labels is not None
    stored = read_confidence(Bundle.open(bundle), labels)["direct"]
    assert (stored.temperature, stored.accept_probability) == (mode["temperature"], mode["threshold"])


def test_where_no_threshold_keeps_the_risk_nothing_is_answered_and_it_is_said(
    bundle: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    [mode] = calibrate(bundle, listed(tmp_path, pictures), risk=0.01)["modes"]
    assert mode["threshold"] is None and "nothing is answered" in mode["notes"][1]
    document = Bundle.open(bundle).json(CONFIDENCE)["modes"]["direct"]
    assert document["accept_probability"] is None and document["notes"] == mode["notes"]
    assert Recognizer(bundle, threads=1)(pictures[0][0]).abstained_because == "unsure"


def test_a_calibration_is_replaced_by_force_alone_and_other_modes_stay(
    bundle: Path, pictures: list[tuple[Path, str]], families: Path, tmp_path: Path
) -> None:
    data = listed(tmp_path, pictures)
    calibrate(bundle, data, risk=0.15)
    before = files(bundle)
    with pytest.raises(OutputExistsError, match="--force"):
        calibrate(bundle, data)
    assert files(bundle) == before
    # Another mode goes beside it; the same labels in another order are the same.
    rows = families.read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([rows[0], *rows[:0:-1]]))
    calibrate(bundle, data, modes=("reason",), labels=tmp_path / "turned.csv")
    document = Bundle.open(bundle).json(CONFIDENCE)
    assert sorted(document["modes"]) == ["direct", "reason"] and document["modes"]["direct"]["risk"] == 0.15
    assert files(bundle)["labels.json"] == before["labels.json"]
    # What it thought about the photographs is where its next thoughts are guessed from.
    assert PHRASES not in before and len(stored_phrases(Bundle.open(bundle))) == len(pictures)
    # Other labels become the bundle's, and what was fitted for the old ones goes.
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:COUNT]))
    with pytest.raises(OutputExistsError, match="20 other labels"):
        calibrate(bundle, data, labels=tmp_path / "names.txt")
    calibrate(bundle, data, labels=tmp_path / "names.txt", force=True)
    assert list(Bundle.open(bundle).json(CONFIDENCE)["modes"]) == ["direct"]
    assert "outliers_reason.npz" not in files(bundle)
    assert Recognizer(bundle, threads=1)(pictures[0][0]).calibrated


def test_a_bundle_without_labels_gets_them(
    nano_bundle: Callable[..., Path], pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(nano_bundle("int8"), tmp_path / "bundle", copy_function=os.link))
    data = listed(tmp_path, pictures)
    with pytest.raises(ConfigError, match="--labels"):
        calibrate(bundle, data)
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:COUNT]))
    calibrate(bundle, data, labels=tmp_path / "names.txt")
    opened = Recognizer(bundle, threads=1)
    assert opened.labels is not None and opened.labels.names == NAMES[:COUNT]
    assert opened(pictures[3][0]).calibrated


def test_classes_without_photographs_are_refused_or_told(
    bundle: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    data = listed(tmp_path, [*pictures[:15], *pictures[:5]])
    before = files(bundle)
    with pytest.raises(DataError, match=rf"5 of the 20 classes have no photograph: {NAMES[15]}.*--allow-missing"):
        calibrate(bundle, data)
    assert files(bundle) == before
    [mode] = calibrate(bundle, data, allow_missing=True)["modes"]
    assert mode["classes_with_photographs"] == 15
    assert any("5 of the 20 classes" in note and NAMES[15] in note for note in mode["notes"])


def test_data_that_cannot_calibrate_are_refused_before_any_work(
    bundle: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="lack 1 classes of the photographs: 'Dodo'"):
        calibrate(bundle, listed(tmp_path, [*pictures, (pictures[0][0], "Dodo")]))
    with pytest.raises(DataError, match="19 photographs to calibrate with, expected at least 20"):
        calibrate(bundle, listed(tmp_path, pictures[:19]), allow_missing=True)
    for changes in ({"risk": 0}, {"risk": 1.0}, {"delta": -1}, {"modes": ()}):
        with pytest.raises(ConfigError):
            calibrate(bundle, listed(tmp_path, pictures), **changes)


def test_a_few_unreadable_photographs_are_skipped_and_listed_and_many_are_refused(
    bundle: Path, pictures: list[tuple[Path, str]], tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / f"broken{number}.png").write_bytes(b"\x89PNG but no more")
    broken = [(tmp_path / f"broken{number}.png", NAMES[0]) for number in range(2)]
    report = calibrate(bundle, listed(tmp_path, [broken[0], *pictures]))
    assert [Path(one["path"]).name for one in report["skipped"]] == ["broken0.png"]
    assert report["modes"][0]["photographs"] == COUNT
    with pytest.raises(DataError, match="2 of the 22 photographs cannot be opened"):
        calibrate(bundle, listed(tmp_path, [*broken, *pictures]), force=True)


def test_scores_that_are_no_numbers_name_the_photograph() -> None:
    model = SimpleNamespace(evidence=lambda path, mode: SimpleNamespace(log_probs=np.array([0.0, np.nan])))
    with pytest.raises(EngineError, match=r"direct scores of bad\.png are NaN.*float32"):
        score_pictures(
            model,  # type: ignore[arg-type]
            [LabelledPicture(Path("bad.png"), "x")],
            np.zeros(1, np.int64),
            ["direct"],
            lambda _: None,
        )


class Page(HTMLParser):
    """Collects what a page loads and the elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href") and value and not value.startswith("#")]


def test_the_command_prints_a_table_and_writes_a_report_that_stands_alone(
    bundle: Path,
    pictures: list[tuple[Path, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    report = tmp_path / "report"
    arguments = ["calibrate-labels", bundle, listed(tmp_path, pictures), "--risk", "0.15", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["fgr-edge", *map(str, [*arguments, "--report", report])])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code in (0, None), printed.err
    assert "direct mode: 20 photographs of 20 of 20 classes" in printed.out
    for words in ("before", "after", "ECE", "Brier", "with parents: answered", "answers from p = "):
        assert words in printed.out
    document = json.loads((report / "report.json").read_text())
    assert document["modes"][0]["after"]["length_bias"]["lengths"]
    page = Page()
    page.feed((report / "report.html").read_text())
    assert page.tags.count("svg") == 3 and page.loads == [] and "script" not in page.tags
