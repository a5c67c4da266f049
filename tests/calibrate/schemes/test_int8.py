"""int8 weights: the rounding itself, and graphs that compute with exactly the rounded weights."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fgr_edge.calibrate.schemes.blocks import blocks_per_row
from fgr_edge.calibrate.schemes.int8 import BLOCK_SIZE, ZERO_POINT, quantize
from fgr_edge.calibrate.schemes.scheme import BlockWeights
from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.vision import VisionEncoder

if TYPE_CHECKING:
    from tests.tiny import TinyModels

SHAPES = ["qwen2.5", "qwen2.5-wide", "qwen2.5-untied", "qwen3", "qwen3-untied"]
GRID = (10, 6)
SCHEME = BlockWeights("int8", 8, BLOCK_SIZE)


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


# The rounding


@pytest.mark.parametrize("columns", [1, 5, 128, 129, 300, 384])
def test_every_weight_is_within_half_a_step(columns: int) -> None:
    w = weight(7, columns)
    levels = quantize(w)
    blocks = blocks_per_row(columns, BLOCK_SIZE)
    assert levels.values.shape == (7, blocks, BLOCK_SIZE) and levels.values.dtype == np.uint8
    assert levels.scale.shape == (7, blocks) and levels.scale.dtype == np.float32
    step = np.repeat(levels.scale, BLOCK_SIZE, axis=1)[:, :columns]
    assert np.all(np.abs(levels.dequantize() - w) <= step / 2 + 1e-7)


def test_the_largest_magnitude_of_each_block_is_exact() -> None:
    w = weight(5, 2 * BLOCK_SIZE)
    restored = quantize(w).dequantize()
    for block in range(2):
        part = slice(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
        rows, at = np.arange(5), np.abs(w[:, part]).argmax(axis=1)
        np.testing.assert_allclose(restored[:, part][rows, at], w[:, part][rows, at], rtol=1e-6)


def test_scales_of_short_blocks_are_bfloat16_and_weights_within_half_a_step_all_the_same() -> None:
    w = np.random.default_rng(5).standard_normal((40, 96)).astype(np.float32)
    levels = quantize(w, 32)
    assert not np.any(levels.scale.view(np.uint32) & np.uint32(0xFFFF))
    assert np.all(np.abs(levels.dequantize() - w) <= np.repeat(levels.scale, 32, axis=1) * 0.5001)


def test_blocks_are_scaled_by_themselves() -> None:
    w = weight(3, 2 * BLOCK_SIZE)
    w[:, BLOCK_SIZE:] *= 1e-4
    restored = quantize(w).dequantize()
    assert np.abs(restored - w)[:, BLOCK_SIZE:].max() < 4e-4 / 127


def test_zeros_stay_zero_and_nothing_is_not_a_number() -> None:
    w = weight(4, 200)
    w[1] = 0.0
    levels = quantize(w)
    assert np.all(levels.scale[1] == 0) and np.all(levels.values[1] == ZERO_POINT)
    assert np.all(levels.values[:, 1, 200 - BLOCK_SIZE :] == ZERO_POINT)  # the padding of the last block
    assert np.all(levels.dequantize()[1] == 0)
    assert np.all(np.isfinite(levels.scale))


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-36, 1e-20, 1e20, 1e38])
def test_extreme_magnitudes_round_as_others_do(magnitude: float) -> None:
    w = (weight(3, 130) / 4 * np.float32(magnitude)).astype(np.float32)
    with np.errstate(over="raise", invalid="raise"):
        levels = quantize(w)
    restored = levels.dequantize()
    assert np.all(np.isfinite(restored))
    assert np.abs(restored - w).max() <= max(levels.scale.max() * 0.51, 2e-36)


def test_the_weight_given_is_left_as_it_is() -> None:
    w = weight(3, 130)
    before = w.copy()
    quantize(w)
    np.testing.assert_array_equal(w, before)


# The graphs


def rounded(model: Any) -> Any:
    """A copy of the model with every linear layer's weight rounded as export rounds it, the head by itself."""
    torch = pytest.importorskip("torch")
    from fgr_edge.export.dialects.products import narrowed

    model = copy.deepcopy(model)
    if model.config.tie_word_embeddings:  # the embedding table keeps its precision
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv3d):
                w = layer.weight.numpy().reshape(layer.weight.shape[0], -1)
                block_size = narrowed(SCHEME, w.shape[1]).block_size
                restored = quantize(w, block_size).dequantize()
                layer.weight.copy_(torch.from_numpy(restored).reshape(layer.weight.shape))
    return model


def with_float_activations(recognizer: Recognizer, folder: Path) -> Recognizer:
    """The same weights, but MatMulNBits multiplies in float32 instead of rounding activations to int8 as well."""
    onnx = pytest.importorskip("onnx")
    sessions = {}
    for name in ("vision", "decoder"):
        source = recognizer.bundle.file(f"{name}.onnx")
        graph = onnx.load(str(source), load_external_data=False)
        nodes = [node for node in graph.graph.node if node.op_type == "MatMulNBits"]
        assert len(nodes) > 10 and not any(node.op_type == "FusedMatMul" for node in graph.graph.node)
        for node in nodes:
            (level,) = (a for a in node.attribute if a.name == "accuracy_level")
            level.i = 1
        (folder / source.name).write_bytes(graph.SerializeToString())
        shutil.copy(recognizer.bundle.file(f"{name}.onnx.data"), folder)
        sessions[name] = OnnxRuntimeSession(folder / source.name, threads=1)
    recognizer.model.vision = VisionEncoder(sessions["vision"], recognizer.model.vision._spec)
    recognizer.model.decoder = Decoder(sessions["decoder"], recognizer.model.decoder.spec)
    return recognizer


@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_compute_with_exactly_the_rounded_weights(tiny_models: TinyModels, shape: str, tmp_path: Path) -> None:
    from tests.tiny import all_logits, reference, relative

    expected = reference(rounded(tiny_models.model(shape)), GRID)
    recognizer = Recognizer(tiny_models.bundle(shape, "int8"), threads=1)
    recognizer = with_float_activations(recognizer, tmp_path)
    seen = recognizer.model.vision.encode(Patches(expected.pixels, (1, *GRID)))
    assert relative(seen.tokens, expected.image_embeds) < 1e-4
    assert relative(all_logits(recognizer, expected), expected.logits) < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_error_is_bounded(tiny_models: TinyModels, shape: str) -> None:
    from tests.tiny import all_logits, reference

    # Random weights amplify every rounding from layer to layer; trained ones stay far below these bounds.
    given = tiny_models.reference(shape, GRID)
    weights_only = reference(rounded(tiny_models.model(shape)), GRID)
    logits = all_logits(Recognizer(tiny_models.bundle(shape, "int8"), threads=1), given)
    assert deviation(logits, weights_only.logits) < 0.15  # activations rounded to int8; 0.04 to 0.10 measured
    assert deviation(logits, given.logits) < 0.2  # weights too; 0.05 to 0.12 measured


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the mean square of the difference, relative to that of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
