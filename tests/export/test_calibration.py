"""Calibration as a whole: what is read of each picture, which scales follow, and what plan and report say of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.calibrate.pictures import CalibrationPictures, choose_pictures
from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.reference import reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics
from fgr_edge.export.calibration import CalibrationOptions, CalibrationResult, calibrate
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.folding import groups, sample_rows
from fgr_edge.export.model import Model, open_model
from fgr_edge.export.precisions import Method
from fgr_edge.export.weights import Matrix

pytest.importorskip("torch")

from tests.export.test_calibration_pass import pictures

if TYPE_CHECKING:
    from tests.tiny import TinyModels

INT4 = SCHEMES["int4-32"]


def chosen(folder: Path) -> CalibrationPictures:
    folder.mkdir(exist_ok=True)
    return choose_pictures(pictures(folder), "drawn", count=2)


def opened(models: TinyModels, shape: str = "qwen2.5") -> Model:
    return open_model(Checkpoint.open(models.checkpoint(shape)))


def calibrated(
    models: TinyModels, folder: Path, plan: Plan, method: Method, *, shape: str = "qwen2.5", thinks: bool = False
) -> CalibrationResult:
    options = CalibrationOptions(thought_tokens=12, quiet=True)
    reference = models.bundle(shape) if thinks else None
    return calibrate(opened(models, shape), chosen(folder), plan, method, folder / "calibration", reference, options)


def test_the_report_says_what_was_read(tiny_models: TinyModels, tmp_path: Path) -> None:
    done = calibrated(tiny_models, tmp_path, Plan.uniform(INT4), "awq", thinks=True)
    report = done.report
    assert sum(map(len, done.thoughts)) == report["thought_tokens"]
    without = calibrated(tiny_models, tmp_path / "other", Plan.uniform(INT4), "nearest").report
    assert report["source"] == "drawn" and report["pictures"] == report["classes"] == 2
    assert report["sha256"] == chosen(tmp_path).sha256 and report["unreadable"] == []
    assert report["method"] == "awq" and set(report["seconds"]) == {"thoughts", "pictures", "texts", "scales"}
    assert report["thought_tokens"] > 0 == without["thought_tokens"]
    assert report["thoughts_by"] == "fp32" and without["thoughts_by"] is None
    assert report["read_tokens"] == without["read_tokens"] + report["thought_tokens"]
    assert set(without["seconds"]) == {"pictures", "texts"}


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_awq_loses_less_of_what_layers_give_than_rounding_as_stored(
    tiny_models: TinyModels, shape: str, tmp_path: Path
) -> None:
    found = calibrated(tiny_models, tmp_path, Plan.uniform(INT4), "awq", shape=shape)
    assert found.report["scaled_matrices"] > 20
    ratios = []
    for group in groups(opened(tiny_models, shape)):
        rows, (seen, scale) = sample_rows(group.matrices, 256), observed(found, group.matrices[0])
        ratios.append(lost(rows, seen.sample, scale) / lost(rows, seen.sample, np.ones_like(scale)))
    # A power of 0 leaves a layer as it is, so none may lose more.
    assert max(ratios) < 1.001 and np.mean(ratios) < 0.97


def observed(found: CalibrationResult, matrix: Matrix) -> tuple[InputStatistics, np.ndarray]:
    """Inputs of the original, and what they have been divided by."""
    before, after = found.statistics.inputs(matrix.name), found.plan.inputs(matrix.name)
    assert before is not None and after is not None
    return before, before.abs_mean / after.abs_mean


def lost(rows: np.ndarray, sample: np.ndarray, scale: np.ndarray) -> float:
    rounded = reference_weight(INT4)(rows * scale) / scale
    return float(np.square(sample @ (rounded - rows).T).mean())


def test_smoothing_makes_inputs_and_weights_equally_large(tiny_models: TinyModels, tmp_path: Path) -> None:
    found = calibrated(tiny_models, tmp_path, Plan.uniform(SCHEMES["w8a8"]), "smoothquant")
    model = opened(tiny_models)
    gate_up = [m for g in groups(model) for m in g.matrices if m.unit == "decoder.1" and len(g.matrices) > 1]
    inputs, scale = observed(found, gate_up[1])
    weight = np.abs(np.concatenate([rows for matrix in gate_up for rows in matrix.chunks()])).max(axis=0)
    ratio = (inputs.abs_max / scale) / (weight * scale)
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)


def test_only_layers_of_the_methods_scheme_are_scaled(tiny_models: TinyModels, tmp_path: Path) -> None:
    int8 = SCHEMES["int8"]
    found = calibrated(tiny_models, tmp_path, Plan(int8, INT4, int8), "awq")
    model = opened(tiny_models)
    assert found.report["scaled_matrices"] == 5 * model.decoder_dims.layers
    np.testing.assert_array_equal(
        found.model.vision.tensor("norm1", (48,)).read(), model.vision.tensor("norm1", (48,)).read()
    )
    assert found.model.head == model.head


def test_rounding_to_nearest_moves_no_scale_but_knows_the_inputs(tiny_models: TinyModels, tmp_path: Path) -> None:
    found = calibrated(tiny_models, tmp_path, Plan.uniform(SCHEMES["w8a8"]), "nearest")
    assert found.report["scaled_matrices"] == 0 and found.model.checkpoint.notes == ()
    inputs = found.plan.inputs("lm_head")
    assert inputs is not None and inputs.gram is None and inputs.abs_max.min() > 0


def test_gram_matrices_are_taken_where_a_scheme_needs_them(tiny_models: TinyModels, tmp_path: Path) -> None:
    gptq = BlockWeights("int4-32", 4, 32, rounding="gptq")
    found = calibrated(tiny_models, tmp_path, Plan(INT4, gptq, INT4), "gptq")
    model = opened(tiny_models)
    down, qkv, head = (found.plan.inputs(n) for n in (model.decoder.name("down"), model.vision.name("qkv"), "lm_head"))
    assert down is not None and qkv is not None and head is not None
    assert down.gram is not None and down.gram.shape == (192, 192)
    assert qkv.gram is None and head.gram is None
