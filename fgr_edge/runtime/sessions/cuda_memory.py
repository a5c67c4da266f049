"""Tensors on the GPU, each with pinned host memory beside it, and the memory that they share.

In: shapes and types. Out: `DeviceBuffer`s. Blocks are handed on from tensors that are gone to new ones of about their
size, so that calls of new shapes allocate next to nothing.

Copies are asynchronous: the GPU reads what was uploaded when it comes to it. So `DeviceBuffer.array` waits for the last
upload of this very tensor before it lets anybody write there again. Where a token has been read in between, which waits
for everything, that costs nothing.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.sessions.cuda_driver import Copy, Cuda, GpuMemoryError
from fgr_edge.runtime.sessions.session import Array

SMALLEST = 256  # bytes; CUDA aligns what it allocates to as many
COARSE = 1 << 20  # from here on sizes are rounded to multiples of it, below to powers of two


Idle = defaultdict[int, list[tuple[int, int]]]
"""By size, addresses, and how many copies had been enqueued when each was returned."""


class Block:
    """Memory that returns to its pool when nobody holds it."""

    __slots__ = ("__weakref__", "address", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size = address, size


class Pool:
    """Blocks of one kind; idle ones go back to the GPU with it.

    Args:
        cuda: whose stream uses them.
        allocate, release: how they are made and given back.
        host: whether they are host memory, which must not be written while a copy of it is under way.
    """

    def __init__(
        self, cuda: Cuda, allocate: Callable[[int], int], release: Callable[[int], None], *, host: bool
    ) -> None:
        self._cuda, self._allocate, self._release, self._host = cuda, allocate, release, host
        self._idle: Idle = defaultdict(list)
        weakref.finalize(self, _trim, self._idle, release).atexit = False

    def block(self, size: int) -> Block:
        """At least `size` bytes.

        Raises:
            EngineError: there is no memory left.
        """
        size = rounded(size)
        idle = self._idle[size]
        if idle:
            address, copies = idle.pop()
            if self._host and copies > self._cuda.finished:
                self._cuda.synchronize()
        else:
            address = self._made(size)
        block = Block(address, size)
        weakref.finalize(block, self._returned, size, address).atexit = False
        return block

    def _returned(self, size: int, address: int) -> None:
        self._idle[size].append((address, self._cuda.enqueued))

    def _made(self, size: int) -> int:
        try:
            return self._allocate(size)
        except GpuMemoryError:
            self.trim()
        try:
            return self._allocate(size)
        except GpuMemoryError as error:
            free, total = self._cuda.free_bytes()
            raise EngineError(
                f"{self._cuda.gpu.name} has {_megabytes(free)} of {_megabytes(total)} MB free and {_megabytes(size)} "
                "MB more are needed; close other programs, build with a shorter cache, or export with fewer bits"
            ) from error

    def trim(self) -> None:
        """Give idle blocks back to the GPU."""
        _trim(self._idle, self._release)


def _trim(idle: Idle, release: Callable[[int], None]) -> None:
    for blocks in idle.values():
        for address, _ in blocks:
            release(address)
    idle.clear()


def rounded(size: int) -> int:
    """Size of the block that holds `size` bytes."""
    if size >= COARSE:
        return -(-size // COARSE) * COARSE
    return max(SMALLEST, 1 << (size - 1).bit_length()) if size > 0 else SMALLEST


def _megabytes(size: int) -> int:
    return round(size / 1e6)


class GpuMemory:
    """Both kinds of memory of one GPU."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.device = Pool(cuda, cuda.allocate, cuda.release, host=False)
        self.pinned = Pool(cuda, cuda.allocate_pinned, cuda.release_pinned, host=True)


class _PinnedArray:
    """Pinned memory as numpy takes it: arrays over it keep the block."""

    def __init__(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._block = block
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.address, False),
        }


class DeviceBuffer:
    """A tensor on the GPU; its host memory is made when it is first asked for (that of a KV cache never is).

    Attributes:
        shape, dtype: of the tensor.
        address: on the GPU.
    """

    def __init__(self, memory: GpuMemory, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._memory = memory
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._size = math.prod(self.shape) * self.dtype.itemsize
        self._block = memory.device.block(self._size)
        self.address = self._block.address
        memory.cuda.zero(self.address, self._block.size)
        self._array: Array | None = None
        self._event: Any = None
        self._copy: Copy | None = None

    @property
    def array(self) -> Array:
        """Host memory of the same shape: what `upload` sends and `download` fills."""
        if self._copy is not None:
            self._copy.wait()
            self._copy = None
        return self._host()

    def _host(self) -> Array:
        if self._array is None:
            block = self._memory.pinned.block(self._size)
            ctypes.memset(block.address, 0, block.size)
            self._array = np.asarray(_PinnedArray(block, self.shape, self.dtype))
        return self._array

    @property
    def host_address(self) -> int:
        """Of `array`."""
        return int(self._host().__array_interface__["data"][0])

    def upload(self) -> None:
        """Enqueue a copy of `array` to the GPU."""
        cuda = self._memory.cuda
        if self._event is None:
            self._event = cuda.event()
            weakref.finalize(self, cuda.api.cudaEventDestroy, self._event).atexit = False
        self._copy = cuda.upload(self.address, self.host_address, self._size, self._event)

    def download(self) -> None:
        """Copy from the GPU to `array`, and wait for it and for all work before it."""
        self.start_download()
        self._memory.cuda.synchronize()

    def start_download(self) -> None:
        """Enqueue a copy to `array`: for several tensors, with one wait."""
        self._memory.cuda.download(self.address, self.host_address, self._size)
