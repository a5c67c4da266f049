"""Settings measured on a machine are used there, with the graphs that they were measured with, and nowhere else."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fgr_edge import Recognizer
from fgr_edge.errors import ConfigError, StorageError
from fgr_edge.runtime import tuning as tuning_module
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.tuning import Tuning, sources_of, this_machine, tuned_settings, tuning_path, write_tuning

FOUND = SessionSettings(threads=1, spinning="never", arena=False)


@pytest.fixture
def bundle(nano_bundle: Callable[..., Path], tmp_path: Path) -> Bundle:
    shutil.copytree(nano_bundle("int8"), tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def tuning(bundle: Bundle) -> Tuning:
    return Tuning(FOUND, this_machine(), sources_of(bundle), ({"threads": 1, "answer_ms": 3.0},))


def test_what_was_written_is_read(bundle: Bundle) -> None:
    assert tuned_settings(bundle) == SessionSettings()
    path = write_tuning(bundle, tuning(bundle))
    assert tuned_settings(bundle) == FOUND
    assert [entry.name for entry in path.parent.iterdir()] == ["tuning.json"]
    Bundle.open(bundle.path, verify="full")


@pytest.mark.parametrize("change", [{"cores": 64}, {"cpu": "another"}, {"onnxruntime": "9.9"}, {"features": ""}])
def test_another_machine_takes_the_defaults(
    bundle: Bundle, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tuning(bundle, tuning(bundle))
    other = replace(this_machine(), **change)  # type: ignore[arg-type]
    monkeypatch.setattr(tuning_module, "this_machine", lambda: other)
    assert tuned_settings(bundle) == SessionSettings()


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.update(schema_version=99),
        lambda document: document["sources"].update({"decoder.onnx": "0" * 64}),
        lambda document: document["settings"].update(threads=0),
        lambda document: document["settings"].update(unknown=1),
        lambda document: document["settings"].update(products="another's"),
        lambda document: document.pop("settings"),
    ],
    ids=["version", "graphs", "value", "key", "products", "missing"],
)
def test_a_record_that_does_not_fit_is_left_aside_with_a_warning(
    bundle: Bundle, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tuning(bundle, tuning(bundle))
    document = json.loads(path.read_text())
    damage(document)  # type: ignore[operator]
    path.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING, logger="fgr_edge"):
        assert tuned_settings(bundle) == SessionSettings()
    assert "run fgr-edge tune again" in caplog.text


def test_a_record_from_before_there_was_a_choice_of_products_has_the_default(bundle: Bundle) -> None:
    path = write_tuning(bundle, tuning(bundle))
    document = json.loads(path.read_text())
    del document["settings"]["products"]
    path.write_text(json.dumps(document))
    assert tuned_settings(bundle) == FOUND


def test_the_products_that_were_found_are_used(bundle: Bundle) -> None:
    write_tuning(bundle, replace(tuning(bundle), settings=replace(FOUND, products="onnxruntime")))
    assert Recognizer(bundle.path, ["Kiwi"]).model.products == "onnxruntime"


def test_a_torn_record_is_left_aside(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tuning(bundle, tuning(bundle))
    path.write_text(path.read_text()[:40])
    assert tuned_settings(bundle) == SessionSettings()
    assert "left aside" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(bundle: Bundle) -> None:
    path = tuning_path(bundle.path, this_machine())
    path.parent.parent.mkdir()
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write"):
        write_tuning(bundle, tuning(bundle))


@pytest.mark.parametrize("spinning", ["during calls", "never", "always"])
@pytest.mark.parametrize("other", [True, False])
def test_settings_change_no_answer(bundle: Bundle, spinning: str, other: bool) -> None:
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    expected = Recognizer(bundle.path, ["Kiwi", "Lemon"])(picture)
    settings = SessionSettings(1, spinning, arena=other, huge_pages=not other)  # type: ignore[arg-type]
    write_tuning(bundle, replace(tuning(bundle), settings=settings))
    found = Recognizer(bundle.path, ["Kiwi", "Lemon"])(picture)
    assert found.label == expected.label
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)


def test_products_change_an_answer_by_rounding(bundle: Bundle) -> None:
    import numpy as np

    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    found = []
    for products in ("fgr-edge", "onnxruntime"):
        write_tuning(bundle, replace(tuning(bundle), settings=replace(FOUND, products=products)))
        found.append(Recognizer(bundle.path, ["Kiwi", "Lemon"])(picture))
    assert found[0].label == found[1].label
    assert found[0].probability == pytest.approx(found[1].probability, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"threads": 1.5},
        {"spinning": "sometimes"},
        {"arena": 1},
        {"huge_pages": None},
        {"products": None},
    ],
)
def test_settings_that_do_not_exist_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        SessionSettings(**wrong)  # type: ignore[arg-type]
