"""A session on a compiled engine of TensorRT or TensorRT-RTX, by cuda-python alone.

In: engines and tensors by name. Out: the same. Knows no model, and no files.

    buffers    are allocated once, a KV cache is input and output at one address
    calls      pick the optimization profile that fits their shapes; calls of its smallest shape have an execution
               context of their own, so that prefill and decode do not undo each other's shapes
    graphs     a call of the smallest shape of its profile (decode: one token; a camera's picture, where the engine was
               built for it) is captured as a CUDA graph: its first run warms up, its second is captured, from then on
               one launch runs it all
    stream     uploads, all engines and downloads follow one another on one stream; only reading a result waits: the
               logits of a token. A picture's embeddings stay on the GPU: one copy keeps them from the next picture,
               another puts them between the prompt's text

An engine writes its cache by scattering rows to where they belong. Newer ones say that output and input are the same
memory (`get_aliased_input_tensor`), and are held to it. Older ones copy what they do not write onto itself.

Not run on hardware: tests drive it on a fake of CUDA and of both libraries that computes with ONNX Runtime.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.sessions import tensorrt_profiles
from fgr_edge.runtime.sessions.cuda_driver import CapturedGraph
from fgr_edge.runtime.sessions.cuda_memory import DeviceBuffer
from fgr_edge.runtime.sessions.session import Array, Buffer
from fgr_edge.runtime.sessions.tensorrt_library import Library
from fgr_edge.runtime.sessions.tensorrt_profiles import Profile, Shape

log = logging.getLogger(__name__)

KEPT_RUNS = 8  # shapes of `run` whose buffers stay: a camera's pictures are of one size
_TYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class TensorRTSession:
    """One engine, open.

    Args:
        library: where `engine` comes from; `share_activations` was called.
        engine: an ICudaEngine.
        name: of the engine, in messages.

    Attributes:
        profiles: shapes that the engine was built for.
        aliases: by output, the input whose memory it must have.

    Raises:
        EngineError: the engine has tensors of a type that no graph of this package has.
    """

    def __init__(self, library: Library, engine: Any, name: str) -> None:
        self.library = library
        self.name = name
        self.engine = engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.input_names = frozenset(tensor for tensor in names if library.is_input(engine, tensor))
        self.output_names = frozenset(names) - self.input_names
        self.dtypes = {tensor: _dtype(engine.get_tensor_dtype(tensor), tensor, name) for tensor in names}
        self.aliases = _aliases(engine, self.output_names)
        self.on_host = frozenset(tensor for tensor in names if library.is_on_host(engine, tensor))
        self.profiles = tensorrt_profiles.read_profiles(engine, sorted(self.input_names))
        self._contexts: dict[tuple[int, bool], _Context] = {}
        self._runs: OrderedDict[tuple[tuple[str, Shape], ...], _Run] = OrderedDict()

    def longest(self, name: str, axis: int) -> int | None:
        return tensorrt_profiles.longest(self.profiles, name, axis)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._run(inputs)
        for buffer in outputs.values():
            buffer.start_download()
        self.library.cuda.synchronize()
        return {name: buffer.array.copy() for name, buffer in outputs.items()}

    def run_resident(self, inputs: Mapping[str, Array]) -> dict[str, Buffer]:
        # Bound calls write where they always do, so that they can be captured: what is handed out is a copy.
        return {name: buffer.duplicate() for name, buffer in self._run(inputs).items()}

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, DeviceBuffer]:
        """Enqueue a run; its outputs, written over by the next of the same shapes."""
        self.check(inputs, self.input_names, "inputs")
        key = tuple((name, array.shape) for name, array in sorted(inputs.items()))
        if key not in self._runs:
            if len(self._runs) >= KEPT_RUNS:
                self._runs.popitem(last=False)
            self._runs[key] = _Run(self, dict(key))
        self._runs.move_to_end(key)
        return self._runs[key](inputs)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> Buffer:
        # A tensor that is read on the CPU is read from the host memory that every buffer has.
        return DeviceBuffer(self.library.memory, shape, dtype)

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        given, wanted = ({name: _own(buffer, name) for name, buffer in part.items()} for part in (inputs, outputs))
        self.check(given, self.input_names, "inputs")
        self.check(wanted, self.output_names, "outputs")
        self._check_aliases(given, wanted)
        context, smallest = self.context({name: buffer.shape for name, buffer in given.items()})
        call = _Call(context, given, wanted, captured=smallest and not self.on_host)
        for name, buffer in wanted.items():
            shape = context.output_shape(call, name)
            if shape != buffer.shape:
                raise EngineError(
                    f"{self.name} gives {name} as {list(shape)} and the buffer is {list(buffer.shape)}; expected an "
                    "engine of this bundle: fgr-edge build BUNDLE --force"
                )
        return call

    def context(self, shapes: Mapping[str, Shape]) -> tuple[_Context, bool]:
        """The context for a call, and whether the call is the smallest of its profile."""
        profile = tensorrt_profiles.choose(self.profiles, shapes, self.name)
        smallest = profile.is_smallest(shapes)
        key = (profile.index, smallest)
        if key not in self._contexts:
            self._contexts[key] = _Context(self, profile, one_size=smallest)
        return self._contexts[key], smallest

    def check(self, tensors: Mapping[str, Array | DeviceBuffer], names: frozenset[str], kind: str) -> None:
        """Refuse tensors that are not the engine's `names`, or of other types."""
        if tensors.keys() != names:
            raise EngineError(
                f"{self.name} has {kind} {', '.join(sorted(names))} and was given {', '.join(sorted(tensors))}; "
                "expected an engine of this bundle and this version of fgr-edge: fgr-edge build BUNDLE --force"
            )
        for name, tensor in tensors.items():
            if tensor.dtype != self.dtypes[name]:
                raise EngineError(
                    f"{self.name} has {name} as {self.dtypes[name]} and was given {tensor.dtype}; expected an engine "
                    "of this bundle: fgr-edge build BUNDLE --force"
                )

    def _check_aliases(self, inputs: Mapping[str, DeviceBuffer], outputs: Mapping[str, DeviceBuffer]) -> None:
        for name, source in self.aliases.items():
            if inputs[source].address != outputs[name].address:
                raise EngineError(
                    f"{self.name} writes {name} where it reads {source}, and they are two buffers; give one for both"
                )


class _Context:
    """An execution context for one profile, and which call its shapes and addresses are set for."""

    def __init__(self, session: TensorRTSession, profile: Profile, *, one_size: bool) -> None:
        self.session = session
        self._library = session.library
        self._context = self._library.context(session.engine, profile.index, one_size=one_size)
        self._set_for: _Call | None = None
        self._warm: _Call | None = None  # the call whose shapes the last work on the stream had

    def output_shape(self, call: _Call, name: str) -> Shape:
        """What the engine makes of the call's inputs."""
        self._set(call)
        return tuple(self._context.get_tensor_shape(name))

    def enqueue(self, call: _Call) -> None:
        """Put a call on the stream."""
        self._set(call)
        if not self._context.execute_async_v3(self._library.cuda.handle):
            raise EngineError(
                f"{self.session.name} was not run: {self._library.messages()}; expected shapes that it was built for, "
                "and free memory: close other programs, or build it again"
            )
        self._warm = call

    def capture(self, call: _Call) -> CapturedGraph | None:
        """A call as a CUDA graph; None where it cannot be one."""
        self._set(call)
        if not self._library.captures(self._context):
            return None
        stream = self._library.cuda.handle
        return self._library.cuda.capture(lambda: bool(self._context.execute_async_v3(stream)))

    def is_warm(self, call: _Call) -> bool:
        """Whether nothing changed since the call last ran: what TensorRT puts off until then would be captured, too."""
        return self._warm is call and self._set_for is call

    def _set(self, call: _Call) -> None:
        """Shapes and addresses of a call, unless they are those of the last."""
        if self._set_for is call:
            return
        self._set_for = None
        for name, buffer in (*call.inputs.items(), *call.outputs.items()):
            address = buffer.host_address if name in self.session.on_host else buffer.address
            accepted = name in call.outputs or self._context.set_input_shape(name, buffer.shape)
            if not accepted or not self._context.set_tensor_address(name, address):
                raise EngineError(
                    f"{self.session.name} refuses {name} {buffer.dtype} {list(buffer.shape)}: "
                    f"{self._library.messages()}; expected shapes that it was built for: fgr-edge build BUNDLE"
                )
        self._set_for = call


class _Call:
    """Buffers tied to an engine; calling it puts one run of the engine on the stream."""

    def __init__(
        self,
        context: _Context,
        inputs: Mapping[str, DeviceBuffer],
        outputs: Mapping[str, DeviceBuffer],
        *,
        captured: bool,
    ) -> None:
        self._context = context
        self.inputs, self.outputs = inputs, outputs
        self._captured = captured
        self._graph: CapturedGraph | None = None

    def __call__(self) -> None:
        if self._graph is None and self._captured and self._context.is_warm(self):
            self._graph = self._context.capture(self)
            if self._graph is None:
                self._captured = False
                log.warning("%s cannot be captured as a CUDA graph and runs without", self._context.session.name)
        if self._graph is None:
            self._context.enqueue(self)
        else:
            self._graph.launch()


class _Run:
    """A run for inputs of certain shapes: buffers of its own, outputs of the shapes that follow."""

    def __init__(self, session: TensorRTSession, shapes: Mapping[str, Shape]) -> None:
        memory, dtypes = session.library.memory, session.dtypes
        self._session = session
        self._inputs = {name: DeviceBuffer(memory, shape, dtypes[name]) for name, shape in shapes.items()}
        context, _ = session.context(shapes)
        probe = _Call(context, self._inputs, {}, captured=False)
        self._outputs = {
            name: self._inputs[session.aliases[name]]
            if name in session.aliases
            else DeviceBuffer(memory, context.output_shape(probe, name), dtypes[name])
            for name in session.output_names
        }
        self._call = session.bind(self._inputs, self._outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, DeviceBuffer]:
        for name, buffer in self._inputs.items():
            buffer.array[...] = inputs[name]
            buffer.upload()
        self._call()
        return self._outputs


def _dtype(found: Any, tensor: str, engine: str) -> np.dtype[Any]:
    if found.name not in _TYPES:
        raise EngineError(
            f"{engine} has {tensor} as {found.name}, expected one of {', '.join(_TYPES)}; build it with this version"
        )
    return _TYPES[found.name]


def _aliases(engine: Any, outputs: frozenset[str]) -> dict[str, str]:
    source_of = getattr(engine, "get_aliased_input_tensor", None)  # TensorRT 10.15 and later
    found = {} if source_of is None else {name: source_of(name) for name in outputs}
    return {name: source for name, source in found.items() if source}


def _own(buffer: Buffer, name: str) -> DeviceBuffer:
    if not isinstance(buffer, DeviceBuffer):
        raise EngineError(f"the buffer of {name} is a {type(buffer).__name__}, expected one of this session's own")
    return buffer
