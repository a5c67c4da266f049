"""Linear layers in standard operators compute what their schemes say, on ONNX Runtime as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.calibrate.plan import Plan, no_inputs
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.fp8 import LARGEST, decode, encode
from fgr_edge.calibrate.schemes.int4 import positive
from fgr_edge.calibrate.schemes.reference import block_quantizer, reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, WeightsAndInputs
from fgr_edge.errors import ConfigError
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession

onnx = pytest.importorskip("onnx")

from fgr_edge.export.dialects.qdq import Working, rounding  # noqa: E402
from fgr_edge.export.dialects.standard import StandardDialect  # noqa: E402
from fgr_edge.export.graphs.builder import GraphBuilder  # noqa: E402
from fgr_edge.export.lazy_tensor import VirtualTensor  # noqa: E402
from fgr_edge.export.weights import Matrix  # noqa: E402

Floats = np.ndarray
ROWS, INPUTS = 24, 160
QUANTIZED = [name for name, scheme in SCHEMES.items() if isinstance(scheme, BlockWeights | WeightsAndInputs)]


def matrix_of(weight: Floats) -> Matrix:
    tensor = VirtualTensor("layer", weight.shape, "float32", lambda start, stop: weight[start:stop])
    return Matrix("layer", (tensor,), weight.shape[1], "decoder", "decoder.0")


def statistics_of(x: Floats) -> InputStatistics:
    flat = x.reshape(-1, x.shape[-1])
    gram = (flat.T @ flat / len(flat)).astype(np.float32)
    return InputStatistics(np.abs(flat).mean(0), np.abs(flat).max(0), flat, gram)


def layer(
    folder: Path, matrix: Matrix, name: str, x: Floats, bias: Floats | None = None, working: Working = "float32"
) -> tuple[Floats, Any]:
    """x [1, S, K] through a graph of one linear layer, and the graph."""
    scheme = SCHEMES[name]
    dialect = StandardDialect(Plan(scheme, scheme, scheme, inputs=lambda _: statistics_of(x)), working)
    g = GraphBuilder(folder, name, dialect.opset_imports)
    y = dialect.linear(g, dialect.working(g, g.input("x", np.float32, [1, "rows", x.shape[-1]])), matrix, bias)
    g.output(dialect.float32(g, y), "y", np.float32, [1, "rows", matrix.padded_rows])
    g.save()
    onnx.checker.check_model(str(folder / f"{name}.onnx"))
    session = OnnxRuntimeSession(folder / f"{name}.onnx", threads=1)
    return session.run({"x": x})["y"], onnx.load(folder / f"{name}.onnx", load_external_data=True)


def expected_inputs(name: str, x: Floats) -> Floats:
    """The inputs that the layer computes with."""
    scheme = SCHEMES[name]
    if not isinstance(scheme, WeightsAndInputs):
        return x
    if scheme.kind == "fp8":
        scale = np.abs(x).max() / np.float32(LARGEST)
        return np.asarray(decode(encode(x / scale)) * scale)
    scale = np.abs(x).max() / np.float32(127)
    return np.asarray(np.clip(np.rint(x / scale), -128, 127) * scale)


def expected_weight(name: str, weight: Floats) -> Floats:
    scheme = SCHEMES[name]
    if isinstance(scheme, BlockWeights) and scheme.bits == 4:
        return block_quantizer(scheme, None, positive)(weight).dequantize()
    return reference_weight(scheme)(weight)


@pytest.fixture
def weight() -> Floats:
    values = np.random.default_rng(0).standard_normal((ROWS, INPUTS), np.float32)
    values[3] *= 50
    values[5] = 0
    return values


@pytest.fixture
def x() -> Floats:
    return np.random.default_rng(1).standard_normal((1, 5, INPUTS), np.float32)


@pytest.mark.parametrize("name", SCHEMES)
def test_onnxruntime_computes_the_reference_of_every_scheme(
    tmp_path: Path, weight: Floats, x: Floats, name: str
) -> None:
    if name == "bf16":
        pytest.skip("onnxruntime's CPU multiplies no bfloat16")
    bias = np.linspace(-1, 1, ROWS, dtype=np.float32)
    found, _ = layer(tmp_path, matrix_of(weight), name, x, bias)
    expected = expected_inputs(name, x) @ expected_weight(name, weight).T + bias
    tolerance = 2e-3 if name == "fp16" else 1e-5  # float16 products round their sums
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", QUANTIZED)
def test_in_float16_only_sums_are_rounded_more(tmp_path: Path, weight: Floats, x: Floats, name: str) -> None:
    found, graph = layer(tmp_path, matrix_of(weight), name, x, working="float16")
    expected = expected_inputs(name, x) @ expected_weight(name, weight).T
    # An input or a scale that rounds the other way first moves a number of FP8 by an eighth.
    assert np.abs(found - expected).max() / np.abs(expected).max() < (2e-2 if name == "fp8" else 4e-3)
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert kinds["layer.scale"] == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("working", ["float32", "float16", "bfloat16"])
def test_scales_are_positive_and_zero_rows_are_zero(
    tmp_path: Path, weight: Floats, x: Floats, name: str, working: Working
) -> None:
    # TensorRT's parser refuses a scale that is zero or negative.
    scheme = SCHEMES[name]
    assert isinstance(scheme, BlockWeights | WeightsAndInputs)
    weight[7] = 1e-9  # below what float16 holds
    values, scale = rounding(scheme, None, working)(weight)
    assert (scale > 0).all() and np.isfinite(scale).all()
    assert not values[5].any()


@pytest.mark.parametrize("name", ["int8", "int4-32", "w8a8", "fp8"])
def test_a_narrow_scale_costs_no_accuracy(weight: Floats, name: str) -> None:
    """Weights are rounded with the scale as it is stored: bfloat16's eight bits move no level."""
    scheme = SCHEMES[name]
    assert isinstance(scheme, BlockWeights | WeightsAndInputs)

    def error(working: Working) -> float:
        values, scale = rounding(scheme, None, working)(weight)
        numbers = decode(values) if name == "fp8" else values.view(np.int8).astype(np.float32)
        blocks = numbers.reshape(ROWS, scale.shape[1], -1) * scale[:, :, None]
        return float(np.abs(blocks.reshape(ROWS, -1)[:, :INPUTS] - weight).mean())

    assert error("float16") < 1.02 * error("float32")
    assert error("bfloat16") < 1.05 * error("float32")


@pytest.mark.parametrize("name", ["w8a8", "fp8"])
def test_inputs_beyond_the_calibrated_range_become_its_end(tmp_path: Path, name: str) -> None:
    weight = np.eye(16, dtype=np.float32)
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 1, 16)
    scheme = SCHEMES[name]
    dialect = StandardDialect(Plan(scheme, scheme, scheme, inputs=lambda _: statistics_of(x)), "float32")
    g = GraphBuilder(tmp_path, "far", dialect.opset_imports)
    y = dialect.linear(g, g.input("x", np.float32, [1, "rows", 16]), matrix_of(weight), None)
    g.output(y, "y", np.float32, [1, "rows", 16])
    g.save()
    found = OnnxRuntimeSession(tmp_path / "far.onnx", threads=1).run({"x": 1000 * x})["y"]
    assert np.abs(found).max() < 1.02 and np.sign(found).tolist() == np.sign(x).tolist()


@pytest.mark.parametrize("name", SCHEMES)
def test_padding_with_zeros_changes_no_value(tmp_path: Path, name: str) -> None:
    """An MLP of inner width 3420 / 20 = 171, odd to every unit of hardware, as one of a padded width."""
    if name == "bf16":
        pytest.skip("onnxruntime's CPU multiplies no bfloat16")
    rng = np.random.default_rng(2)
    up, down = rng.standard_normal((171, 64), np.float32), rng.standard_normal((32, 171), np.float32)
    dialect = StandardDialect(Plan.uniform(SCHEMES[name]))
    width = dialect.padded_width(171, "decoder", "decoder.0")
    assert width % 16 == 0 or name in ("fp32", "fp16"), "quantized widths suit matrix units"
    x = rng.standard_normal((1, 3, 64), np.float32)
    bias = rng.standard_normal(171, np.float32)
    whole, _ = layer(tmp_path, matrix_of(up).padded(rows=width), name, x, bias)
    plain, _ = layer(tmp_path, matrix_of(up), name, x, bias)
    assert whole.shape[2] == width
    np.testing.assert_array_equal(whole[:, :, :171], plain)
    assert not whole[:, :, 171:].any()
    wide, _ = layer(tmp_path, matrix_of(down).padded(columns=width), name, whole)
    expected = expected_inputs(name, plain) @ expected_weight(name, down).T
    assert np.abs(wide - expected).max() / np.abs(expected).max() < (2e-3 if name == "fp16" else 1e-5)


def test_inputs_of_a_width_from_elsewhere_are_padded_at_run_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((8, 1176 // 8), np.float32), rng.standard_normal((1, 4, 147), np.float32)
    found, graph = layer(tmp_path, matrix_of(weight), "int4-32", x)
    assert [node.op_type for node in graph.graph.node].count("Pad") == 1
    expected = x @ expected_weight("int4-32", weight).T
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_int4_is_stored_in_half_a_byte_and_has_no_zero_point(tmp_path: Path, weight: Floats, x: Floats) -> None:
    _, graph = layer(tmp_path, matrix_of(weight), "int4-32", x)
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    assert stored["layer.int4-32"].data_type == onnx.TensorProto.INT4
    assert len(stored["layer.int4-32"].raw_data) == ROWS * INPUTS // 2
    (node,) = (node for node in graph.graph.node if node.op_type == "DequantizeLinear")
    assert len(node.input) == 2 and {a.name: a.i for a in node.attribute} == {"axis": 1, "block_size": 32}


@pytest.mark.parametrize("name", ["w8a8", "fp8"])
def test_quantized_inputs_without_calibration_are_refused(tmp_path: Path, weight: Floats, name: str) -> None:
    dialect = StandardDialect(Plan.uniform(SCHEMES[name]))
    assert dialect.plan.inputs is no_inputs
    g = GraphBuilder(None, "layer", dialect.opset_imports)
    with pytest.raises(ConfigError, match=rf"scheme '{name}' quantizes the inputs of layer.*calibrate on photographs"):
        dialect.linear(g, g.input("x", np.float16, [1, "rows", INPUTS]), matrix_of(weight), None)
