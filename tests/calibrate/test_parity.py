"""A finished bundle beside the original: nano in fp32 and int8 on drawn birds, measured for real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fgr_edge.calibrate.parity import ParityOptions, common_folder, measure_parity
from fgr_edge.calibrate.parity_document import Parity
from fgr_edge.calibrate.pictures import AVIARY
from fgr_edge.data.aviary import NAMES, SPECIES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import BundleError, ConfigError, DataError
from fgr_edge.runtime.bundle import sha256_of
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.recognizer import Recognizer

LABELS = LabelSet.from_names(NAMES)
BIRDS = 8


@contextmanager
def quiet(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


@pytest.fixture(scope="module")
def pictures(birds: Callable[[int], list[Path]]) -> list[LabelledPicture]:
    return [
        LabelledPicture(path, SPECIES[number * len(SPECIES) // BIRDS].name) for number, path in enumerate(birds(BIRDS))
    ]


@pytest.fixture(scope="module")
def found(nano_bundle: Callable[..., Path], pictures: list[LabelledPicture]) -> Parity:
    options = ParityOptions("drawings", modes=("direct", "reason"), stage_pictures=2)
    return measure_parity(nano_bundle("fp32"), nano_bundle("int8"), pictures, LABELS, options, quiet)


def measured(found: Parity, stage: str, name: str, mode: str | None = "direct") -> float:
    (one,) = (row for row in found["stages"] if (row["stage"], row["name"], row["mode"]) == (stage, name, mode))
    return one["worst"]


def test_quantized_stages_differ_by_a_little_and_pixels_not_at_all(found: Parity) -> None:
    assert measured(found, "pixels", "max_abs", None) == 0
    assert 1e-3 < measured(found, "image_embeds", "relative_error", None) < 0.1
    assert 1e-4 < measured(found, "first_logits", "relative_error") < 0.1
    assert 1e-4 < measured(found, "label_log_probs", "mean_abs_nats") < 0.5
    assert measured(found, "tokens", "forced_agreement", "reason") > 0.9
    assert all(row["within"] is not False for row in found["stages"])


def test_stages_are_compared_on_a_few_pictures_and_answers_on_all(found: Parity) -> None:
    counts = {(row["stage"], row["mode"]): row["pictures"] for row in found["stages"]}
    assert counts["image_embeds", None] == counts["tokens", "reason"] == counts["label_log_probs", "reason"] == 2
    assert counts["label_log_probs", "direct"] == BIRDS
    assert [accuracy["pictures"] for accuracy in found["accuracy"]] == [BIRDS, BIRDS]


def test_a_device_can_ask_every_picture_again(
    found: Parity, pictures: list[LabelledPicture], nano_bundle: Callable[..., Path]
) -> None:
    recognizer = Recognizer(nano_bundle("int8"), LABELS)
    answers = found["accuracy"][0]["answers"]
    for picture in pictures[:3]:
        expected = answers[sha256_of(picture.path)]
        assert expected["truth"] == picture.label and not Path(expected["path"]).is_absolute()
        again = recognizer(picture.path)
        assert again.label == expected["bundle"]["label"]
        assert again.probability == pytest.approx(expected["bundle"]["probability"], abs=0.02)


def test_the_document_is_plain_json_and_names_no_folder_of_this_machine(
    found: Parity, pictures: list[LabelledPicture]
) -> None:
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["verdict"]["max_accuracy_drop"] is None
    assert str(common_folder(pictures)) not in text
    assert found["bundle"]["total_bytes"] < 0.5 * found["original"]["total_bytes"]
    assert found["original"]["graphs_sha256"] != found["bundle"]["graphs_sha256"]
    assert found["latency"]["bundle"]["runs"] == 4 and found["latency"]["original"]["answer_ms"] > 0


def test_a_bundle_beside_itself_changes_nothing(
    nano_bundle: Callable[..., Path], pictures: list[LabelledPicture]
) -> None:
    fp32 = nano_bundle("fp32")
    same = measure_parity(fp32, fp32, pictures[:2], LABELS, ParityOptions(AVIARY, stage_pictures=1), quiet)
    assert same["accuracy"][0]["flips"] == [] and not same["data"]["users"]
    assert measured(same, "label_log_probs", "max_abs_nats") < 1e-4
    assert measured(same, "tokens", "identical", "reason") == 1
    assert all(row["within"] is not False for row in same["stages"])


def test_unreadable_pictures_are_skipped_and_listed_and_repeated_ones_count_once(
    nano_bundle: Callable[..., Path], pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    chosen = []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        shutil.copyfile(pictures[number % 4].path, path)
        chosen.append(LabelledPicture(path, pictures[number % 4].label))
    chosen[7].path.write_bytes(b"no picture")
    fp32, int8 = nano_bundle("fp32"), nano_bundle("int8")
    found = measure_parity(fp32, int8, chosen, LABELS, ParityOptions("photographs", stage_pictures=1), quiet)
    assert (found["data"]["pictures"], found["data"]["repeated"], found["data"]["classes"]) == (4, 15, 4)
    (skipped,) = found["data"]["skipped"]
    assert skipped["path"] == "7.png" and str(tmp_path) not in skipped["error"]
    chosen[9].path.write_bytes(b"")
    with pytest.raises(DataError, match="more than 5%"):
        measure_parity(fp32, int8, chosen, LABELS, ParityOptions("photographs"), quiet)


def test_what_cannot_be_compared_is_refused(
    nano_bundle: Callable[..., Path], pictures: list[LabelledPicture], tmp_path: Path
) -> None:
    fp32, options = nano_bundle("fp32"), ParityOptions("photographs")
    with pytest.raises(DataError, match="no pictures"):
        measure_parity(fp32, fp32, [], LABELS, options, quiet)
    with pytest.raises(DataError, match="the labels lack 1 classes"):
        measure_parity(fp32, fp32, [LabelledPicture(pictures[0].path, "Dodo")], LABELS, options, quiet)
    other = tmp_path / "other"
    shutil.copytree(fp32, other)
    _change_manifest(other)
    with pytest.raises(BundleError, match="differ in 'vision'"):
        measure_parity(fp32, other, pictures, LABELS, options, quiet)
    with pytest.raises(ConfigError, match="modes"):
        ParityOptions("photographs", modes=())
    with pytest.raises(ConfigError, match="stage_pictures"):
        ParityOptions("photographs", stage_pictures=0)


def _change_manifest(bundle: Path) -> None:
    from fgr_edge.runtime.bundle_amendment import BundleAmendment

    with BundleAmendment(bundle) as amendment:
        assert amendment.manifest is not None
        vision = {**amendment.manifest["vision"], "rope_theta": 1.0}
        amendment.manifest = {**amendment.manifest, "vision": vision}
