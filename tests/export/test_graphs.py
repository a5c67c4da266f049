"""The exported graphs equal transformers: pictures, logits of every position, greedy tokens, in both families."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import fgr_edge.export
import fgr_edge.runtime
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from tests.tiny import SHAPES, all_logits, feed, greedy, prefill, relative  # noqa: E402

if TYPE_CHECKING:
    from tests.tiny import TinyModels

EMBEDS = 1e-4  # DESIGN.md, "Numbers that must hold everywhere": relative, fp32
LOGITS = 1e-3
HALF_LOGITS = 1e-2  # a float16 cache beside float32 weights; 0.002 measured

# Patches: one whole window of 112 pixels, a single merged token, ragged right and below, long both ways, and larger.
GRIDS = [(8, 8), (2, 2), (10, 6), (4, 30), (34, 2), (26, 18)]


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def opened(models: TinyModels, shape: str, precision: str = "fp32", target: str = "cpu") -> Recognizer:
    return Recognizer(models.bundle(shape, precision, target), device="cpu", threads=1)


def test_image_embeddings_equal_transformers(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape)
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *grid)))
        assert relative(seen.tokens, expected.image_embeds) < EMBEDS, grid


def test_logits_of_all_positions_equal_transformers(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape)
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        assert relative(all_logits(recognizer, expected), expected.logits) < LOGITS, grid


def test_64_greedy_tokens_equal_transformers(tiny_models: TinyModels, shape: str) -> None:
    recognizer = opened(tiny_models, shape)
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        logits = prefill(recognizer, feed(recognizer, expected))
        assert greedy(recognizer, logits) == expected.greedy, grid


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_deepstack_features_equal_transformers(tiny_models: TinyModels, grid: tuple[int, int]) -> None:
    model, given = tiny_models.model("qwen3"), tiny_models.reference("qwen3", grid)
    with torch.inference_mode():
        visual = model.model.visual(torch.from_numpy(given.pixels), grid_thw=torch.tensor([[1, *grid]]))
    seen = opened(tiny_models, "qwen3").model.vision.encode(Patches(given.pixels, (1, *grid)))
    assert len(seen.deepstack) == len(visual.deepstack_features) == 2
    for found, expected in zip(seen.deepstack, visual.deepstack_features, strict=True):
        assert relative(found, expected.numpy()) < EMBEDS


def test_deepstack_features_change_the_answer(tiny_models: TinyModels) -> None:
    recognizer = opened(tiny_models, "qwen3")
    given = feed(recognizer, tiny_models.reference("qwen3", (8, 8)))
    with_features = prefill(recognizer, given).copy()
    without = recognizer.model.decoder.prefill(
        given.embeds, given.positions, max_new_tokens=8, deepstack=[np.zeros_like(x) for x in given.deepstack]
    )
    assert relative(without, with_features) > 0.01


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graphs_pass_the_onnx_checker(tiny_models: TinyModels, shape: str, precision: str, target: str) -> None:
    bundle = Bundle.open(tiny_models.bundle(shape, precision, target), verify="full")
    for name in ("vision.onnx", "decoder.onnx"):
        onnx.checker.check_model(str(bundle.file(name)))
        graph = onnx.load(str(bundle.file(name)), load_external_data=False)
        assert {entry.key: entry.value for entry in graph.metadata_props} == {}
        # Weights are beside the graph: what is inside is small.
        assert bundle.file(name).stat().st_size < 300_000
        outside = [tensor for tensor in graph.graph.initializer if tensor.external_data]
        assert {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"} == {
            f"{name}.data"
        }


def test_the_float16_cache_of_cuda_bundles_keeps_logits(tiny_models: TinyModels, shape: str) -> None:
    # The graph of the `cuda` target on the CPU provider: its numerics, not its kernels.
    recognizer = opened(tiny_models, shape, target="cuda")
    assert recognizer.model.decoder.spec.cache_dtype == "float16"
    for grid in GRIDS:
        expected = tiny_models.reference(shape, grid)
        assert relative(all_logits(recognizer, expected), expected.logits) < HALF_LOGITS, grid
        seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *grid)))
        assert relative(seen.tokens, expected.image_embeds) < EMBEDS


def names_and_texts(path: Path) -> set[str]:
    """Identifiers and string constants of a module, docstrings left out: those may cite sources."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring
    for node in ast.walk(tree):
        for name in ("id", "attr", "arg", "name", "asname", "module", "value"):
            text = getattr(node, name, None)
            if isinstance(text, str):
                found.add(text)
    return found


def test_model_families_are_named_in_their_own_files_only() -> None:
    families = ("qwen", "fine-r1", "finer1")
    packages = [Path(next(iter(package.__path__))) for package in (fgr_edge.export, fgr_edge.runtime)]
    modules = [path for package in packages for path in package.rglob("*.py")]
    assert len(modules) > 25
    for path in modules:
        if path.parent.name != "architectures":
            guilty = [text for text in names_and_texts(path) if any(name in text.lower() for name in families)]
            assert not guilty, f"{path} names a model family outside architectures/: {guilty}"
