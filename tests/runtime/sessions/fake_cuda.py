"""CUDA's runtime as cuda-python shows it, played on the host: what is enqueued runs when somebody waits for it.

That is what makes mistakes visible: a copy reads host memory when the stream comes to it, so whoever writes there too
early sends the wrong numbers; whoever reads before waiting finds the old ones. Addresses on the GPU are no addresses of
this process. Device memory is handed out dirty. Codes and refusals are as CUDA documents them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

Work = Callable[[], None]
FIRST_ADDRESS = 0x7F00_0000_0000
DIRT = 0xA5


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorSystemNotReady = 802
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


SUCCESS = cudaError_t.cudaSuccess


class FakeCuda:
    """Plays `cuda.bindings.runtime`.

    Args:
        total_bytes: memory of the GPU.
        driver: the CUDA that it knows; 0 is none.
        name: of the GPU.

    Attributes:
        integrated: 1 where its memory is the host's.
        calls: names of the functions called, in order.
        copies: kind and bytes of the copies put on the stream, in order.
        refused: by function, the code to return from now on.
        device: by address, the GPU's memory.
    """

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, total_bytes: int = 1 << 32, driver: int = 13000, name: str = "NVIDIA Fake 9000") -> None:
        self.total_bytes = total_bytes
        self.driver = driver
        self.name = name
        self.integrated = 0
        self.calls: list[str] = []
        self.copies: list[tuple[int, int]] = []
        self.refused: dict[str, cudaError_t] = {}
        self.device: dict[int, npt.NDArray[np.uint8]] = {}
        self.pinned: dict[int, npt.NDArray[np.uint8]] = {}
        self.queue: list[Work] = []
        self.capturing: list[Work] | None = None
        self.capture_broken = False
        self.graphs = 0
        self._next = FIRST_ADDRESS

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found):
            return found

        def called(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name in self.refused:
                return (self.refused[name], None)
            result: tuple[Any, ...] = found(*arguments)
            return result

        return called

    # The device

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return SUCCESS, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return SUCCESS, 13050

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return SUCCESS, 1

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (SUCCESS,) if device == 0 else (cudaError_t.cudaErrorInvalidValue,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return SUCCESS, SimpleNamespace(name=self.name.encode(), major=8, minor=7, integrated=self.integrated)

    def cudaGetErrorString(self, code: int) -> tuple[Any, ...]:
        return SUCCESS, b"as the driver says it"

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (SUCCESS,)

    # Memory

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return SUCCESS, self.total_bytes - self._used(), self.total_bytes

    def _used(self) -> int:
        return sum(block.size for block in self.device.values())

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self._used() + size > self.total_bytes:
            return cudaError_t.cudaErrorMemoryAllocation, None
        address, self._next = self._next, self._next + -(-size // 256) * 256 + 256
        self.device[address] = np.full(size, DIRT, np.uint8)
        return SUCCESS, address

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        self.finish()
        del self.device[address]
        return (SUCCESS,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        block = np.full(size, DIRT, np.uint8)
        self.pinned[block.ctypes.data] = block
        return SUCCESS, block.ctypes.data

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        self.finish()
        self.pinned.pop(address)[...] = DIRT
        return (SUCCESS,)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: Any) -> tuple[Any, ...]:
        def work() -> None:
            self.device[address][:size] = value

        return self.enqueue(work)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: Any) -> tuple[Any, ...]:
        spaces = {1: (self.device, self.pinned), 2: (self.pinned, self.device), 3: (self.device, self.device)}[kind]
        found = [_bytes_at(space, address, size) for space, address in zip(spaces, (target, source), strict=True)]
        if found[0] is None or found[1] is None:
            return (cudaError_t.cudaErrorInvalidValue,)
        self.copies.append((kind, size))
        into, out_of = found[0], found[1]

        def work() -> None:
            into[...] = out_of

        return self.enqueue(work)

    # The stream

    def enqueue(self, work: Work) -> tuple[Any, ...]:
        """Put work on the stream, or into the graph that is being captured."""
        (self.queue if self.capturing is None else self.capturing).append(work)
        return (SUCCESS,)

    def finish(self) -> None:
        """Do what was enqueued."""
        while self.queue:
            self.queue.pop(0)()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return SUCCESS, 77

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        if self.capturing is not None:
            self.capture_broken = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self.finish()
        return (SUCCESS,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        self.capturing, self.capture_broken = [], False
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        captured, self.capturing = self.capturing, None
        if self.capture_broken:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return SUCCESS, captured

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        self.graphs += 1
        return SUCCESS, list(graph)

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        graph.clear()
        return (SUCCESS,)

    def cudaGraphLaunch(self, executable: list[Work], stream: Any) -> tuple[Any, ...]:
        for work in executable:
            self.enqueue(work)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, executable: list[Work]) -> tuple[Any, ...]:
        return (SUCCESS,)


def _bytes_at(space: Mapping[int, npt.NDArray[np.uint8]], address: int, size: int) -> npt.NDArray[np.uint8] | None:
    """Memory from an address on, which may lie inside a block; None where there is not so much."""
    for start, block in space.items():
        if start <= address and address + size <= start + block.size:
            return block[address - start : address - start + size]
    return None
