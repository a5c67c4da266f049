"""Golden outputs are small, plain, read back as they were written, and made where a bundle cannot run as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fgr_edge.calibrate.golden import (
    CONTINUED_TOKENS,
    GOLDEN,
    HOST_STAGES,
    Golden,
    golden_pictures,
    make_golden,
    store_golden,
)
from fgr_edge.calibrate.golden_run import GREEDY_TOKENS, MOST_COLUMNS, MOST_VALUES, OBSERVED, of_logits, sampled
from fgr_edge.errors import BundleError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.image import load_image
from tests.planted import checked, copied
from tests.tiny import TinyModels, with_qwen_vocabulary

GoldenBundle = Callable[[str, str], Path]


def test_every_stage_is_recorded_of_both_and_the_host_s_once(golden_bundle: GoldenBundle) -> None:
    golden = Golden.read(Bundle.open(golden_bundle("nano", "int8")))
    assert set(golden.original) == set(OBSERVED)
    assert set(golden.bundle) == set(OBSERVED) - HOST_STAGES
    assert len(golden.inputs.greedy) == len(golden.inputs.spread) == CONTINUED_TOKENS
    assert len(golden.original["generation"]["tokens"]) == GREEDY_TOKENS


def test_golden_outputs_are_read_as_they_were_written(golden_bundle: GoldenBundle) -> None:
    bundle = Bundle.open(golden_bundle("nano", "int8"))
    stored = bundle.arrays(GOLDEN)
    again = Golden.from_arrays(stored).to_arrays()
    assert set(again) == set(stored)
    for key, value in stored.items():
        np.testing.assert_array_equal(again[key], value)
    assert not any(value.dtype.hasobject for value in stored.values())


def test_quantized_outputs_differ_from_the_original_s_and_move_when_nudged(golden_bundle: GoldenBundle) -> None:
    golden = Golden.read(Bundle.open(golden_bundle("nano", "int8")))
    assert not np.array_equal(
        golden.bundle["prefill"]["first.log_probs"], golden.original["prefill"]["first.log_probs"]
    )
    assert 1e-3 < golden.jitter["vision/first.image_embeds"] < 0.1
    fp32 = Golden.read(Bundle.open(golden_bundle("nano", "fp32")))
    assert 0 < fp32.jitter["vision/first.image_embeds"] < 1e-4


def test_the_pictures_have_different_grids_with_windows_that_are_not_full(golden_bundle: GoldenBundle) -> None:
    one, other = (load_image(picture).size for picture in golden_pictures())
    assert one[0] > one[1] and other[0] < other[1]
    for model in ("nano", "qwen2.5"):
        golden = Golden.read(Bundle.open(golden_bundle(model, "int8")))
        first, second = (golden.original["preprocessing"][f"{name}.grid"] for name in ("first", "second"))
        assert not np.array_equal(first, second)
        for name in ("first", "second"):
            assert (golden.original["vision tables"][f"{name}.window_mask"] == 0).any()


def test_a_large_vocabulary_takes_little_room(qwen_tokenizer: Path, tmp_path: Path) -> None:
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    checkpoint, _ = with_qwen_vocabulary(tmp_path / "model", qwen_tokenizer)
    bundle = export_checkpoint(ExportConfig(checkpoint, tmp_path / "bundle", precision="fp32", proof=False, quiet=True))
    store_golden(bundle, make_golden(bundle, bundle))
    assert (bundle / GOLDEN).stat().st_size < 4e6
    assert checked(bundle)["passed"]


def test_a_sample_is_spread_over_rows_and_columns() -> None:
    values = np.arange(3000 * 128, dtype=np.float32).reshape(3000, 128)
    kept = sampled(values).astype(np.int64)
    assert kept.size == MOST_VALUES and kept[0] == 0 and kept[-1] == values.size - 1
    assert len(set(kept % 128)) == 128 and np.diff(kept).max() <= 12
    np.testing.assert_array_equal(sampled(values[:10]), values[:10])


def test_logits_left_out_of_the_sample_still_count() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 3 * MOST_COLUMNS)).astype(np.float32)
    before = of_logits("x", logits)["x.log_probs"]
    assert before.shape == (2, MOST_COLUMNS)
    logits[1, 1] = 30.0  # no column of the sample, but it takes nearly all of the probability
    after = of_logits("x", logits)["x.log_probs"]
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] < before[1] - 10).all()


def test_a_bundle_that_cannot_run_here_is_recorded_by_its_original(tiny_models: TinyModels, tmp_path: Path) -> None:
    from fgr_edge.export.pipeline import ExportConfig, export_checkpoint

    config = ExportConfig(
        tiny_models.checkpoint("qwen3"), tmp_path / "bf16", "tensorrt", "bf16", proof=False, quiet=True
    )
    bundle = export_checkpoint(config)
    golden = Golden.from_arrays(make_golden(tiny_models.bundle("qwen3"), bundle))
    if golden.bundle:
        pytest.skip("this ONNX Runtime has bfloat16 kernels on the CPU")
    assert set(golden.original) == set(OBSERVED) and not golden.jitter


@pytest.mark.parametrize("missing", ["input/greedy", "tensors/digests", "format"])
def test_golden_outputs_that_lack_something_are_refused(
    golden_bundle: GoldenBundle, tmp_path: Path, missing: str
) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    arrays = Bundle.open(bundle).arrays(GOLDEN)
    del arrays[missing]
    store_golden(bundle, arrays)
    with pytest.raises(BundleError, match=missing.rpartition("/")[2]):
        checked(bundle)


def test_a_tensor_that_points_outside_its_file_is_no_crash(golden_bundle: GoldenBundle, tmp_path: Path) -> None:
    bundle = copied(golden_bundle("nano", "int8"), tmp_path)
    golden = Golden.read(Bundle.open(bundle))
    places = (replace(golden.tensors.places[0], length=2**62), *golden.tensors.places[1:])
    store_golden(bundle, replace(golden, tensors=replace(golden.tensors, places=places)).to_arrays())
    assert checked(bundle)["first_wrong"] == "weights"
    places = (replace(golden.tensors.places[0], file="../../etc/passwd"), *golden.tensors.places[1:])
    store_golden(bundle, replace(golden, tensors=replace(golden.tensors, places=places)).to_arrays())
    assert checked(bundle)["first_wrong"] == "weights"
