"""Our attention is ONNX Runtime's, in the forms that our graphs have; what it is not, is left to ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.kernels.library import LIBRARY, computes, multiplies
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.settings import Products, SessionSettings
from fgr_edge.runtime.step_inputs import HIDDEN
from tests.runtime.c_checks import CROSS_COMPILER, EMULATOR, SANITIZERS, checked, compiled, needs_aarch64
from tests.runtime.made_up_products import NOT_BUILT, WHY_NOT

built = pytest.mark.skipif(NOT_BUILT, reason=WHY_NOT)
CHECK = Path(__file__).with_name("check_attention.c")
SLOTS = 96
FLOAT, INT32, INT64 = 1, 6, 7  # of onnx.TensorProto
SIDES: tuple[Products, ...] = ("fgr-edge", "onnxruntime")

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    heads: int
    kv_heads: int
    size: int

    @property
    def packed(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.size


SHAPES = (Shape(4, 2, 64), Shape(12, 2, 32), Shape(3, 3, 80), Shape(8, 1, 128))


def write_graph(
    path: Path, operator: str, inputs: dict[str, tuple[int, list[Any]]], outputs: int, **numbers: Any
) -> Path:
    """One node; a name that begins with none stands for an input that the node leaves out."""
    onnx = pytest.importorskip("onnx")
    names = ["y", "present_key", "present_value"][:outputs]
    given = ["" if name.startswith("none") else name for name in inputs]
    node = onnx.helper.make_node(operator, given, names, domain="com.microsoft", **numbers)
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(
        [node],
        "attention",
        [info(name, *shape) for name, shape in inputs.items() if not name.startswith("none")],
        [info(name, onnx.TensorProto.FLOAT, [f"{name}.{i}" for i in range(3 + (name != "y"))]) for name in names],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(onnx.helper.make_model(made, ir_version=10, opset_imports=opsets).SerializeToString())
    return path


def grouped(folder: Path, shape: Shape, *, apart: bool = False, bare: bool = False, **numbers: Any) -> Path:
    """GroupQueryAttention as our decoders have it. `apart`: heads in three tensors; `bare`: no positions, no bias."""
    heads: dict[str, tuple[int, list[Any]]]
    if apart:
        widths = {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}
        heads = {name: (FLOAT, [1, "s", count * shape.size]) for name, count in widths.items()}
    else:
        heads = {"q": (FLOAT, [1, "s", shape.packed]), "none1": (FLOAT, []), "none2": (FLOAT, [])}
    inputs: dict[str, tuple[int, list[Any]]] = {
        **heads,
        "past_key": (FLOAT, [1, shape.kv_heads, "slots", shape.size]),
        "past_value": (FLOAT, [1, shape.kv_heads, "slots", shape.size]),
        "seqlens_k": (INT32, [1]),
        "total_sequence_length": (INT32, []),
        "cos_cache": (FLOAT, ["rows", shape.size // 2]),
        "sin_cache": (FLOAT, ["rows", shape.size // 2]),
    }
    if not bare:
        inputs |= {"position_ids": (INT64, [1, "s"]), "attention_bias": (FLOAT, [1, 1, "s", "total"])}
    fixed = {"num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "do_rotary": 1}
    return write_graph(folder / "grouped.onnx", "GroupQueryAttention", inputs, 3, **(fixed | numbers))


def arrays(shape: Shape, before: int, tokens: int, *, apart: bool = False, bare: bool = False) -> Arrays:
    random = np.random.default_rng(tokens)
    angles = random.uniform(-3, 3, (SLOTS, shape.size // 2))
    draw = random.standard_normal
    found: Arrays = {
        "past_key": draw((1, shape.kv_heads, SLOTS, shape.size), np.float32),
        "past_value": draw((1, shape.kv_heads, SLOTS, shape.size), np.float32),
        "seqlens_k": np.array([before + tokens - 1], np.int32),
        "total_sequence_length": np.array(before + tokens, np.int32),
        "cos_cache": np.cos(angles).astype(np.float32),
        "sin_cache": np.sin(angles).astype(np.float32),
    }
    for name, count in {"q": shape.heads, "k": shape.kv_heads, "v": shape.kv_heads}.items() if apart else ():
        found[name] = draw((1, tokens, count * shape.size), np.float32)
    if not apart:
        found["q"] = draw((1, tokens, shape.packed), np.float32)
    if not bare:
        hidden = random.random((1, 1, tokens, before + tokens)) < 0.3
        hidden[..., 0] = False
        # With nothing before them, ONNX Runtime takes the first position alone, and counts on from it.
        found["position_ids"] = random.integers(0, SLOTS, (1, tokens)) if before else np.arange(tokens)[None]
        found["attention_bias"] = np.where(hidden, HIDDEN, np.float32(0))
    return found


def by(side: Products, graph: Path, inputs: Arrays, threads: int = 2) -> Arrays:
    return OnnxRuntimeSession(graph, threads=threads, settings=SessionSettings(products=side)).run(inputs)


@built
@pytest.mark.parametrize("bare", [False, True], ids=["tree", "plain"])
@pytest.mark.parametrize("apart", [False, True], ids=["packed", "apart"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_decoders_attention_is_onnxruntimes(shape: Shape, apart: bool, bare: bool, tmp_path: Path) -> None:
    graph = grouped(tmp_path, shape, apart=apart, bare=bare)
    for before, tokens in ((0, 1), (0, 70), (63, 1), (40, 5), (64, 32)):
        inputs = arrays(shape, before, tokens, apart=apart, bare=bare)
        ours, theirs = (by(side, graph, inputs) for side in SIDES)
        np.testing.assert_allclose(ours["y"], theirs["y"], rtol=0, atol=2e-5, err_msg=f"{tokens} after {before}")
        for name in ("present_key", "present_value"):
            held = np.s_[:, :, : before + tokens]
            np.testing.assert_allclose(ours[name][held], theirs[name][held], rtol=0, atol=2e-6)


@built
@pytest.mark.parametrize("shape", [Shape(6, 6, 64), Shape(4, 4, 72), Shape(16, 16, 80)], ids=str)
def test_a_vision_towers_attention_is_onnxruntimes(shape: Shape, tmp_path: Path) -> None:
    width = shape.heads * shape.size
    inputs = {name: (FLOAT, ["b", "s", width]) for name in ("q", "k", "v")}
    graph = write_graph(tmp_path / "plain.onnx", "MultiHeadAttention", inputs, 1, num_heads=shape.heads)
    for batch, tokens in ((1, 1), (1, 130), (3, 65)):
        random = np.random.default_rng(tokens)
        given = {name: random.standard_normal((batch, tokens, width), np.float32) for name in inputs}
        ours, theirs = (by(side, graph, given)["y"] for side in SIDES)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@built
def test_windows_whose_padding_is_masked_are_onnxruntimes(tmp_path: Path) -> None:
    shape, windows, slots = Shape(6, 6, 64), 5, 64
    width = shape.heads * shape.size
    inputs: dict[str, tuple[int, list[Any]]] = {name: (FLOAT, ["b", "s", width]) for name in ("q", "k", "v")}
    inputs |= {"none": (FLOAT, []), "mask": (INT32, ["b", "s"])}
    graph = write_graph(tmp_path / "windows.onnx", "MultiHeadAttention", inputs, 1, num_heads=shape.heads)
    random = np.random.default_rng(0)
    given: Arrays = {name: random.standard_normal((windows, slots, width), np.float32) for name in ("q", "k", "v")}
    given["mask"] = (np.arange(slots) < np.array([[64], [1], [63], [17], [40]])).astype(np.int32)
    ours, theirs = (by(side, graph, given)["y"] for side in SIDES)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    with pytest.raises(EngineError, match="the mask does not fit"):
        by("fgr-edge", graph, given | {"mask": given["mask"][:, :63]})


@built
def test_attention_with_a_bias_of_heads_is_left_to_onnxruntime(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs: dict[str, tuple[int, list[Any]]] = {name: (FLOAT, [1, "s", 64]) for name in ("q", "k", "v")}
    inputs["bias"] = (FLOAT, [192])
    graph = write_graph(tmp_path / "bias.onnx", "MultiHeadAttention", inputs, 1, num_heads=1)
    given = {name: np.ones((1, 2, 64), np.float32) for name in ("q", "k", "v")} | {"bias": np.ones(192, np.float32)}
    with caplog.at_level("INFO", logger="fgr_edge"):
        ours, theirs = (by(side, graph, given)["y"] for side in SIDES)
    assert "ours were refused" in caplog.text
    assert np.array_equal(ours, theirs)


@built
def test_a_token_gets_the_same_bits_whoever_is_computed_with_it(tmp_path: Path) -> None:
    shape, before, tokens = Shape(12, 2, 64), 31, 40
    session = OnnxRuntimeSession(grouped(tmp_path, shape), threads=2)
    given = arrays(shape, before, tokens)
    together = session.run(given)
    for apart in (1, 2, 7, 39):
        cache = {name: given[name].copy() for name in ("past_key", "past_value")}
        for start in range(0, tokens, apart):
            part, end = np.s_[:, start : start + apart], before + min(start + apart, tokens)
            found = session.run(
                given
                | cache
                | {"q": given["q"][part], "position_ids": given["position_ids"][part]}
                | {"attention_bias": given["attention_bias"][:, :, start : start + apart, :end]}
                | {"seqlens_k": np.array([end - 1], np.int32), "total_sequence_length": np.array(end, np.int32)}
            )
            assert np.array_equal(found["y"], together["y"][part]), f"{apart} at a time, from {start}"
            for name, kept in cache.items():
                new = np.s_[:, :, before + start : end]
                kept[new] = found[f"present{name.removeprefix('past')}"][new]


@built
def test_a_cache_that_is_bound_twice_is_written_in_place(tmp_path: Path) -> None:
    shape, before, tokens = Shape(4, 2, 64), 20, 3
    session = OnnxRuntimeSession(grouped(tmp_path, shape), threads=2)
    given = arrays(shape, before, tokens)
    expected = session.run(given)
    buffers = {name: session.buffer(array.shape, array.dtype) for name, array in given.items()}
    for name, array in given.items():
        buffers[name].array[...] = array
    y = session.buffer((1, tokens, shape.heads * shape.size), np.float32)
    session.bind(buffers, {"y": y, "present_key": buffers["past_key"], "present_value": buffers["past_value"]})()
    assert np.array_equal(y.array, expected["y"])
    for kind in ("key", "value"):
        now, old = buffers[f"past_{kind}"].array, given[f"past_{kind}"]
        new = np.s_[:, :, before : before + tokens]
        assert np.array_equal(now[new], expected[f"present_{kind}"][new])
        now[new] = old[new]
        assert np.array_equal(now, old)


@built
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_shows_in_whoever_sees_it(bad: float, tmp_path: Path) -> None:
    shape = Shape(4, 4, 64)
    graph = grouped(tmp_path, shape, bare=True)
    given = arrays(shape, 8, 6, bare=True)
    width = shape.heads * shape.size
    places = {"query": (5, np.s_[2, :64]), "key": (width + 5, np.s_[2:, :64]), "value": (2 * width + 5, np.s_[2:, 5])}
    if np.isinf(bad):
        del places["key"]  # a score of minus infinity is a share of nothing
    for place, spoilt in places.values():
        given["q"] = arrays(shape, 8, 6, bare=True)["q"]
        given["q"][0, 2, place] = bad  # in the first head's query, key, value
        found = by("fgr-edge", graph, given)["y"]
        assert not np.isfinite(found[0][spoilt]).any()
        assert np.isfinite(found[0][:, 64:]).all()


@built
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seqlens_k": np.array([SLOTS], np.int32)}, "a cache of 96 slots cannot hold 97 tokens"),
        ({"position_ids": np.array([[SLOTS]])}, "a position lies beyond the table"),
        ({"position_ids": np.array([[-1]])}, "a position lies beyond the table"),
        ({"attention_bias": np.zeros((1, 1, 1, 3), np.float32)}, "the bias does not fit"),
    ],
)
def test_what_lies_beyond_its_table_is_said_and_not_read(change: Arrays, says: str, tmp_path: Path) -> None:
    shape = Shape(4, 2, 64)
    with pytest.raises(EngineError, match=says):
        by("fgr-edge", grouped(tmp_path, shape), arrays(shape, 8, 1) | change)


@built
@pytest.mark.parametrize(
    "numbers", [{"softcap": 30.0}, {"local_window_size": 4}, {"rotary_interleaved": 1}, {"smooth_softmax": 1}], ids=str
)
def test_other_forms_are_left_to_onnxruntime(
    numbers: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = Shape(4, 2, 64)
    graph = grouped(tmp_path, shape, bare=True, **numbers)
    given = arrays(shape, 8, 3, bare=True)
    with caplog.at_level("INFO", logger="fgr_edge"):
        ours = by("fgr-edge", graph, given)["y"]
    assert "ours were refused" in caplog.text
    assert np.array_equal(ours, by("onnxruntime", graph, given)["y"])


def test_graphs_are_told_apart_by_their_operators(tmp_path: Path) -> None:
    graph = grouped(tmp_path, SHAPES[0])
    assert computes(graph)
    assert not multiplies(graph)
    (tmp_path / "other.onnx").write_bytes(b"Attention")
    assert not computes(tmp_path / "other.onnx")


def test_every_way_of_this_processor_attends_right(tmp_path: Path) -> None:
    found = checked([compiled(CHECK, LIBRARY.parent, tmp_path, "cc")])
    if not found:
        pytest.skip("this processor has none of the instruction sets")


@pytest.mark.slow
def test_no_way_of_this_processor_reads_or_writes_beside_its_memory(tmp_path: Path) -> None:
    checked([compiled(CHECK, LIBRARY.parent, tmp_path, "cc", *SANITIZERS)])


@pytest.mark.slow
@needs_aarch64
def test_aarch64_attends_right(tmp_path: Path) -> None:
    program = compiled(CHECK, LIBRARY.parent, tmp_path, CROSS_COMPILER, "-static")
    assert checked([EMULATOR, "-cpu", "max", program]) == {"neondot"}
