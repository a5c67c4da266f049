"""Linear layers on ONNX Runtime compute with exactly the weights that their scheme says, whatever their shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan, no_inputs
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.blocks import blocked
from fgr_edge.calibrate.schemes.int8 import BLOCK_SIZE
from fgr_edge.calibrate.schemes.reference import reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, Plain, Scheme
from fgr_edge.errors import ConfigError
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession

pytest.importorskip("onnx")

from fgr_edge.export import weights
from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect
from fgr_edge.export.dialects.products import narrowed
from fgr_edge.export.graphs.builder import GraphBuilder
from fgr_edge.export.lazy_tensor import VirtualTensor
from fgr_edge.export.weights import Matrix

Floats = np.ndarray
EXTRA = {
    "int4-32-symmetric": BlockWeights("int4-32-symmetric", 4, 32),
    "int4-64-gptq": BlockWeights("int4-64-gptq", 4, 64, asymmetric=True, rounding="gptq"),
}
ALL: dict[str, Scheme] = {name: scheme for name, scheme in SCHEMES.items() if name != "fp8"} | EXTRA
SHAPES = [(1, 1), (7, 131), (9, 192), (64, 256), (5, 3420), (3420, 40)]  # 3420: the width of Qwen2.5-VL's vision MLP
FLOAT_ERROR = 1e-5  # relative to the sum of magnitudes that was added up


def matrix_of(weight: Floats) -> Matrix:
    tensor = VirtualTensor("layer", weight.shape, "float32", lambda start, stop: weight[start:stop])
    return Matrix("layer", (tensor,), weight.shape[1], "decoder", "decoder.0")


def statistics_of(x: Floats) -> InputStatistics:
    flat = x.reshape(-1, x.shape[-1])
    return InputStatistics(np.abs(flat).mean(0), np.abs(flat).max(0), flat, flat.T @ flat / np.float32(len(flat)))


def layer(folder: Path, scheme: Scheme, weight: Floats, x: Floats, bias: Floats | None, *, flat: bool) -> Floats:
    """x through a graph of one linear layer."""
    inputs = statistics_of(x)
    dialect = OnnxRuntimeDialect(Plan(scheme, scheme, scheme, inputs=lambda _: inputs))
    g = GraphBuilder(folder, "layer", dialect.opset_imports)
    leading = ["rows"] if flat else [1, "rows"]
    y = dialect.linear(g, g.input("x", np.float32, [*leading, weight.shape[1]]), matrix_of(weight), bias, flat=flat)
    g.output(y, "y", np.float32, [*leading, len(weight)])
    g.save()
    return OnnxRuntimeSession(folder / "layer.onnx", threads=1).run({"x": x})["y"]


def stored(name: str, columns: int) -> Scheme:
    """The scheme as a layer of so many columns gets it."""
    scheme = ALL[name]
    return narrowed(scheme, columns) if isinstance(scheme, BlockWeights) else scheme


def bound(scheme: Scheme, x: Floats, weight: Floats) -> Floats:
    """Largest error [S, N] that rounding the inputs [S, K] to their nearest level can make, and float32 on top."""
    magnitude = np.abs(weight)
    error: Floats = FLOAT_ERROR * (np.abs(x) @ magnitude.T)
    if isinstance(scheme, Plain):
        return error * (1 if scheme.dtype != "float16" else 150)  # an engine may round inputs to float16, too
    if isinstance(scheme, BlockWeights):
        size = scheme.block_size or BLOCK_SIZE
        half_steps = np.abs(blocked(x, size)).max(axis=2) / 127 / 2
        return np.asarray(error + 1.01 * half_steps @ blocked(magnitude, size).sum(axis=2).T)
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    return np.asarray(error + 1.01 * step / 2 * magnitude.sum(axis=1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_layer_is_the_inputs_times_the_dequantized_weight(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape, np.float32)
    x = rng.standard_normal((9, shape[1]), np.float32)
    x[:, 0] *= 20  # an outlier, as real layers have
    bias = rng.standard_normal(shape[0], np.float32)
    found = layer(tmp_path, ALL[name], weight, x, bias, flat=True)
    scheme = stored(name, shape[1])
    restored = reference_weight(scheme, statistics_of(x))(weight)
    assert found.shape == (9, shape[0])
    assert np.all(np.abs(found - (x @ restored.T + bias)) <= bound(scheme, x, restored) + 1e-6)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "int8", "int4-32", "w8a8"])
def test_a_sequence_without_bias_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, x = rng.standard_normal((20, 70), np.float32), rng.standard_normal((1, 5, 70), np.float32)
    found = layer(tmp_path, ALL[name], weight, x, None, flat=False)
    scheme = stored(name, 70)
    restored = reference_weight(scheme)(weight)
    assert found.shape == (1, 5, 20)
    assert np.all(np.abs(found[0] - x[0] @ restored.T) <= bound(scheme, x[0], restored))


@pytest.mark.parametrize("name", ["fp16", "int8-channel", "int4-32-symmetric", "int4-64-gptq", "w8a8"])
def test_a_weight_that_streams_in_chunks_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    weight, x = rng.standard_normal((23, 150), np.float32), rng.standard_normal((200, 150), np.float32)
    (tmp_path / "whole").mkdir()
    (tmp_path / "chunks").mkdir()
    whole = layer(tmp_path / "whole", ALL[name], weight, x, None, flat=True)
    monkeypatch.setattr(weights, "CHUNK_VALUES", 4 * 150)
    chunks = layer(tmp_path / "chunks", ALL[name], weight, x, None, flat=True)
    # Columns of a product of matrices may be added up in another order, and one rounding in thousands then differs.
    assert np.abs(whole - chunks).max() <= (0.05 * np.abs(whole).max() if "gptq" in name else 0)


@pytest.mark.parametrize(("columns", "size"), [(128, 128), (192, 64), (64, 64), (1176, 128), (2048, 128), (3420, 128)])
def test_int8_halves_its_blocks_where_they_would_be_padding(columns: int, size: int) -> None:
    assert narrowed(BlockWeights("int8", 8, 128), columns).block_size == size
    assert narrowed(BlockWeights("int4-128", 4, 128), columns).block_size == 128


def test_int4_takes_half_the_bytes_of_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((64, 1024), np.float32), rng.standard_normal((2, 1024), np.float32)
    sizes = {}
    for name in ("int8", "int4-128", "int4-32", "w8a8"):
        (tmp_path / name).mkdir()
        layer(tmp_path / name, ALL[name], weight, x, None, flat=True)
        sizes[name] = (tmp_path / name / "layer.onnx.data").stat().st_size * 8 / weight.size
    assert 8.2 < sizes["int8"] < 8.3 and 4.2 < sizes["int4-128"] < 4.4 and 4.9 < sizes["int4-32"] < 5.2
    assert 8.0 < sizes["w8a8"] < 8.1


@pytest.mark.parametrize("name", ["fp32", "int8", "w8a8"])
def test_parts_of_a_layer_are_the_layer_cut(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weight, bias = rng.standard_normal((24, 70), np.float32), rng.standard_normal(24, np.float32)
    x = rng.standard_normal((6, 70), np.float32)
    whole = layer(tmp_path, ALL[name], weight, x, bias, flat=True)
    dialect = OnnxRuntimeDialect(Plan.uniform(ALL[name]))
    g = GraphBuilder(tmp_path, "parts", dialect.opset_imports)
    parts = dialect.linear_parts(g, g.input("x", np.float32, ["rows", 70]), matrix_of(weight), bias, 3, flat=True)
    for i, part in enumerate(parts):
        g.output(part, f"y{i}", np.float32, ["rows", 8])
    g.save()
    found = OnnxRuntimeSession(tmp_path / "parts.onnx", threads=1).run({"x": x})
    np.testing.assert_array_equal(np.concatenate([found[f"y{i}"] for i in range(3)], axis=1), whole)


def test_w8a8_rounds_an_input_once_for_all_that_multiply_it(tmp_path: Path) -> None:
    dialect = OnnxRuntimeDialect(Plan.uniform(SCHEMES["w8a8"]))
    g = GraphBuilder(tmp_path, "layer", dialect.opset_imports)
    x = g.input("x", np.float32, ["rows", 16])
    first, second = (dialect.linear(g, x, matrix_of(np.eye(16, dtype=np.float32) * i), None) for i in (1, 2))
    dialect.linear(g, first, matrix_of(np.eye(16, dtype=np.float32)), None)
    kinds = [node.op_type for node in g.model().graph]
    assert kinds.count("DynamicQuantizeLinear") == 2 and kinds.count("MatMulIntegerToFloat") == 3
    assert second.producer() is not None


def test_a_graph_that_is_only_checked_reads_no_weight() -> None:
    def unread(start: int, stop: int) -> Floats:
        raise AssertionError(f"rows {start} to {stop} were read")

    matrix = Matrix("layer", (VirtualTensor("layer", (8, 16), "float32", unread),), 16, "decoder", "decoder.0")
    dialect = OnnxRuntimeDialect(Plan.uniform(SCHEMES["w8a8"]))
    g = GraphBuilder(None, "layer", dialect.opset_imports)
    dialect.linear_parts(g, g.input("x", np.float32, ["rows", 16]), matrix, None, 2)


def test_gptq_without_calibration_is_refused(tmp_path: Path) -> None:
    scheme = EXTRA["int4-64-gptq"]
    dialect = OnnxRuntimeDialect(Plan(scheme, scheme, scheme, inputs=no_inputs))
    g = GraphBuilder(tmp_path, "layer", dialect.opset_imports)
    with pytest.raises(ConfigError, match="calibrate on photographs"):
        dialect.linear(g, g.input("x", np.float32, ["rows", 64]), matrix_of(np.ones((4, 64), np.float32)), None)


def test_fp8_is_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    dialect = OnnxRuntimeDialect(Plan.uniform(SCHEMES["fp8"]))
    g = GraphBuilder(tmp_path, "layer", dialect.opset_imports)
    with pytest.raises(ConfigError, match=r"decoder\.0.*choose w8a8"):
        dialect.linear(g, g.input("x", np.float32, ["rows", 64]), matrix_of(np.ones((4, 64), np.float32)), None)
