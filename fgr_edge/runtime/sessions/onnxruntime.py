"""ONNX Runtime sessions on CPU and CUDA. Imports `onnxruntime` when the first session opens, not before."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError, MissingExtraError
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.sessions.huge_pages import collapse_large_areas
from fgr_edge.runtime.sessions.onnxruntime_weights import MappedWeights
from fgr_edge.runtime.sessions.session import Array, Buffer, HostArray, put_rows
from fgr_edge.runtime.sessions.settings import SessionSettings

Device = Literal["cpu", "cuda"]
_DEFAULT_SETTINGS = SessionSettings()
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ONNXRUNTIME = "onnxruntime"

log = logging.getLogger(__name__)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed; install one engine: pip install 'fgr-edge[cpu]' (or [cuda], never both)"
        ) from error
    return onnxruntime


def _errors_of(ort: Any) -> tuple[type[Exception], ...]:
    """onnxruntime's exceptions share no base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (RuntimeError, state.RuntimeException, state.EPFail, *(getattr(state, name) for name in names))


def _load_cuda_libraries(ort: Any) -> None:
    """CUDA's and cuDNN's libraries out of the packages that `fgr-edge[cuda]` brings, where the loader does not look.

    Without this, onnxruntime finds them only if torch was imported first or LD_LIBRARY_PATH names them, and falls back
    to the CPU. What it misses it prints, though that may be on the system's path: to stderr, stdout is for results.
    """
    preload = getattr(ort, "preload_dlls", None)  # onnxruntime 1.21 and later
    if preload is not None:
        with contextlib.redirect_stdout(sys.stderr):
            preload(directory="")


@cache
def _register_arena(ort: Any) -> None:
    """One pool for the activations of all graphs: they take turns, and the decoder's fit where the vision tower's were.

    It stays when sessions close, for the next ones.
    """
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 0}))


def _session_options(ort: Any, threads: int | None, settings: SessionSettings) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Graphs with QuantizeLinear pairs are for engines that fuse them. Here they run as written, as their reference:
    # onnxruntime 1.31 would quantize the inputs of weight-only layers, and its fusion of FP8 pairs does not load.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if settings.spinning == "during calls":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    elif settings.spinning == "never":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = settings.arena
    if settings.arena:
        _register_arena(ort)
        options.add_session_config_entry("session.use_env_allocators", "1")
    # A pattern is one block for all activations of a shape seen before, beside what the first call took; no faster.
    options.enable_mem_pattern = False
    threads = settings.threads if threads is None else threads
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _own_kernels(path: Path, device: Device, settings: SessionSettings) -> str | None:
    """The instructions of our own kernels, where a graph is to be opened with them."""
    wanted = device == "cpu" and settings.products == "fgr-edge" and library.computes(path)
    return library.instructions() if wanted else None


class HostBuffer(HostArray):
    """Host memory that ONNX Runtime reads and writes directly."""

    def __init__(self, ort: Any, array: Array) -> None:
        super().__init__(array)
        self.value = ort.OrtValue.ortvalue_from_numpy(array)


class CudaBuffer:
    """Device memory with a host copy of the same shape."""

    def __init__(self, ort: Any, array: Array) -> None:
        self.array = array
        self.value = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def upload(self) -> None:
        self.value.update_inplace(self.array)

    def upload_around(self, rows: slice, source: Buffer, first: int) -> None:
        # Through the host: ONNX Runtime copies no part of a tensor from the device to the device.
        put_rows(self.array, rows, source, first)
        self.upload()

    def download(self) -> None:
        self.array[...] = self.value.numpy()


class OnnxRuntimeSession:
    """One .onnx file opened by ONNX Runtime.

    Args:
        path: the graph; its external data lies beside it and is memory-mapped.
        device: "cpu" or "cuda"; CUDA is not silently replaced by the CPU.
        threads: for one operator; None takes that of `settings`.
        settings: of the CPU's use; measured by `fgr-edge tune`.

    Attributes:
        input_names: of the graph.
        products: whose kernels multiply weights of 4 or 8 bits: "onnxruntime", or ours and by which instructions, as
            "fgr-edge avx512vnni"; None where the graph has no such weights.

    Raises:
        MissingExtraError: no onnxruntime package is installed.
        EngineError: the engine cannot load the graph, or the device is not there.
    """

    def __init__(
        self,
        path: Path,
        device: Device = "cpu",
        threads: int | None = None,
        settings: SessionSettings = _DEFAULT_SETTINGS,
    ) -> None:
        ort = self._ort = _onnxruntime()
        self._errors = _errors_of(ort)
        self._name = path.name
        self._device = device
        provider = _PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"onnxruntime {ort.__version__} has no {provider} (it has {', '.join(ort.get_available_providers())}); "
                "install onnxruntime-gpu instead of onnxruntime: pip install 'fgr-edge[cuda]'"
            )
        if device == "cuda":
            _load_cuda_libraries(ort)
        try:
            self._session, weights, own = self._opened(path, threads, settings)
        except self._errors as error:
            raise EngineError(
                f"onnxruntime {ort.__version__} cannot load {path.name}: {error}; expected a graph that this "
                "engine reads: update onnxruntime, or export the bundle again"
            ) from error
        self.products = None
        if library.multiplies(path):
            self.products = ONNXRUNTIME if own is None else f"fgr-edge {own}"
        # Where bound calls keep the session alive, they keep what it reads.
        self._session._fgr_edge_weights = weights
        if provider not in self._session.get_providers():
            raise EngineError(
                f"{path.name} was asked to run on {provider} and onnxruntime fell back to "
                f"{', '.join(self._session.get_providers())}; check the GPU driver and the CUDA libraries"
            )
        if settings.huge_pages:
            collapse_large_areas()
        self._shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self.input_names = frozenset(self._shapes)
        self._output_names = [value.name for value in self._session.get_outputs()]

    @property
    def has_own_products(self) -> bool:
        """Whether weights of 4 or 8 bits are multiplied by our kernels."""
        return self.products not in (None, ONNXRUNTIME)

    def _opened(
        self, path: Path, threads: int | None, settings: SessionSettings
    ) -> tuple[Any, MappedWeights | None, str | None]:
        """What `_open` gives, and the instructions of our kernels; None where the engine refuses them or there are
        none: its own are used then."""
        own = _own_kernels(path, self._device, settings)
        if own is not None:
            try:
                return *self._open(path, threads, settings, own=True), own
            except self._errors as error:
                log.info("%s is opened with onnxruntime's kernels, ours were refused: %s", path.name, error)
        return *self._open(path, threads, settings, own=False), None

    def _open(
        self, path: Path, threads: int | None, settings: SessionSettings, *, own: bool
    ) -> tuple[Any, MappedWeights | None]:
        """The engine's session, and the weights that it reads."""
        ort = self._ort
        options = _session_options(ort, threads, settings)
        if own:
            options.register_custom_ops_library(str(library.LIBRARY))
        weights = MappedWeights.beside(path, ort.__version__) if self._device == "cpu" else None
        with contextlib.nullcontext() if weights is None else weights.forgetting():
            if weights is not None:
                weights.offer(options)
            return ort.InferenceSession(str(path), options, providers=[_PROVIDERS[self._device]]), weights

    def longest(self, name: str, axis: int) -> int | None:
        size = self._shapes[name][axis] if name in self._shapes else None
        return size if isinstance(size, int) else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            outputs = self._session.run(None, dict(inputs))
        except self._errors as error:
            raise self._refused(error) from error
        return dict(zip(self._output_names, outputs, strict=True))

    def run_resident(self, inputs: Mapping[str, Array]) -> dict[str, Buffer]:
        return {name: HostArray(array) for name, array in self.run(inputs).items()}

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> Buffer:
        array = np.zeros(shape, dtype)
        return HostBuffer(self._ort, array) if on_host or self._device == "cpu" else CudaBuffer(self._ort, array)

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer.value)  # type: ignore[attr-defined]
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer.value)  # type: ignore[attr-defined]
        session = self._session

        def run() -> None:
            try:
                session.run_with_iobinding(binding)
            except self._errors as error:
                raise self._refused(error) from error

        return run

    def _refused(self, error: Exception) -> EngineError:
        return EngineError(
            f"onnxruntime {self._ort.__version__} failed in {self._name}: {error}; expected the tensors that this "
            "version of fgr-edge exports: export the bundle again, or free memory if the message says so"
        )
