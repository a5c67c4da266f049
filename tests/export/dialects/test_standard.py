"""The same graphs in standard and in basic operators equal transformers, in both families, on ONNX Runtime's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import FgrEdgeError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.step_inputs import HIDDEN

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from fgr_edge.export.assembly import BundleOptions, write_bundle  # noqa: E402
from fgr_edge.export.checkpoint import Checkpoint  # noqa: E402
from fgr_edge.export.dialects.basic import BasicDialect  # noqa: E402
from fgr_edge.export.dialects.standard import StandardDialect, working_type  # noqa: E402
from fgr_edge.export.model import open_model  # noqa: E402
from fgr_edge.export.targets import TARGETS, Target  # noqa: E402
from tests.tiny import SHAPES, all_logits, drawing, feed, greedy, prefill, relative  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

EMBEDS = 1e-4  # DESIGN.md, "Numbers that must hold everywhere": relative, fp32
LOGITS = 1e-3
HALF_EMBEDS = 1e-2  # float16 everywhere but the residual sums; random weights
HALF_LOGITS = 3e-2
GRIDS = [(8, 8), (2, 2), (10, 6), (4, 30), (34, 2)]
FAMILIES = ["qwen2.5", "qwen3"]


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["standard", "basic"])
def spelling(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


TARGETS_OF = {
    "standard": TARGETS["tensorrt"],
    "basic": Target("tensorrt", BasicDialect, tuple(SCHEMES)),
    "onnxruntime": TARGETS["cpu"],
}


def bundle(models: TinyModels, shape: str, spelling: str, name: str = "fp32") -> Path:
    """Made once for all tests; not through `export_checkpoint`, which measures what it makes."""
    path = models.folder / f"{shape}-{spelling}-{name}.graphs"
    if not path.is_dir():
        written(models.checkpoint(shape), path, Plan.uniform(SCHEMES[name]), spelling)
    return path


def written(source: Path, path: Path, plan: Plan, spelling: str) -> None:
    checkpoint = Checkpoint.open(source)
    options = BundleOptions(str(source), checkpoint.digest(), quiet=True)
    write_bundle(open_model(checkpoint), TARGETS_OF[spelling], plan, path, options)


def opened(models: TinyModels, shape: str, spelling: str, name: str = "fp32") -> Recognizer:
    return Recognizer(bundle(models, shape, spelling, name), device="cpu", threads=1)


def test_image_embeddings_equal_transformers(tiny_models: TinyModels, shape: str, spelling: str) -> None:
    recognizer = opened(tiny_models, shape, spelling)
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *grid)))
        assert relative(seen.tokens, expected.image_embeds) < EMBEDS, grid


def test_logits_of_all_positions_equal_transformers(tiny_models: TinyModels, shape: str, spelling: str) -> None:
    recognizer = opened(tiny_models, shape, spelling)
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        assert relative(all_logits(recognizer, expected), expected.logits) < LOGITS, grid


def test_64_greedy_tokens_equal_transformers(tiny_models: TinyModels, shape: str, spelling: str) -> None:
    recognizer = opened(tiny_models, shape, spelling)
    for grid in GRIDS[::2]:
        expected = tiny_models.reference(shape, grid)
        logits = prefill(recognizer, feed(recognizer, expected))
        assert greedy(recognizer, logits) == expected.greedy, grid


def test_float16_stays_near_transformers(tiny_models: TinyModels, shape: str, spelling: str) -> None:
    recognizer = opened(tiny_models, shape, spelling, "fp16")
    assert recognizer.model.decoder.spec.cache_dtype == "float16"
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *grid)))
        assert relative(seen.tokens, expected.image_embeds) < HALF_EMBEDS, grid
        assert relative(all_logits(recognizer, expected), expected.logits) < HALF_LOGITS, grid


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decode_equals_uncached_forward(tiny_models: TinyModels, family: str, spelling: str) -> None:
    recognizer = opened(tiny_models, family, spelling)
    given = feed(recognizer, tiny_models.reference(family, (10, 6)))
    decoder, rows = recognizer.model.decoder, [prefill(recognizer, given).copy()]
    tokens = []
    for _ in range(20):
        tokens.append(int(rows[-1].argmax()))
        rows.append(recognizer.model.extend(tokens[-1:]).copy())
    start = decoder.length - len(tokens)
    decoder.rewind(start)
    at_once = decoder.forward(recognizer.model.embedding.gather(np.array(tokens)), np.arange(len(tokens)))
    assert relative(np.stack(rows[1:]), at_once) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_leaves_nothing_in_the_cache_for_the_next(
    tiny_models: TinyModels, family: str, spelling: str
) -> None:
    recognizer = opened(tiny_models, family, spelling)
    small, large = (feed(recognizer, tiny_models.reference(family, grid)) for grid in [(2, 2), (4, 30)])
    fresh = prefill(recognizer, small).copy()
    prefill(recognizer, large)
    np.testing.assert_array_equal(prefill(recognizer, small), fresh)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_tokens_equals_its_branches_one_by_one(tiny_models: TinyModels, family: str, spelling: str) -> None:
    recognizer = opened(tiny_models, family, spelling)
    decoder = recognizer.model.decoder
    given = feed(recognizer, tiny_models.reference(family, (8, 8)))
    logits = decoder.prefill(given.embeds, given.positions, max_new_tokens=8, branches=8, deepstack=given.deepstack)
    length, first = decoder.length, int(logits.argmax())
    gather = recognizer.model.embedding.gather
    # A root with two children, and a child of the first of them.
    tokens, parents = np.array([first, 7, 11, 13]), [-1, 0, 0, 1]
    seen = np.eye(4, dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    mask = np.where(seen, np.float32(0), HIDDEN)
    together = next(decoder.branch(gather(tokens), np.arange(4), length + seen.sum(1) - 1, mask)).copy()
    for node in range(4):
        decoder.rewind(length)
        path = tokens[seen[node]]
        alone = decoder.forward(gather(path), np.array([len(path) - 1]))
        assert relative(together[node : node + 1], alone) < 1e-4, node


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8", "int4-32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_hold_only_standard_operators_of_one_version(
    tiny_models: TinyModels, family: str, spelling: str, name: str
) -> None:
    opened_bundle = Bundle.open(bundle(tiny_models, family, spelling, name), verify="full")
    for graph in ("vision.onnx", "decoder.onnx"):
        onnx.checker.check_model(str(opened_bundle.file(graph)))
        model = onnx.load(str(opened_bundle.file(graph)), load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [
            ("", 24 if spelling == "standard" else 21)
        ]
        assert {node.domain for node in model.graph.node} == {""}
        kinds = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
        halves = kinds & {"FLOAT16", "BFLOAT16"}
        assert halves == {"fp32": set(), "bf16": {"BFLOAT16"}}.get(name, {"FLOAT16"}) or (
            name == "bf16" and halves == {"BFLOAT16", "FLOAT16"}
        )


def test_the_working_type_follows_the_plan() -> None:
    fp32, fp16, bf16, int8 = (SCHEMES[name] for name in ("fp32", "fp16", "bf16", "int8"))
    assert working_type(Plan.uniform(fp32)) == "float32"
    assert working_type(Plan(fp32, int8, fp32)) == "float16"
    assert working_type(Plan(fp16, bf16, fp16)) == "bfloat16"
    assert StandardDialect(Plan.uniform(bf16)).cache_dtype == "float16"
    assert StandardDialect(Plan.uniform(int8)).cache_dtype == "float16"
    assert StandardDialect(Plan.uniform(fp32)).cache_dtype == "float32"


def test_a_layer_kept_in_float32_computes_in_float32(tiny_models: TinyModels) -> None:
    path, fp16 = tiny_models.folder / "kept.graphs", SCHEMES["fp16"]
    plan = Plan(fp16, fp16, fp16, {"decoder.0": SCHEMES["fp32"]})
    written(tiny_models.checkpoint("qwen2.5"), path, plan, "standard")
    graph = onnx.load(str(path / "decoder.onnx"), load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    first = next(kind for name, kind in kinds.items() if "layers.0.mlp.down" in name)
    second = next(kind for name, kind in kinds.items() if "layers.1.mlp.down" in name)
    assert (first, second) == (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    expected = tiny_models.reference("qwen2.5", (8, 8))
    recognizer = Recognizer(path, device="cpu", threads=1)
    assert relative(all_logits(recognizer, expected), expected.logits) < HALF_LOGITS


@pytest.mark.parametrize("family", FAMILIES)
def test_label_scores_equal_those_of_the_cpu_target(tiny_models: TinyModels, family: str, spelling: str) -> None:
    """Whose equality with transformers is tested elsewhere; a trie is scored as trees, in another engine's spelling."""
    labels = ["Royal Gala", "Royal Jelly", "Pink Lady", "Pear", "Roy"]
    one, other = (
        Recognizer(bundle(tiny_models, family, name), labels, device="cpu", threads=1).evidence(drawing(90, 60))
        for name in (spelling, "onnxruntime")
    )
    np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-3)


def test_nano_says_the_same_in_every_spelling(tmp_path: Path, nano_checkpoint: Path) -> None:
    labels, picture = ["Blue tit", "Great tit", "Robin"], drawing(200, 150)
    found = {}
    for name in TARGETS_OF:
        written(nano_checkpoint, tmp_path / name, Plan.uniform(SCHEMES["fp32"]), name)
        recognizer = Recognizer(tmp_path / name, labels, device="cpu")
        found[name] = recognizer.evidence(picture), recognizer.generate(picture, "Describe it.", max_new_tokens=64)
    expected, text = found["onnxruntime"]
    for evidence, ours in found.values():
        assert relative(evidence.features, expected.features) < EMBEDS
        np.testing.assert_allclose(evidence.log_probs, expected.log_probs, atol=1e-3)
        assert ours == text


def test_a_bundle_without_an_engine_says_so_and_runs_on_the_cpu_when_told(tiny_models: TinyModels) -> None:
    path = bundle(tiny_models, "qwen2.5", "standard")
    with pytest.raises(FgrEdgeError, match="device='cpu'"):  # no cuda-python, no driver or no engine
        Recognizer(path)
    assert Recognizer(path, device="cpu").bundle.manifest["dialect"] == "standard"
