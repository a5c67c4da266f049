"""One GPU and one stream of work for it, through cuda-python; every return code is checked.

In: addresses and sizes. Out: memory, copies, captured graphs. Knows no tensors and no TensorRT. All work goes to one
stream, in order, and nothing waits for it but `synchronize`.

TensorRT's runtime can be created on a machine without a driver, and ends the process at its next use. So `open_cuda`
comes first: it finds a missing driver, one too old, and a missing GPU, and says so.

cuda-python brings CUDA's runtime library in itself, of its own version: on a Jetson take the one of JetPack's CUDA
(JetPack 6: pip install 'cuda-python==12.*').
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgr_edge.errors import EngineError, MissingExtraError

log = logging.getLogger(__name__)

_OUT_OF_MEMORY = 2
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
_HOST_ALLOC_DEFAULT = 0
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The device that work goes to: CUDA's first (CUDA_VISIBLE_DEVICES chooses).

    Attributes:
        sm: its generation: compute capability 8.7 is 87.
        shares_memory: whether its memory is the host's (Jetson).
    """

    name: str
    sm: int
    shares_memory: bool = False


class GpuMemoryError(EngineError):
    """The GPU has no memory left."""


def open_cuda(extra: str, needed: int | None = None) -> Cuda:
    """The first GPU.

    Args:
        extra: of the install that brings cuda-python, for the message where it is missing.
        needed: major version of CUDA that another library was built for; None where nobody knows.

    Raises:
        MissingExtraError: no cuda-python.
        EngineError: no driver, one too old, or no GPU.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError(
            f"cuda-python is not installed ({error}); pip install 'fgr-edge[{extra}]', on a Jetson with JetPack 6: "
            "pip install 'cuda-python==12.*'; without a GPU open the bundle with device='cpu'"
        ) from error
    _check_driver(runtime, extra, needed)
    return Cuda(runtime)


def _check_driver(api: Any, extra: str, needed: int | None) -> None:
    code, driver = api.cudaDriverGetVersion()
    if int(code) != 0 or not driver:
        raise EngineError(
            "no NVIDIA driver is loaded, so there is no GPU to run engines on; install the driver (in a container: "
            "docker run --gpus all, on a Jetson --runtime nvidia), or open the bundle with device='cpu'"
        )
    if needed is not None and driver // 1000 < needed:
        raise EngineError(
            f"the NVIDIA driver knows CUDA up to {_dotted(driver)}, and the installed {extra} was built for CUDA "
            f"{needed}; update the driver, or pip install {extra}-cu{driver // 1000}, built for CUDA {driver // 1000}"
        )
    code, count = api.cudaGetDeviceCount()
    if int(code) == _INSUFFICIENT_DRIVER:
        raise EngineError(
            f"the NVIDIA driver knows CUDA up to {_dotted(driver)}, and cuda-python was built for "
            f"{_dotted(api.cudaRuntimeGetVersion()[1])}; update the driver, or pip install "
            f"'cuda-python=={driver // 1000}.*'"
        )
    if int(code) == _NO_DEVICE or (int(code) == 0 and not count):
        raise EngineError(
            "an NVIDIA driver is loaded and it shows no GPU; see what `nvidia-smi` lists and whether "
            "CUDA_VISIBLE_DEVICES hides it, or open the bundle with device='cpu'"
        )
    if int(code) != 0:
        raise EngineError(f"the GPU cannot be used: {_said(api, code)}; see whether `nvidia-smi` works, and restart")


def _dotted(version: int) -> str:
    """12060 is 12.6."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _said(api: Any, code: Any) -> str:
    text = api.cudaGetErrorString(code)[1]
    name = getattr(code, "name", str(int(code)))
    return f"{name} ({text.decode() if isinstance(text, bytes) else text})"


def _available_bytes() -> int:
    """Memory of the host that programs can have; 0 where the system does not say."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


class CapturedGraph:
    """Work captured from the stream, to be launched as a whole."""

    def __init__(self, cuda: Cuda, executable: Any) -> None:
        self._cuda, self._executable = cuda, executable
        weakref.finalize(self, cuda.api.cudaGraphExecDestroy, executable).atexit = False

    def launch(self) -> None:
        """Put it on the stream once more."""
        self._cuda.call("cudaGraphLaunch", self._executable, self._cuda.stream)


class Cuda:
    """An open GPU; `open_cuda` makes one.

    Attributes:
        api: cuda.bindings.runtime.
        gpu: which it is.
        stream: all work goes here.
        enqueued: copies between host and GPU put on the stream so far.
        finished: how many of them are known to be done.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.enqueued = 0
        self.finished = 0
        self.gpu = Gpu("the GPU", 0)
        self.call("cudaSetDevice", 0)
        properties = self.call("cudaGetDeviceProperties", 0)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.gpu = Gpu(name.rstrip("\0"), 10 * properties.major + properties.minor, bool(properties.integrated))
        # Not the default stream: it waits for every other, and cannot be captured.
        self.stream = self.call("cudaStreamCreateWithFlags", api.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self.stream)

    def call(self, name: str, *arguments: Any) -> Any:
        """One function of CUDA's runtime; what it returns beside the code.

        Raises:
            GpuMemoryError: no memory left.
            EngineError: any other code but success.
        """
        code, *values = getattr(self.api, name)(*arguments)
        if int(code) == _OUT_OF_MEMORY:
            raise GpuMemoryError(
                f"{self.gpu.name} has no memory left for {name}: {_said(self.api, code)}; close other programs, build "
                "with a shorter cache, or export with fewer bits"
            )
        if int(code) != 0:
            raise EngineError(
                f"the GPU refused {name}: {_said(self.api, code)}; expected an engine built on this machine: run "
                "`fgr-edge verify`, and if that fails, too, `fgr-edge build` again"
            )
        return values[0] if len(values) == 1 else tuple(values)

    def free_bytes(self) -> tuple[int, int]:
        """Memory of the GPU: free, and in all."""
        free, total = self.call("cudaMemGetInfo")
        # A Jetson does not count what the system would give up: files that it read, an engine's among them.
        reclaimable = _available_bytes() if self.gpu.shares_memory else 0
        return max(int(free), reclaimable), int(total)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU.

        Raises:
            GpuMemoryError: it has no room for them.
        """
        return int(self.call("cudaMalloc", size))

    def allocate_pinned(self, size: int) -> int:
        """Address of `size` bytes of host memory that the GPU copies from and to by itself."""
        return int(self.call("cudaHostAlloc", size, _HOST_ALLOC_DEFAULT))

    def release(self, address: int) -> None:
        """Give back what `allocate` gave; waits for the GPU."""
        self.call("cudaFree", address)

    def release_pinned(self, address: int) -> None:
        """Give back what `allocate_pinned` gave; waits for the GPU."""
        self.call("cudaFreeHost", address)

    def zero(self, address: int, size: int) -> None:
        """Enqueue: zeros on the GPU."""
        self.call("cudaMemsetAsync", address, 0, size, self.stream)

    def upload(self, address: int, source: int, size: int) -> None:
        """Enqueue: host to GPU."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, source, size, kind, self.stream)
        self.enqueued += 1

    def copy(self, address: int, source: int, size: int) -> None:
        """Enqueue: GPU to GPU."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", address, source, size, kind, self.stream)

    def download(self, address: int, target: int, size: int) -> None:
        """Enqueue: GPU to host; there after `synchronize`."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, address, size, kind, self.stream)
        self.enqueued += 1

    def synchronize(self) -> None:
        """Wait for all that was enqueued."""
        self.call("cudaStreamSynchronize", self.stream)
        self.finished = self.enqueued

    def capture(self, enqueue: Callable[[], bool]) -> CapturedGraph | None:
        """What `enqueue` puts on the stream, captured and not run; None where the work cannot be captured."""
        # Thread-local: another thread may allocate meanwhile.
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self.stream, mode)
        accepted = False
        try:
            accepted = enqueue()
        finally:
            code, graph = self.api.cudaStreamEndCapture(self.stream)
        if int(code) != 0 or not accepted:
            self.api.cudaGetLastError()  # what was refused is no fault of the calls that follow
            return None
        executable = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        return CapturedGraph(self, executable)
