"""The TensorRT session's own logic, on a fake GPU: addresses, profiles, graphs, waiting. Not run on hardware."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.sessions.cuda_memory import DeviceBuffer, most_under_way
from fgr_edge.runtime.sessions.session import Buffer, HostArray, host_view
from fgr_edge.runtime.sessions.tensorrt import TensorRTSession
from fgr_edge.runtime.sessions.tensorrt_library import Library
from tests.runtime.sessions.fake_cuda import FakeCuda, cudaError_t
from tests.runtime.sessions.fake_tensorrt import (
    VERSIONS,
    FakeLibrary,
    Ranges,
    write_engine,
)

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

Install = Callable[[str], FakeLibrary]
SLOTS, WIDTH = 16, 4
DECODE: Ranges = {"rows": ([1, 1, 1, WIDTH],) * 3}
PREFILL: Ranges = {"rows": ([1, 1, 1, WIDTH], [1, 1, 4, WIDTH], [1, 1, 8, WIDTH])}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache: rows [1, 1, S, 4] go into past from `start` on; the sum over all slots comes out."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    cache, rows = [1, 1, "cache_length", WIDTH], [1, 1, "sequence", WIDTH]
    made = onnx.helper.make_graph(
        [
            onnx.helper.make_node("TensorScatter", ["past_key.0", "rows", "start"], ["present_key.0"], axis=2),
            onnx.helper.make_node("ReduceSum", ["present_key.0", "axes"], ["total"], keepdims=0),
        ],
        "cache",
        [
            value("past_key.0", kind.FLOAT, cache),
            value("rows", kind.FLOAT, rows),
            value("start", kind.INT64, [1]),
        ],
        [value("present_key.0", kind.FLOAT, cache), value("total", kind.FLOAT, [1, 1, WIDTH])],
        [onnx.numpy_helper.from_array(np.array([2]), "axes")],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 24)], ir_version=10)
    path = tmp_path_factory.mktemp("graphs") / "cache.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture
def opened(installed: Install, graph: Path, tmp_path: Path) -> Callable[..., TensorRTSession]:
    """`opened("10.3.0")`: the cache's engine, for calls of one row and of up to eight."""

    def open_session(version: str = "11.4.0.106", *profiles: Ranges, on_host: Sequence[str] = ()) -> TensorRTSession:
        installed(version)
        profiles, fixed = profiles or (PREFILL, DECODE), {"cache_length": SLOTS}
        write_engine(tmp_path / "cache.engine", graph, version, profiles, fixed, on_host)
        library = Library("tensorrt-rtx" if version.startswith("rtx-") else "tensorrt")
        engine = library.read_engine(tmp_path / "cache.engine")
        library.share_activations([engine])
        return TensorRTSession(library, engine, "cache.engine")

    return open_session


class Cache:
    """What the decoder does: bound calls of several lengths over one cache."""

    def __init__(self, session: TensorRTSession) -> None:
        self.session = session
        self.past = session.buffer((1, 1, SLOTS, WIDTH), np.float32)
        self.calls: dict[int, tuple[Buffer, Buffer, Buffer, Callable[[], None]]] = {}

    def append(self, start: int, *rows: float) -> Buffer:
        """Put rows of these numbers into the cache; their sum comes with a download."""
        if len(rows) not in self.calls:
            buffer = self.session.buffer
            given, place = buffer((1, 1, len(rows), WIDTH), np.float32), buffer((1,), np.int64)
            total = buffer((1, 1, WIDTH), np.float32)
            run = self.session.bind(
                {"past_key.0": self.past, "rows": given, "start": place},
                {"present_key.0": self.past, "total": total},
            )
            self.calls[len(rows)] = given, place, total, run
        given, place, total, run = self.calls[len(rows)]
        given.array[0, 0] = np.array(rows)[:, None]
        given.upload()
        place.array[0] = start
        place.upload()
        run()
        return total

    def sum(self, start: int, *rows: float) -> float:
        total = self.append(start, *rows)
        total.download()
        return float(total.array[0, 0, 0])


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_add_up_in_a_cache_that_stays_in_place(opened: Callable[..., TensorRTSession], version: str) -> None:
    cache = Cache(opened(version))
    assert cache.sum(0, 1, 2, 3) == 6
    assert [cache.sum(place, 10) for place in (3, 4, 5, 6)] == [16, 26, 36, 46]
    assert cache.sum(2, 100, 200) == 1 + 2 + 100 + 200 + 30
    assert cache.sum(3, 0) == 1 + 2 + 100 + 30


def test_names_and_longest_inputs_are_the_engines(opened: Callable[..., TensorRTSession]) -> None:
    session = opened()
    assert session.input_names == {"past_key.0", "rows", "start"}
    assert session.longest("rows", 2) == 8
    assert session.longest("past_key.0", 2) == SLOTS
    assert session.longest("nothing", 0) is None


# Graphs


def test_one_row_is_captured_after_a_warm_up_and_then_launched(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda
) -> None:
    cache = Cache(opened())
    cache.append(0, 1.0)
    assert not [name for name in cuda.calls if "Graph" in name or "Capture" in name], "the first run warms up"
    cuda.calls.clear()
    cache.append(1, 1.0)
    order = ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]
    assert [name for name in cuda.calls if "Graph" in name or "Capture" in name] == [*order, "cudaGraphLaunch"]
    cuda.calls.clear()
    assert cache.sum(2, 1.0) == 3
    assert [name for name in cuda.calls if "Graph" in name or "Capture" in name] == ["cudaGraphLaunch"]
    assert sum(context._runs for context in cache.session.library._trt._contexts) == 3, "none was run twice"


def test_longer_calls_are_not_captured(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    cache = Cache(opened())
    for _ in range(4):
        cache.append(0, 1.0, 2.0)
    assert "cudaStreamBeginCapture" not in cuda.calls


def test_a_step_waits_for_nothing_but_its_download(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    cache = Cache(opened())
    for place in range(3):
        cache.sum(place, 1.0)
    cuda.calls.clear()
    for place in range(3, 6):
        cache.sum(place, 1.0)
    waits = [name for name in cuda.calls if name.endswith("Synchronize")]
    assert waits == ["cudaStreamSynchronize"] * 3
    assert not [name for name in cuda.calls if "Malloc" in name or "Alloc" in name or "Free" in name]


def test_prefill_between_two_steps_leaves_the_captured_graph_right(opened: Callable[..., TensorRTSession]) -> None:
    cache = Cache(opened())
    for place in range(4):
        cache.append(place, 1.0)
    assert cache.sum(0, 5, 6, 7) == 5 + 6 + 7 + 1
    assert cache.sum(4, 1.0) == 20
    assert cache.sum(5, 1.0) == 21


@pytest.mark.parametrize("version", ["10.3.0", "rtx-1.7.1.116"])
def test_one_profile_for_all_lengths_has_single_rows_captured_between_longer_calls(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda, version: str
) -> None:
    cache = Cache(opened(version, PREFILL))
    total = 0.0
    for place in (0, 2, 4):
        total += 3
        assert cache.sum(place, 1, 1) == total - 1
        assert cache.sum(place + 1, 2) == total
    assert cuda.calls.count("cudaStreamBeginCapture") == 1
    assert cuda.calls.count("cudaGraphLaunch") == 2


def test_two_calls_of_one_row_are_captured_only_when_warm(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda
) -> None:
    session = opened()
    first, second = Cache(session), Cache(session)
    for place in range(3):  # shapes and addresses are set anew in between: nothing is warm
        assert first.sum(place, 1.0) == place + 1
        assert second.sum(place, 2.0) == 2 * place + 2
    assert "cudaStreamBeginCapture" not in cuda.calls
    assert second.sum(3, 2.0) == 8
    assert first.sum(3, 1.0) == 4
    assert cuda.calls.count("cudaGraphLaunch") == 1


@pytest.mark.parametrize("version", ["11.4.0.106", "rtx-1.7.1.116"])
def test_what_cannot_be_captured_runs_without_and_says_so(
    opened: Callable[..., TensorRTSession],
    installed: Install,
    cuda: FakeCuda,
    caplog: pytest.LogCaptureFixture,
    version: str,
) -> None:
    session = opened(version)
    session.library._trt._capturable = False
    cache = Cache(session)
    with caplog.at_level(logging.WARNING):
        assert [cache.sum(place, 1.0) for place in range(4)] == [1, 2, 3, 4]
    assert [record.message for record in caplog.records] == [
        "cache.engine cannot be captured as a CUDA graph and runs without"
    ]
    assert cuda.graphs == 0


def test_what_an_engine_reads_on_the_cpu_is_not_captured_with_its_value(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda
) -> None:
    cache = Cache(opened(on_host=["start"]))
    assert [cache.sum(place, 1.0) for place in range(5)] == [1, 2, 3, 4, 5]
    assert cuda.graphs == 0


def test_rtx_is_asked_for_its_best_kernels_where_there_is_one_size(opened: Callable[..., TensorRTSession]) -> None:
    session = opened("rtx-1.7.1.116")
    decode, _ = session.context({"past_key.0": (1, 1, SLOTS, WIDTH), "rows": (1, 1, 1, WIDTH), "start": (1,)})
    prefill, _ = session.context({"past_key.0": (1, 1, SLOTS, WIDTH), "rows": (1, 1, 3, WIDTH), "start": (1,)})
    assert decode is not prefill
    choice = session.library._trt.DynamicShapesKernelSpecializationStrategy
    assert [config.dynamic_shapes_kernel_specialization_strategy for config in session.library._trt._configs] == [
        choice.EAGER,
        choice.LAZY,
    ]


# Waiting


def test_what_the_gpu_has_not_read_yet_is_not_written_over(opened: Callable[..., TensorRTSession]) -> None:
    cache = Cache(opened())
    for place in range(0, 12, 2):  # the same buffers again and again, and nobody reads a result
        cache.append(place, place, place + 1)
    assert cache.sum(12, 0.0) == sum(range(12))


def test_host_memory_is_not_handed_on_while_it_is_read(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    session, most = opened(), most_under_way(256)
    kept: list[DeviceBuffer] = []
    cuda.calls.clear()
    for number in range(most + 3):
        buffer = session.buffer((1, 1, SLOTS, WIDTH), np.float32)
        assert isinstance(buffer, DeviceBuffer)
        buffer.array[...] = number
        buffer.upload()
        kept.append(buffer)
        buffer._array = None  # its host memory may go to the next one, and its copy was not made yet
    assert [name for name in cuda.calls if name.endswith("Synchronize")] == ["cudaStreamSynchronize"]
    assert cuda.calls.count("cudaHostAlloc") == most
    session.library.cuda.synchronize()
    found = [cuda.device[buffer.address][:4].view(np.float32)[0] for buffer in kept]
    assert found == list(range(most + 3))


def test_writing_a_tensor_anew_waits_for_nothing(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    session = opened()
    buffer, sent = session.buffer((4,), np.float32), session.buffer((4,), np.float32)
    cuda.calls.clear()
    for number in range(5):
        buffer.array[number % 4] = number + 1
        buffer.upload()
    assert not [name for name in cuda.calls if name.endswith("Synchronize")]
    assert buffer.array.tolist() == [5, 2, 3, 4], "what was not written again is what it was"
    buffer.download()
    assert buffer.array.tolist() == [5, 2, 3, 4]
    assert not sent.array.any()


def test_a_tensor_that_is_read_on_the_cpu_stays_where_it_is(opened: Callable[..., TensorRTSession]) -> None:
    buffer = opened().buffer((4,), np.float32)
    assert isinstance(buffer, DeviceBuffer)
    address = buffer.host_address
    for number in range(3):
        buffer.array[...] = number
        buffer.upload()
    assert buffer.host_address == address


# Rows that stay on the GPU


def test_outputs_that_stay_are_not_written_over_and_nobody_waits(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda
) -> None:
    session = opened()
    found: list[Buffer] = []
    for number in range(4):  # captured from the second on
        if number == 1:  # contexts and buffers are there
            cuda.calls.clear()
        rows = np.full((1, 1, 1, WIDTH), number, np.float32)
        past = np.zeros((1, 1, SLOTS, WIDTH), np.float32)
        found.append(session.run_resident({"past_key.0": past, "rows": rows, "start": np.array([0])})["total"])
    assert not [name for name in cuda.calls if name.endswith("Synchronize")]
    assert cuda.calls.count("cudaGraphLaunch") == 3
    assert [float(host_view(total)[0, 0, 0]) for total in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("part", [slice(0, 2), slice(1, 4), slice(4, 6), slice(0, 6)])
def test_rows_on_the_gpu_are_put_between_those_of_the_host_without_coming_down(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda, part: slice
) -> None:
    session = opened()
    source, target = session.buffer((8, WIDTH), np.float32), session.buffer((1, 6, WIDTH), np.float32)
    source.array[...] = np.arange(8)[:, None] + 100
    source.upload()
    cuda.calls.clear()
    cuda.copies.clear()
    target.array[0] = np.arange(6)[:, None]
    target.upload_around(part, source, 2)
    row, count = WIDTH * 4, part.stop - part.start
    assert cuda.copies[-1] == (3, count * row)
    assert sum(size for kind, size in cuda.copies if kind == 1) == (6 - count) * row, "their place is not sent"
    assert not [kind for kind, _ in cuda.copies if kind == 2]
    assert not [name for name in cuda.calls if name.endswith("Synchronize")]
    expected = np.arange(6)
    expected[part] = np.arange(102, 102 + count)
    assert host_view(target)[0, :, 0].tolist() == expected.tolist()


def test_rows_of_another_engine_come_by_the_host(opened: Callable[..., TensorRTSession]) -> None:
    here, elsewhere = opened(), opened()
    target = here.buffer((1, 3, WIDTH), np.float32)
    away = elsewhere.buffer((2, WIDTH), np.float32)
    away.array[...] = 7
    away.upload()
    for source in (away, HostArray(np.full((2, WIDTH), 7, np.float32))):
        target.array[...] = 1
        target.upload_around(slice(1, 3), source, 0)
        assert host_view(target)[0, :, 0].tolist() == [1, 7, 7]
    with pytest.raises(EngineError, match=r"rows of \[2, 5\] do not fit into \[1, 3, 4\]"):
        target.upload_around(slice(1, 3), HostArray(np.ones((2, 5), np.float32)), 0)


def test_a_result_outlives_its_buffer(opened: Callable[..., TensorRTSession]) -> None:
    session = opened()
    buffer = session.buffer((8,), np.float32)
    buffer.array[...] = 3
    kept = buffer.array[2:4]
    del buffer
    other = session.buffer((8,), np.float32)
    other.array[...] = 9
    assert kept.tolist() == [3, 3]


def test_buffers_begin_with_zeros(opened: Callable[..., TensorRTSession]) -> None:
    session = opened()
    for _ in range(2):
        buffer = session.buffer((5, 3), np.float16)
        assert not buffer.array.any()
        buffer.array[...] = 1
        buffer.upload()
        buffer.download()
        del buffer
        other = session.buffer((5, 3), np.float16)
        other.download()
        assert not other.array.any()
        del other


# Whole runs


def test_run_computes_the_graph_for_each_shape(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    session = opened()
    for _ in range(2):
        for count in (1, 3, 8):
            found = session.run(
                {
                    "past_key.0": np.ones((1, 1, SLOTS, WIDTH), np.float32),
                    "rows": np.full((1, 1, count, WIDTH), 2, np.float32),
                    "start": np.array([1]),
                }
            )
            assert found["total"].tolist() == [[[SLOTS + count] * WIDTH]]
            assert found["present_key.0"][0, 0, : count + 1, 0].tolist() == [1] + [2] * count


# Errors


@pytest.mark.parametrize(
    ("count", "said"),
    [(9, r"rows is \[1, 1, 9, 4\], expected \[1, 1, 1 to 8, 4\] or \[1, 1, 1, 4\]")],
)
def test_shapes_outside_every_profile_are_named(opened: Callable[..., TensorRTSession], count: int, said: str) -> None:
    cache = Cache(opened())
    with pytest.raises(EngineError, match=said):
        cache.append(0, *range(count))


def test_a_cache_of_another_length_is_refused(opened: Callable[..., TensorRTSession]) -> None:
    cache = Cache(opened())
    cache.past = cache.session.buffer((1, 1, SLOTS + 1, WIDTH), np.float32)
    with pytest.raises(EngineError, match=r"past_key.0 is \[1, 1, 17, 4\], expected \[1, 1, 16, 4\]"):
        cache.append(0, 1.0)


def _tensors(session: TensorRTSession, **others: Any) -> tuple[dict[str, Buffer], dict[str, Buffer]]:
    past = session.buffer((1, 1, SLOTS, WIDTH), np.float32)
    inputs = {
        "past_key.0": past,
        "rows": session.buffer((1, 1, 1, WIDTH), others.get("rows", np.float32)),
        "start": session.buffer((1,), np.int64),
    }
    return inputs, {"present_key.0": past, "total": session.buffer(others.get("total", (1, 1, WIDTH)), np.float32)}


def test_tensors_of_another_engine_are_refused(opened: Callable[..., TensorRTSession]) -> None:
    session = opened()
    inputs, outputs = _tensors(session)
    with pytest.raises(EngineError, match=r"has inputs past_key.0, rows, start and was given past_key.0, rows;"):
        session.bind({name: value for name, value in inputs.items() if name != "start"}, outputs)
    with pytest.raises(EngineError, match="rows as float32 and was given float16"):
        session.bind(*_tensors(session, rows=np.float16))
    with pytest.raises(EngineError, match=r"gives total as \[1, 1, 4\] and the buffer is \[1, 2, 4\]"):
        session.bind(*_tensors(session, total=(1, 2, WIDTH)))


def test_a_cache_in_two_places_is_refused_where_the_engine_writes_in_place(
    opened: Callable[..., TensorRTSession],
) -> None:
    for version, in_place in (("10.3.0", False), ("10.16.1.11", True)):
        session = opened(version)
        inputs, outputs = _tensors(session)
        outputs["present_key.0"] = session.buffer((1, 1, SLOTS, WIDTH), np.float32)
        if in_place:
            with pytest.raises(EngineError, match=r"writes present_key.0 where it reads past_key.0"):
                session.bind(inputs, outputs)
        else:
            session.bind(inputs, outputs)()


def test_too_little_memory_is_said_with_numbers(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    session = opened()
    cuda.total_bytes = 50_000_000
    with pytest.raises(EngineError, match=r"NVIDIA Fake 9000 has 50 of 50 MB free and 65 MB more are needed"):
        session.buffer((16, 1000, 1000), np.float32)


def test_idle_memory_goes_back_before_there_is_too_little(
    opened: Callable[..., TensorRTSession], cuda: FakeCuda
) -> None:
    session = opened()
    cuda.total_bytes = 50_000_000
    kept = session.buffer((30, 1000, 1000), np.uint8)
    del kept
    assert session.buffer((40, 1000, 1000), np.uint8) is not None


def test_memory_goes_back_to_the_gpu_with_the_session(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    before = len(cuda.device) + 1  # the engine's own
    cache = Cache(opened())
    for place in range(4):
        cache.sum(place, 1.0)
        cache.sum(place, 1.0, 2.0)
    assert len(cuda.device) > before and cuda.pinned
    del cache
    gc.collect()
    assert len(cuda.device) == before and not cuda.pinned


def test_a_graph_without_memory_is_said_with_what_to_do(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    cache = Cache(opened())
    cache.sum(0, 1.0)
    cuda.refused["cudaGraphInstantiate"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=r"NVIDIA Fake 9000 has no memory left for cudaGraphInstantiate.*close other"):
        cache.sum(1, 1.0)


def test_a_fault_of_the_gpu_is_an_error_of_the_engine(opened: Callable[..., TensorRTSession], cuda: FakeCuda) -> None:
    cache = Cache(opened())
    cuda.refused["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match=r"refused cudaStreamSynchronize: cudaErrorIllegalAddress .*fgr-edge verify"):
        cache.sum(0, 1.0)
