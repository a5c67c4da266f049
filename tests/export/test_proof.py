"""Exports that are measured on photographs: what is in the bundle, what a bound does, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fgr_edge.calibrate.parity import measure_parity
from fgr_edge.calibrate.verify import verify
from fgr_edge.data.aviary import SPECIES, VALIDATION_SEEDS
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.errors import ConfigError, DataError, FgrEdgeError, MissingExtraError, ParityError
from fgr_edge.export import proof as proof_module
from fgr_edge.export.model import Model
from fgr_edge.export.pipeline import ExportConfig, export_checkpoint
from fgr_edge.export.progress import progress_bar
from fgr_edge.export.workshop import Workshop
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.guessing.phrases import stored_phrases
from fgr_edge.runtime.inspection import summary


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class: four species, six drawings of each."""
    folder = tmp_path_factory.mktemp("photographs")
    for species in SPECIES[:4]:
        (folder / species.name).mkdir()
        for seed in VALIDATION_SEEDS[:6]:
            draw(species, seed).save(folder / species.name / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def export(nano_checkpoint: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def run(**options: Any) -> Path:
        output = tmp_path_factory.mktemp("bundles") / "bundle"
        options = {"calib": photographs, "calib_pictures": 8, "quiet": True, **options}
        return export_checkpoint(ExportConfig(nano_checkpoint, output, **options))

    return run


def parity_of(bundle: Path) -> Any:
    return json.loads((bundle / "parity.json").read_text(encoding="utf-8"))


def test_an_export_carries_its_report_and_golden_outputs(export: Callable[..., Path]) -> None:
    bundle = export(precision="int8")
    opened = Bundle.open(bundle, verify="full")
    assert {"parity.json", "parity.html", "golden.npz"} <= set(opened.manifest["files"])
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"], "something was left beside the bundle"
    parity = parity_of(bundle)
    assert parity["data"]["users"] and parity["data"]["pictures"] == 24 and parity["verdict"]["passed"]
    assert parity["accuracy"][0]["original"]["top_1"]["share"] == 1.0, "nano knows its four birds"
    assert parity["bundle"]["precision"]["decoder"] == "int8"
    assert parity["verdict"]["headline"] in summary(bundle)
    assert verify(bundle, None, partial(progress_bar, quiet=True))["passed"]


def test_a_calibrated_export_says_what_it_was_calibrated_on(export: Callable[..., Path]) -> None:
    bundle = export(precision="int4")
    provenance = Bundle.open(bundle).manifest["provenance"]
    parity = parity_of(bundle)
    assert provenance["calibration_digest"] == parity["calibration"]["sha256"]
    assert parity["calibration"]["pictures"] == 8
    assert parity["data"]["pictures"] == 16, "measured on what nothing was calibrated on"
    assert len(stored_phrases(Bundle.open(bundle))) == 8, "the thoughts that it was calibrated on"
    plain = export(precision="int8", proof=False)
    assert sum(f.stat().st_size for f in bundle.glob("*.data")) < sum(f.stat().st_size for f in plain.glob("*.data"))


def test_without_photographs_drawn_birds_stand_in_and_the_report_says_so(export: Callable[..., Path]) -> None:
    parity = parity_of(export(precision="int8", calib=None, proof_pictures=40))
    assert parity["data"]["source"] == "aviary" and not parity["data"]["users"]
    assert any("drawn birds" in sentence for sentence in parity["verdict"]["found"])


def test_a_bound_keeps_the_layers_that_lose_most(export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Which layers lose how much is measured; only the accuracy, which four birds never lose, is planted.

    def lossy(reference: Path, bundle: Path, *rest: Any) -> Any:
        parity = measure_parity(reference, bundle, *rest)
        kept = Bundle.open(bundle).manifest["provenance"]["kept"]
        for accuracy in parity["accuracy"]:
            accuracy["difference"] = 0.0 if len(kept) >= 2 else -0.25
        return parity

    monkeypatch.setattr(proof_module, "measure_parity", lossy)
    monkeypatch.setattr(Model, "units", lambda _: ["vision.merger", "decoder.0", "decoder.3", "head"])
    bundle = export(precision="int4", method="nearest", max_accuracy_drop=0.01)
    kept = Bundle.open(bundle).manifest["provenance"]["kept"]
    ranking = parity_of(bundle)["sensitivity"]
    assert len(kept) == 2 and set(kept.values()) == {"int8"}
    assert [row["unit"] for row in ranking[:2]] == list(kept)
    assert [row["error"] for row in ranking] == sorted((row["error"] for row in ranking), reverse=True)
    assert all((row["kept"] == "int8") == (row["unit"] in kept) for row in ranking)


def test_an_export_beyond_its_bound_fails_and_keeps_the_report(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:

    def lossy(*arguments: Any) -> Any:
        parity = measure_parity(*arguments)
        for accuracy in parity["accuracy"]:
            accuracy["difference"] = -0.25
        return parity

    monkeypatch.setattr(proof_module, "measure_parity", lossy)
    monkeypatch.setattr(Model, "units", lambda _: ["head"])
    with pytest.raises(ParityError, match=r"expected a loss of at most 1 points.*The report is kept in") as caught:
        export(precision="int8", max_accuracy_drop=0.01)
    kept = Path(str(caught.value).rpartition("kept in ")[2])
    assert {path.name for path in kept.iterdir()} == {"parity.json", "parity.html"}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name], "nothing else is left"


def test_an_unproved_bundle_says_so(export: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    bundle = export(precision="int8", proof=False)
    assert "not proved" in caplog.text
    assert "golden.npz" not in Bundle.open(bundle)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "int5"}, ConfigError, "precision 'int5' is not known; choose one of fp32"),
        ({"precision": "fp8"}, ConfigError, "target 'cpu' cannot run precision 'fp8'; choose one of"),
        ({"precision": "fp8", "target": "tensorrt", "gpu": "orin-nano"}, ConfigError, "(?i)sm ?87"),
        ({"method": "awq"}, ConfigError, "method 'awq' is for int4 weights, and 'int8' has none"),
        ({"vision": "int3"}, ConfigError, "--vision 'int3' is no scheme"),
        ({"max_accuracy_drop": 1.5}, ConfigError, "max_accuracy_drop is 1.5, expected a share of 0 to 1"),
        ({"max_accuracy_drop": 0.01, "proof": False}, ConfigError, "cannot be held without the proof"),
        ({"calib": Path("nowhere")}, DataError, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    export: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[FgrEdgeError],
    message: str,
) -> None:
    monkeypatch.setattr(Workshop, "write", lambda *_: pytest.fail("something was written"))
    with pytest.raises(error, match=message):
        export(**options)


def test_photographs_that_are_not_of_the_labels_are_named(export: Callable[..., Path], tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Apple\nPear\n", encoding="utf-8")
    with pytest.raises(FgrEdgeError, match=SPECIES[0].name):
        export(labels=labels)


def test_photographs_of_one_class_only_are_refused(
    export: Callable[..., Path], photographs: Path, tmp_path: Path
) -> None:
    os.symlink(photographs / SPECIES[0].name, tmp_path / SPECIES[0].name)
    with pytest.raises(DataError, match="at least two classes"):
        export(calib=tmp_path)


def test_without_an_engine_the_proof_names_the_extra(
    export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed; pip install 'fgr-edge\[cpu\]'"):
        export()
