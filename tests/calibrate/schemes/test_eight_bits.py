"""fp16, bf16, fp8 and W8A8: their numbers, against ml_dtypes and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.calibrate.schemes import fp8, half, int8, w8a8
from fgr_edge.errors import ConfigError

Floats = np.ndarray


def spread(count: int = 50_000) -> Floats:
    """Numbers of all magnitudes that E4M3 has, and beyond, with the halfway ones."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal(count) * np.exp(rng.uniform(-12, 7, count))
    grid = fp8.decode(np.arange(127, dtype=np.uint8))
    halfway = (grid[1:] + grid[:-1]) / 2
    return np.concatenate([random, grid, -grid, halfway, -halfway, [0.0, -0.0, 464.0, -1e30]]).astype(np.float32)


def test_fp8_codes_are_those_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = spread()
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(fp8.encode(values), expected)
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(fp8.decode(codes), codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_fp8_weights_are_within_a_sixteenth_or_the_smallest_step() -> None:
    w = np.random.default_rng(0).standard_normal((8, 300)).astype(np.float32)
    w[3] = 0
    w[4] *= 1e-30
    codes, scale = fp8.quantize(w)
    restored = fp8.dequantize(codes, scale)
    assert np.all(np.abs(restored - w) <= np.maximum(np.abs(w) / 16, scale[:, None] * 2.0**-10) * 1.0001)
    assert np.all(restored[3] == 0)


def test_fp8_inputs_beyond_what_calibration_saw_become_the_end_of_the_range() -> None:
    scale = fp8.input_scale(np.array([1.0, 7.0], np.float32))
    found = fp8.rounded_inputs(np.array([[7.0, 70.0, -70.0, 0.0]], np.float32), scale)
    np.testing.assert_allclose(found, [[7.0, 7.0, -7.0, 0.0]], rtol=1e-6)


def test_bfloat16_bits_are_those_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = spread()[None]
    bits = half.quantize(values, "bfloat16")
    np.testing.assert_array_equal(bits, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    restored = half.dequantize(bits, "bfloat16")
    np.testing.assert_array_equal(restored, values.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_float16_is_numpys_and_refuses_what_does_not_fit() -> None:
    values = np.array([[1 / 3, -65504.0, 1e-7]], np.float32)
    bits = half.quantize(values, "float16")
    np.testing.assert_array_equal(half.dequantize(bits, "float16"), values.astype(np.float16).astype(np.float32))
    for wrong in (7e4, np.nan):
        with pytest.raises(ConfigError, match="does not fit float16"):
            half.quantize(np.array([[1.0, wrong]], np.float32), "float16")


def test_int8_per_channel_has_one_scale_a_row() -> None:
    w = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    levels = int8.quantize(w, None)
    assert np.all(levels.scale == levels.scale[:, :1])
    np.testing.assert_allclose(levels.scale[:, 0], np.abs(w).max(axis=1) / 127, rtol=1e-6)
    assert np.all(np.abs(levels.dequantize() - w) <= levels.scale[:, :1] * 0.5001)
    values, scale = w8a8.quantize(w)
    np.testing.assert_allclose(levels.dequantize(), w8a8.dequantize(values, scale), rtol=1e-6)


def test_w8a8_inputs_are_rounded_as_the_engine_does() -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, kinds.FLOAT, ["n", "k"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for offset in (-5.0, 0.0, 0.7, 5.0):
        x = (rng.standard_normal((20, 30)) + offset).astype(np.float32)
        (expected,) = session.run(None, {"x": x})
        found = w8a8.rounded_inputs(x)
        assert np.mean(np.isclose(found, expected, atol=1e-6)) > 0.999  # halfway numbers may go to the other side
        assert np.abs(found - x).max() <= (max(x.max(), 0) - min(x.min(), 0)) / 255
