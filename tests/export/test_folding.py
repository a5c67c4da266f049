"""Scales folded into a model change none of its outputs, whatever they are, in both families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.folding import Folded, Group, fold, groups, sample_rows
from fgr_edge.export.model import Model, open_model
from fgr_edge.export.targets import TARGETS
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer

pytest.importorskip("torch")

from tests.tiny import SHAPES, all_logits, relative

if TYPE_CHECKING:
    from tests.tiny import TinyModels

GRID = (10, 6)


def opened(models: TinyModels, shape: str) -> Model:
    return open_model(Checkpoint.open(models.checkpoint(shape)))


def random_scale(group: Group) -> np.ndarray:
    """Between 1/8 and 8, another for each group."""
    rng = np.random.default_rng(len(group.matrices[0].name) * group.columns)
    return np.exp2(rng.uniform(-3, 3, group.columns)).astype(np.float32)


def folded(model: Model) -> Folded:
    return fold(model, random_scale)


def exported(model: Model, folder: Path) -> Recognizer:
    options = BundleOptions("folded", "0" * 64, quiet=True)
    plan = Plan.uniform(SCHEMES["fp32"])
    return Recognizer(write_bundle(model, TARGETS["cpu"], plan, folder, options), threads=1)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_folded_model_computes_the_same(tiny_models: TinyModels, shape: str, tmp_path: Path) -> None:
    expected = tiny_models.reference(shape, GRID)
    recognizer = exported(folded(opened(tiny_models, shape)).model, tmp_path / "bundle")
    seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *GRID)))
    assert relative(seen.tokens, expected.image_embeds) < 1e-4
    assert relative(all_logits(recognizer, expected), expected.logits) < 1e-4


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
def test_every_input_of_a_group_is_divided_by_its_scale(tiny_models: TinyModels, shape: str, tmp_path: Path) -> None:
    from tests.export.test_calibration_pass import pictures, taken

    model = opened(tiny_models, shape)
    found = folded(model)
    before = taken(model, pictures(tmp_path), tmp_path / "before")
    after = taken(found.model, pictures(tmp_path), tmp_path / "after")
    expected = before.divided(found.scales)
    assert len(found.scales) > 20
    for name in before.files:
        mine, theirs = expected.inputs(name), after.inputs(name)
        assert mine is not None and theirs is not None
        # By input: the scale of each must be its own.
        np.testing.assert_allclose(theirs.abs_max, mine.abs_max, rtol=1e-3, atol=1e-5 * mine.abs_max.max())


def test_matrices_of_the_groups_are_all_but_those_after_other_functions(tiny_models: TinyModels) -> None:
    names = {shape: [m.name for g in groups(opened(tiny_models, shape)) for m in g.matrices] for shape in SHAPES}
    # Blocks: qkv, proj, gate, up, down; layers: qkv (one matrix), o, gate, up, down; the head.
    assert len(names["qwen2.5"]) == len(set(names["qwen2.5"])) == 4 * 5 + 3 * 5 + 1
    # No group for what follows a GELU.
    assert len(names["qwen3"]) == 4 * 3 + 4 * 5 + 1
    assert not [name for name in names["qwen3"] if "visual" in name and "linear_fc2" in name]


def test_heads_that_share_values_share_scales(tiny_models: TinyModels) -> None:
    model = opened(tiny_models, "qwen2.5")
    dims = model.decoder_dims
    scale = folded(model).scales[model.decoder.name("o", 1)].reshape(dims.kv_heads, -1, dims.head_dim)
    assert scale.shape[1] == 2
    np.testing.assert_array_equal(scale[:, 0], scale[:, 1])
    assert len(np.unique(scale)) == dims.kv_heads * dims.head_dim


def test_a_tied_embedding_stays_while_the_head_is_scaled(tiny_models: TinyModels) -> None:
    model = opened(tiny_models, "qwen2.5")
    assert model.head.parts[0] is model.embedding
    found = folded(model)
    table = model.embedding.read()
    np.testing.assert_array_equal(found.model.embedding.read(), table)
    np.testing.assert_allclose(np.concatenate([*found.model.head.chunks()]), table * found.scales["lm_head"], rtol=1e-6)
    name = model.decoder.name("embedding")
    np.testing.assert_array_equal(found.model.checkpoint.tensor(name).read(), table)


def test_scales_are_part_of_the_digest(tiny_models: TinyModels) -> None:
    model = opened(tiny_models, "qwen2.5")
    digests = {
        model.checkpoint.digest(),
        fold(model, random_scale).model.checkpoint.digest(),
        fold(model, lambda group: 2 * random_scale(group)).model.checkpoint.digest(),
    }
    assert len(digests) == 3


@pytest.mark.parametrize("bad", [np.zeros(64), np.full(64, np.nan), np.ones(3)])
def test_scales_that_cannot_be_divided_by_are_refused(tiny_models: TinyModels, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="positive scales"):
        fold(opened(tiny_models, "qwen2.5"), lambda _: bad.astype(np.float32))


def test_sampled_rows_are_spread_over_all_matrices(tiny_models: TinyModels) -> None:
    model = opened(tiny_models, "qwen2.5")
    qkv, _, gate_up, *_ = (group.matrices for group in groups(model) if group.matrices[0].part == "decoder")
    whole = np.concatenate([*qkv[0].chunks()])
    np.testing.assert_array_equal(sample_rows(qkv, 10_000), whole)
    both = np.concatenate([rows for matrix in gate_up for rows in matrix.chunks()])
    found = sample_rows(gate_up, 64)
    places = [int(np.flatnonzero((both == row).all(axis=1))[0]) for row in found]
    assert len(places) == len(set(places)) == 64
    assert min(places) < 64 and max(places) > len(both) - 128
