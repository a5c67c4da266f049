"""TensorRT's runtime as its bindings show it, version by version, played on the host with ONNX Runtime.

A fake library offers what the bindings of its version offer (`tests/data/tensorrt_api`) and nothing else. Its engines
are JSON: an ONNX graph, the numbers that its named dimensions have, and profiles. They compute on `FakeCuda`'s memory
when the stream comes to them. A context refuses what TensorRT refuses: shapes outside its profile, missing addresses,
missing memory for activations, a capture that is not warm.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.runtime.sessions.fake_cuda import FakeCuda

API = Path(__file__).resolve().parents[2] / "data" / "tensorrt_api"
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx-1.7.1.116")
ACTIVATION_BYTES = 4096
_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(bool)": ("BOOL", np.bool_),
}

Ranges = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]


def write_engine(
    path: Path,
    graph: Path,
    version: str,
    profiles: Sequence[Ranges],
    fixed: Mapping[str, int] | None = None,
    on_host: Sequence[str] = (),
) -> None:
    """A file that the fake library of `version` opens.

    Args:
        profiles: by input, smallest, usual and largest shape.
        fixed: named dimensions that are numbers in the engine.
        on_host: inputs that it reads on the CPU.
    """
    plan = {
        "graph": str(graph),
        "version": version,
        "profiles": list(profiles),
        "fixed": dict(fixed or {}),
        "on_host": list(on_host),
    }
    path.write_text(json.dumps(plan))


def members(version: str) -> dict[str, list[str]]:
    """Of every class of a version's bindings."""
    found: dict[str, list[str]] = json.loads((API / f"{version}.json").read_text())["members"]
    return found


class Offered:
    """A class of the bindings: what its version does not have, it has not."""

    played: str
    _members: frozenset[str] = frozenset()
    _library: FakeLibrary

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in type(self)._members:
            raise AttributeError(f"{type(self).__name__} of {type(self)._library._version} has no {name!r}")
        return super().__getattribute__(name)


class FakeLibrary(ModuleType):
    """Plays `tensorrt` or `tensorrt_rtx` of one version on a fake GPU.

    Attributes:
        _contexts, _configs: all that were made, for tests to look at.
        _capturable: whether what its contexts do can be captured.
    """

    def __init__(self, version: str, cuda: FakeCuda) -> None:
        is_rtx = version.startswith("rtx-")
        super().__init__("tensorrt_rtx" if is_rtx else "tensorrt")
        self._version = version
        self._cuda = cuda
        self._is_rtx = is_rtx
        self._capturable = True
        self._contexts: list[FakeContext] = []
        self._configs: list[FakeRuntimeConfig] = []
        self.__version__ = version.removeprefix("rtx-")
        offered = members(version)
        for played in (FakeLogger, FakeRuntime, FakeEngine, FakeContext, FakeRuntimeConfig, FakeRefitter, FakeParser):
            name = played.played
            if name in offered:
                body = {"_members": frozenset(offered[name]), "_library": self}
                setattr(self, name, type(name, (played,), body))
        for name in (
            *("DataType", "TensorIOMode", "TensorLocation", "ExecutionContextAllocationStrategy"),
            *("CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"),
        ):
            if name in offered:
                setattr(self, name, enum.Enum(name, [item for item in offered[name] if item.isupper()]))

    def _make(self, name: str, *arguments: Any) -> Any:
        return getattr(self, name)(*arguments)


class FakeLogger(Offered):
    """`ILogger`; the code under test derives from it."""

    played = "ILogger"
    ERROR, INTERNAL_ERROR, WARNING, INFO, VERBOSE = "ERROR", "INTERNAL_ERROR", "WARNING", "INFO", "VERBOSE"

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)  # what derives from it has attributes of its own

    def log(self, severity: str, message: str) -> None:
        raise NotImplementedError


class FakeRuntime(Offered):
    played = "Runtime"

    def __init__(self, logger: Any) -> None:
        assert self._library._cuda.calls, "without a look at the driver first, this would have ended the process"
        self._logger = logger

    def deserialize_cuda_engine(self, data: Any) -> Any:
        try:
            plan = json.loads(bytes(memoryview(data)))
        except ValueError:
            self._logger.log("ERROR", "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        if plan["version"] != self._library._version:
            self._logger.log("ERROR", f"The engine plan file is for version {plan['version']}")
            return None
        return self._library._make("ICudaEngine", plan, self._logger)


class FakeEngine(Offered):
    played = "ICudaEngine"

    def __init__(self, plan: Mapping[str, Any], logger: Any) -> None:
        import onnxruntime

        self._plan, self._logger = plan, logger
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(plan["graph"], options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        self._values = {value.name: value for value in values}
        self._library._cuda.cudaMalloc(Path(plan["graph"]).stat().st_size)
        self._profiles = plan["profiles"]

    def _dims(self, name: str) -> list[int | str]:
        return [self._plan["fixed"].get(dim, dim) for dim in self._values[name].shape]

    def _numpy(self, name: str) -> npt.DTypeLike:
        return _TYPES[self._values[name].type][1]

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def device_memory_size_v2(self) -> int:
        return ACTIVATION_BYTES

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode: Any = self._library.TensorIOMode
        return mode.INPUT if name in self._inputs else mode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        location: Any = self._library.TensorLocation
        return location.HOST if name in self._plan.get("on_host", ()) else location.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._library.DataType, _TYPES[self._values[name].type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim if isinstance(dim, int) else -1 for dim in self._dims(name))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return [list(shape) for shape in self._profiles[profile_index][name]]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return name.replace("present_", "past_") if name.startswith("present_") else None

    def create_runtime_config(self) -> Any:
        return self._library._make("IRuntimeConfig")

    def create_execution_context(self, how: Any = None) -> Any:
        strategy = how._strategy if isinstance(how, FakeRuntimeConfig) else how
        assert strategy == self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._library._make("IExecutionContext", self)
        self._library._contexts.append(context)
        return context


class FakeRuntimeConfig(Offered):
    played = "IRuntimeConfig"
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def __init__(self) -> None:
        self._strategy: Any = None
        self._library._configs.append(self)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy


class FakeContext(Offered):
    played = "IExecutionContext"

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._cuda = self._library._cuda
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._ran: dict[str, tuple[int, ...]] | None = None  # the shapes of the last work that was not captured
        self._activations: tuple[int, int] | None = None
        self._runs = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        self._activations = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return profile_index < len(self._engine._profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        dims = self._engine._dims(name)
        low, high = dims, dims
        if any(isinstance(dim, str) for dim in dims):
            low, _, high = self._engine._profiles[self._profile][name]
        fits = len(shape) == len(dims) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))  # type: ignore[operator]
        if fits:
            self._shapes[name] = tuple(shape)
        else:
            self._engine._logger.log("ERROR", f"Set dimension [{shape}] for tensor {name} does not satisfy any profile")
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        known: dict[int | str, int] = {}
        for given, shape in self._shapes.items():
            for dim, size in zip(self._engine._dims(given), shape, strict=True):
                assert known.setdefault(dim, size) == size, f"{dim} is {known[dim]} and {size}"
        shape = tuple(dim if isinstance(dim, int) else known.get(dim, -1) for dim in self._engine._dims(name))
        return self._computed(name) if -1 in shape and self._shapes.keys() == set(self._engine._inputs) else shape

    def _computed(self, name: str) -> tuple[int, ...]:
        """Of an output whose sizes have names of their own."""
        engine = self._engine
        zeros = {given: np.zeros(shape, engine._numpy(given)) for given, shape in self._shapes.items()}
        (found,) = engine._session.run([name], zeros)
        return tuple(found.shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self._library._capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, capturing = self._engine, self._cuda.capturing is not None
        assert self._activations is not None and self._activations[1] >= ACTIVATION_BYTES
        assert self._shapes.keys() == set(engine._inputs), "a shape is missing"
        assert self._addresses.keys() == engine._values.keys(), "an address is missing"
        if capturing and (self._ran != self._shapes or not self._library._capturable):
            self._cuda.capture_broken = True
            return False
        if not capturing:
            self._ran = dict(self._shapes)
        shapes = {name: self.get_tensor_shape(name) for name in engine._values}
        addresses = dict(self._addresses)
        # Read now: what stands there when the stream comes to it is too late.
        host = {name: self._host(name, shapes[name]) for name in engine._plan.get("on_host", ())}
        self._cuda.enqueue(lambda: self._compute(shapes, addresses, host))
        return True

    def _host(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        kind = np.dtype(self._engine._numpy(name))
        block = self._cuda.pinned[self._addresses[name]]
        return block[: int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape).copy()

    def _compute(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        host: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        engine, cuda = self._engine, self._cuda
        assert self._activations is not None
        cuda.device[self._activations[0]][:ACTIVATION_BYTES] = 0xEE  # nobody else's numbers may be there

        def tensor(name: str) -> npt.NDArray[Any]:
            kind = np.dtype(engine._numpy(name))
            count = int(np.prod(shapes[name])) * kind.itemsize
            return cuda.device[addresses[name]][:count].view(kind).reshape(shapes[name])

        outputs = [name for name in engine._values if name not in engine._inputs]
        found = engine._session.run(
            outputs, {name: tensor(name) for name in engine._inputs if name not in host} | dict(host)
        )
        for name, value in zip(outputs, found, strict=True):
            tensor(name)[...] = value
        self._runs += 1


class FakeRefitter(Offered):
    played = "Refitter"

    def __init__(self, engine: FakeEngine, logger: Any) -> None:
        self._engine = engine

    def refit_cuda_engine(self) -> bool:
        return True


class FakeParser(Offered):
    played = "OnnxParserRefitter"

    def __init__(self, refitter: FakeRefitter, logger: Any) -> None:
        self._refitter = refitter

    def refit_from_file(self, path: str) -> bool:
        return path == self._refitter._engine._plan["graph"]
