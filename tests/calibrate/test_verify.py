"""A sound bundle passes wherever it lies; each planted fault is caught, in the stage where it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fgr_edge.calibrate.golden import GOLDEN, make_golden, store_golden
from fgr_edge.calibrate.verify import STAGES
from fgr_edge.calibrate.verify_report import VerifyReport, table
from fgr_edge.errors import BundleError
from fgr_edge.export.tensor_places import tensor_places
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.label_trie.tree_calls import TreeCalls
from tests.command import Done
from tests.planted import change_bytes, checked, copied, flip, mend_digests, set_number, swap_qkv, with_golden
from tests.test_imports import HEAVY, modules_of_command
from tests.tiny import TinyModels

GoldenBundle = Callable[[str, str], Path]
BOTH = ("fp32", "int8")
MODELS = [("nano", "fp32"), ("nano", "int8"), ("qwen2.5", "int8"), ("qwen3", "fp32")]
BEHAVIOUR = [("nano", "int8"), ("qwen3", "fp32")]  # the host's code is the same at any precision


def statuses(report: VerifyReport) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in report["stages"]}


def right_before(report: VerifyReport, stage: str) -> bool:
    """Whether `stage` is the first that is wrong, and all before it passed."""
    found = statuses(report)
    return report["first_wrong"] == stage and all(found[name] == "passed" for name in STAGES[: STAGES.index(stage)])


@pytest.mark.parametrize(("model", "precision"), MODELS)
def test_a_sound_bundle_passes_every_stage(golden_bundle: GoldenBundle, model: str, precision: str) -> None:
    report = checked(golden_bundle(model, precision))
    assert report["passed"], table(report)
    assert statuses(report) == dict.fromkeys(STAGES, "passed")
    assert report["first_wrong"] is None and report["likely_cause"] is None


@pytest.mark.parametrize("threads", [1, 2])
def test_a_copy_passes_with_any_number_of_threads(golden_bundle: GoldenBundle, tmp_path: Path, threads: int) -> None:
    report = checked(copied(golden_bundle("nano", "int8"), tmp_path), threads=threads)
    assert report["passed"], table(report)


@pytest.mark.parametrize("model", ["nano", "qwen2.5", "qwen3"])
def test_kernels_that_do_not_round_their_inputs_pass(golden_bundle: GoldenBundle, tmp_path: Path, model: str) -> None:
    # What an engine without int8 kernels does: MatMulNBits in float32.
    bundle = copied(golden_bundle(model, "int8"), tmp_path)
    with BundleAmendment(bundle) as amendment:
        for name in ("vision.onnx", "decoder.onnx"):
            graph = onnx.load(str(bundle / name), load_external_data=False)
            for node in graph.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "accuracy_level":
                        attribute.i = 0
            amendment.path(name).write_bytes(graph.SerializeToString())
    store_golden(bundle, {**without_tensors(bundle)})
    report = checked(bundle)
    assert report["passed"], table(report)
    assert any(check["error"] for stage in report["stages"] for check in stage["checks"]), "nothing was changed"


def without_tensors(bundle: Path) -> dict[str, Any]:
    """Golden outputs whose table of tensors is empty: graphs written anew have other bytes and places."""
    with np.load(bundle / GOLDEN, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    return {key: value[:0] if key.startswith("tensors/") else value for key, value in arrays.items()}


def test_a_file_that_changed_is_found_and_nothing_is_run(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    stored = bytearray((bundle / "vision.onnx.data").read_bytes())
    stored[len(stored) // 2] ^= 1
    (bundle / "vision.onnx.data").write_bytes(stored)
    report = checked(bundle)
    assert report["first_wrong"] == "files"
    assert "vision.onnx.data has changed" in table(report)
    assert statuses(report)["weights"] == "failed", "the tensor is named as well"
    assert set(list(statuses(report).values())[2:]) == {"skipped"}


@pytest.mark.parametrize("file", ["decoder.onnx.data", GOLDEN])
def test_a_file_that_is_missing_is_found(golden_bundle: GoldenBundle, tmp_path: Path, file: str) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    (bundle / file).unlink()
    report = checked(bundle)
    assert report["first_wrong"] == "files" and f"{file} is missing" in table(report)


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("fp32", "model.layers.2.mlp.down_proj.weight"),
        ("int8", "visual.blocks.3.attn.proj.weight.int8"),
        ("int8", "model.layers.1.self_attn.o_proj.weight.scale"),
        ("int8", "visual.blocks.5.norm1.weight"),  # a constant inside vision.onnx
        ("int8", "embedding"),
    ],
)
def test_one_flipped_bit_is_found_and_its_tensor_named(
    golden_bundle: GoldenBundle, tmp_path: Path, precision: str, name: str
) -> None:
    bundle = copied(golden_bundle("nano", precision), tmp_path)
    flip(bundle, name)
    report = checked(bundle)
    assert right_before(report, "weights")
    assert f"changed since export: {name} (" in table(report)
    assert "changed after export" in str(report["likely_cause"])


@pytest.mark.parametrize(
    ("model", "precision", "order"),
    [(*made, "kqv") for made in MODELS] + [("nano", "int8", "qvk"), ("nano", "int8", "vkq")],
)
def test_swapped_rows_of_one_decoder_layer_are_found_after_prefill(
    golden_bundle: GoldenBundle, tmp_path: Path, model: str, precision: str, order: str
) -> None:
    bundle = copied(golden_bundle(model, precision), tmp_path)
    swap_qkv(bundle, "decoder", 1, order)
    mend_digests(bundle)
    report = checked(bundle)
    assert right_before(report, "prefill"), table(report)
    assert "q/k/v order" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), MODELS)
def test_swapped_rows_of_one_vision_block_are_found_after_vision(
    golden_bundle: GoldenBundle, tmp_path: Path, model: str, precision: str
) -> None:
    bundle = copied(golden_bundle(model, precision), tmp_path)
    swap_qkv(bundle, "vision", 2, "kqv")
    mend_digests(bundle)
    report = checked(bundle)
    assert right_before(report, "vision"), table(report)
    assert "q/k/v order" in str(report["likely_cause"])


@pytest.mark.parametrize("precision", BOTH)
def test_rows_that_were_swapped_at_export_differ_from_the_original(
    golden_bundle: GoldenBundle, tmp_path: Path, precision: str
) -> None:
    bundle = copied(golden_bundle("qwen2.5", precision), tmp_path)
    swap_qkv(bundle, "decoder", 1, "vkq")
    store_golden(bundle, make_golden(golden_bundle("qwen2.5", "fp32"), bundle, tensors=tensor_places(bundle)))
    report = checked(bundle)
    assert right_before(report, "prefill"), table(report)
    prefill = next(stage for stage in report["stages"] if stage["name"] == "prefill")
    assert {check["against"] for check in prefill["checks"] if not check["passed"]} == {"original"}
    assert "this machine does what the exporting one did" in str(report["likely_cause"])


@pytest.mark.parametrize(
    ("part", "stage", "base"),
    [("decoder", "rotary", 1e6), ("decoder", "rotary", 10100.0), ("vision", "vision tables", 11000.0)],
)
def test_a_wrong_rope_base_is_found_in_its_table(
    golden_bundle: GoldenBundle, tmp_path: Path, part: str, stage: str, base: float
) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    set_number(bundle, part, "rope_theta", base)
    report = checked(bundle)
    assert right_before(report, stage), table(report)
    assert "rope" in str(report["likely_cause"])


def test_wrong_mrope_sections_are_found_in_the_table(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    set_number(bundle, "decoder", "mrope_section", [12, 12, 8])
    assert right_before(checked(bundle), "rotary")


def test_wrong_image_numbers_are_found_in_preprocessing(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    set_number(bundle, "image", "mean", [0.5, 0.5, 0.5])
    assert right_before(checked(bundle), "preprocessing")


def test_another_question_is_found_in_the_prompt(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    set_number(bundle, "prompt", "question", "What is this?")
    assert right_before(checked(bundle), "prompt")


@pytest.mark.parametrize(("model", "precision"), [("nano", "fp32"), ("qwen2.5", "int8")])
def test_windows_in_another_order_are_found_in_their_tables(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    from fgr_edge.runtime import vision

    inner = vision.window_tables

    def by_columns(height: int, width: int, merge: int, window: int) -> dict[str, Any]:
        """Windows down the columns of the picture, instead of along its rows."""
        tables = inner(height, width, merge, window)
        rows, columns = np.indices((height // merge, width // merge)).reshape(2, -1)
        span, unit = window // merge, merge * merge
        window_of = columns // span * -(-(height // merge) // span) + rows // span
        tokens = np.argsort(window_of, kind="stable")
        counts = np.bincount(window_of) * unit
        mask = np.arange(window * window) < counts[:, None]
        return {
            **tables,
            "order": (tokens[:, None] * unit + np.arange(unit)).reshape(-1),
            "window_rows": np.where(mask, (np.cumsum(counts) - counts)[:, None] + np.arange(window * window), 0),
            "window_mask": mask.astype(np.int32),
            "window_inverse": np.flatnonzero(mask),
            "restore": np.argsort(tokens),
        }

    monkeypatch.setattr(vision, "window_tables", by_columns)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "vision tables"), table(report)
    assert "window order" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), BEHAVIOUR)
def test_one_stale_row_that_decoding_attends_to_is_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    inner = Decoder.extend

    def one_too_many(self: Decoder, embeds: Any) -> Any:
        self.length += 1  # a slot that this text never wrote
        logits = inner(self, embeds)
        self.length -= 1
        return logits

    monkeypatch.setattr(Decoder, "extend", one_too_many)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "decode"), table(report)
    assert "stale" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), BEHAVIOUR)
def test_rows_that_decoding_does_not_write_are_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    inner = Decoder.extend

    def unwritten(self: Decoder, embeds: Any) -> Any:
        slot = self.length
        before = [buffer.array[:, :, slot].copy() for buffer in self._cache.values()]
        logits = inner(self, embeds)
        for buffer, row in zip(self._cache.values(), before, strict=True):
            buffer.array[:, :, slot] = row
        return logits

    monkeypatch.setattr(Decoder, "extend", unwritten)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "decode"), table(report)
    assert "not written" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), BEHAVIOUR)
def test_a_rewind_that_forgets_nothing_is_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    monkeypatch.setattr(Decoder, "rewind", lambda self, length: None)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "decode"), table(report)
    assert "stale cache rows" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), BEHAVIOUR)
def test_label_branches_that_stay_in_the_cache_are_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    monkeypatch.setattr(TreeCalls, "close", lambda self: None)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "labels"), table(report)
    assert "branches stay" in str(report["likely_cause"])


@pytest.mark.parametrize(("model", "precision"), BEHAVIOUR)
def test_kv_from_the_previous_picture_before_the_next_is_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, model: str, precision: str
) -> None:
    inner, forward = Decoder.prefill, Decoder.forward
    kept = 0

    def behind(self: Decoder, embeds: Any, positions: Any, **options: Any) -> Any:
        nonlocal kept
        kept = self.length
        logits = inner(self, embeds, positions, **options)
        kept = 0
        return logits

    def after_what_is_there(self: Decoder, *arguments: Any) -> Any:
        self.length += kept
        return forward(self, *arguments)

    monkeypatch.setattr(Decoder, "prefill", behind)
    monkeypatch.setattr(Decoder, "forward", after_what_is_there)
    report = checked(golden_bundle(model, precision))
    assert right_before(report, "next picture"), table(report)
    assert "previous picture" in str(report["likely_cause"])


@pytest.mark.parametrize("precision", BOTH)
def test_kv_from_the_previous_picture_behind_the_next_is_found(
    golden_bundle: GoldenBundle, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    inner = Decoder.prefill

    def never_shorter(self: Decoder, embeds: Any, positions: Any, **options: Any) -> Any:
        before = self.length
        inner(self, embeds, positions, **options)
        # The count of valid rows is the last picture's, where that was longer.
        self.length = max(before, len(embeds)) - 1
        return self.extend(embeds[-1:])

    monkeypatch.setattr(Decoder, "prefill", never_shorter)
    report = checked(golden_bundle("nano", precision))
    assert right_before(report, "next picture"), table(report)


def test_weights_that_give_no_numbers_fail_and_the_report_is_json(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    place = next(place for place in tensor_places(bundle) if place.name == "lm_head")

    def change(stored: bytearray) -> None:
        stored[place.offset : place.offset + 4] = np.float32(np.nan).tobytes()

    change_bytes(bundle, place.file, change)
    mend_digests(bundle)
    report = checked(bundle)
    assert right_before(report, "prefill")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert "no number" in table(report)


def test_a_graph_that_does_not_load_is_the_engine_s_stage(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    change_bytes(bundle, "decoder.onnx", lambda stored: stored.__setitem__(slice(0, 400), bytes(400)))
    mend_digests(bundle)
    report = checked(bundle)
    assert right_before(report, "engine")
    assert "cannot load decoder.onnx" in table(report)
    assert statuses(report)["vision"] == "skipped"


def test_a_bundle_without_golden_outputs_says_how_to_get_them(nano_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = copied(nano_bundle("fp32"), tmp_path)
    with BundleAmendment(bundle) as amendment:
        amendment.remove(GOLDEN)
    with pytest.raises(BundleError, match=r"no golden outputs.*export the bundle again"):
        checked(bundle)


def test_a_precision_that_this_version_does_not_know_is_refused(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "fp32"), tmp_path)
    set_number(bundle, "precision", "decoder", "int2-16")
    with pytest.raises(BundleError, match="int2-16"):
        checked(bundle)


@pytest.fixture
def photographs(birds: Callable[[int], list[Path]], tmp_path: Path) -> Path:
    """A folder per class of eight drawings."""
    from fgr_edge.data.aviary import SPECIES

    root = tmp_path / "photographs"
    for number, bird in enumerate(birds(8)):
        folder = root / SPECIES[number * len(SPECIES) // 8].name
        folder.mkdir(parents=True)
        shutil.copy(bird, folder)
    return root


def parity_of(photographs: Path, named: Callable[[str, int], str]) -> dict[str, Any]:
    """A parity report in which photograph `number` was named `named(truth, number)`."""
    from fgr_edge.runtime.bundle import sha256_of

    answers = {
        sha256_of(path): {"path": path.name, "truth": path.parent.name, "bundle": {"label": named(path.parent.name, i)}}
        for i, path in enumerate(sorted(photographs.rglob("*.png")))
    }
    return {"accuracy": [{"mode": "reason", "answers": {}}, {"mode": "direct", "answers": answers}]}


def test_accuracy_is_shown_with_its_interval_where_nothing_is_known(
    golden_bundle: GoldenBundle, photographs: Path
) -> None:
    report = checked(golden_bundle("nano", "int8"), data=photographs)
    accuracy = report["accuracy"]
    assert accuracy is not None and accuracy["photographs"] == 8
    assert accuracy["top_1"]["low"] < accuracy["top_1"]["share"] <= accuracy["top_1"]["high"]
    assert accuracy["known"] == 0 and accuracy["stored"] is None and report["passed"]
    assert "nothing to compare with" in table(report)


def test_accuracy_as_in_the_parity_report_passes_and_less_fails(
    golden_bundle: GoldenBundle, photographs: Path, tmp_path: Path
) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    with BundleAmendment(bundle) as amendment:
        amendment.write_json("parity.json", parity_of(photographs, lambda truth, _: truth))
    report = checked(bundle, data=photographs)
    assert report["passed"] and report["accuracy"] is not None
    assert report["accuracy"]["known"] == report["accuracy"]["same_answers"] == 8
    # The folders' names are exchanged: the same photographs, all of them named wrongly then and now.
    with BundleAmendment(bundle) as amendment:
        stored = parity_of(photographs, lambda truth, _: truth)
        for answer in stored["accuracy"][1]["answers"].values():
            answer["truth"] = answer["bundle"]["label"] = "Barn Owl"
        amendment.write_json("parity.json", stored)
    report = checked(bundle, data=photographs)
    assert not report["passed"] and report["first_wrong"] == "accuracy"
    assert "0 of 8 named as then; failed" in table(report)


def test_the_command_prints_a_table_or_one_document_and_exits_1_on_a_fault(
    golden_bundle: GoldenBundle, tmp_path: Path, fgr_edge: Callable[..., Done]
) -> None:
    bundle = golden_bundle("nano", "int8")
    done = fgr_edge("verify", bundle)
    assert done.code == 0 and done.out.endswith("passed\n")
    done = fgr_edge("verify", bundle, "--json", "--threads", 1)
    assert done.code == 0 and json.loads(done.out)["passed"] is True
    wrong = copied(bundle, tmp_path)
    set_number(wrong, "decoder", "rope_theta", 1e6)
    done = fgr_edge("verify", wrong)
    assert done.code == 1 and "first stage that is wrong is rotary" in done.out and "rope base" in done.out
    assert fgr_edge("verify", tmp_path / "nowhere").code == 1


def test_verifying_imports_no_heavy_library(golden_bundle: GoldenBundle) -> None:
    printed, modules = modules_of_command("verify", str(golden_bundle("nano", "int8")), "--json")
    assert json.loads(printed)["passed"]
    assert "onnxruntime" in modules
    assert not modules & (HEAVY | {"matplotlib"})


def test_a_bundle_for_another_machine_is_verified_on_the_cpu_where_asked(
    tiny_models: TinyModels, tmp_path: Path, fgr_edge: Callable[..., Done]
) -> None:
    reference = tiny_models.bundle("qwen2.5")
    bundle = with_golden(reference, tiny_models.bundle("qwen2.5", "int8", "cuda"), tmp_path)
    done = fgr_edge("verify", bundle, "--device", "cpu")
    assert done.code == 0, done.out
