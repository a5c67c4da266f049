"""Tensors on the GPU, each with pinned host memory beside it, and the memory that they share.

In: shapes and types. Out: `DeviceBuffer`s. Blocks are handed on from tensors that are gone to new ones of about their
size, so that calls of new shapes allocate next to nothing.

Copies are asynchronous: the GPU reads what was uploaded when it comes to it. So where nobody waited for the stream
since the last upload of this very tensor, `DeviceBuffer.array` is another piece of host memory with the same numbers,
and nobody waits: a long prompt's chunks are written while the GPU still sees the picture. Reading a token, which waits
for everything, makes all pieces free again.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import EngineError
from fgr_edge.runtime.sessions.cuda_driver import Cuda, GpuMemoryError
from fgr_edge.runtime.sessions.session import Array, Buffer, put_rows

SMALLEST = 256  # bytes; CUDA aligns what it allocates to as many
COARSE = 1 << 20  # from here on sizes are rounded to multiples of it, below to powers of two
UNDER_WAY_BYTES = 64 << 20  # idle host memory of one size that copies may still read, before somebody waits for them
UNDER_WAY_BLOCKS = (4, 64)  # and how many pieces, at least and at most


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
        place = self._free_place(size)
        address = self._made(size) if place is None else self._idle[size].pop(place)[0]
        block = Block(address, size)
        weakref.finalize(block, self._returned, size, address).atexit = False
        return block

    def _free_place(self, size: int) -> int | None:
        """Which idle block of a size may be handed on; None where a new one is better."""
        idle = self._idle[size]
        if not self._host:  # what the stream does to it comes after what it did
            return len(idle) - 1 if idle else None
        for place, (_, copies) in enumerate(idle):
            if copies <= self._cuda.finished:
                return place
        if len(idle) < most_under_way(size):
            return None
        self._cuda.synchronize()
        return 0

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


def most_under_way(size: int) -> int:
    """Idle pieces of host memory of a size that may be under way."""
    least, most = UNDER_WAY_BLOCKS
    return min(most, max(least, UNDER_WAY_BYTES // size))


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

    Args:
        zeroed: whether it begins with zeros; otherwise with whatever was there.

    Attributes:
        shape, dtype: of the tensor.
        address: on the GPU.
    """

    def __init__(self, memory: GpuMemory, shape: tuple[int, ...], dtype: npt.DTypeLike, *, zeroed: bool = True) -> None:
        self._memory = memory
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._size = math.prod(self.shape) * self.dtype.itemsize
        self._block = memory.device.block(self._size)
        self.address = self._block.address
        if zeroed:
            memory.cuda.zero(self.address, self._block.size)
        self._array: Array | None = None
        self._sent = 0  # the number of the last copy out of `_array`
        self._stays = False  # whether somebody keeps the address of `_array`

    @property
    def array(self) -> Array:
        """Host memory of the same shape: what `upload` sends and `download` fills."""
        cuda = self._memory.cuda
        if self._sent <= cuda.finished:
            return self._host()
        if self._stays:
            cuda.synchronize()
            return self._host()
        self._sent = 0
        before, self._array = self._host(), self._pinned()
        self._array[...] = before
        return self._array

    def _host(self) -> Array:
        if self._array is None:
            self._array = self._pinned()
            self._array[...] = 0
        return self._array

    def _pinned(self) -> Array:
        return np.asarray(_PinnedArray(self._memory.pinned.block(self._size), self.shape, self.dtype))

    @property
    def host_address(self) -> int:
        """Of `array`, which from now on stays where it is."""
        self._stays = True
        return self._host_address()

    def _host_address(self) -> int:
        return int(self._host().__array_interface__["data"][0])

    def upload(self) -> None:
        """Enqueue a copy of `array` to the GPU."""
        self._send(0, self._size)

    def upload_around(self, rows: slice, source: Buffer, first: int) -> None:
        """Enqueue copies: of `array` to the GPU, but for `rows`, and of those from `source`, on the GPU where it is.

        Raises:
            EngineError: the rows are not of one type and width.
        """
        if source.shape[-1] != self.shape[-1] or math.prod(self.shape[:-2]) != 1:
            raise EngineError(
                f"rows of {list(source.shape)} do not fit into {list(self.shape)}; expected graphs of one bundle: "
                "export it again"
            )
        if not isinstance(source, DeviceBuffer) or source._memory is not self._memory or source.dtype != self.dtype:
            put_rows(self.array, rows, source, first)  # another engine's, or another type's
            self.upload()
            return
        width = self.shape[-1] * self.dtype.itemsize
        start, stop = rows.start * width, rows.stop * width
        self._send(0, start)
        self._send(stop, self._size)
        self._memory.cuda.copy(self.address + start, source.address + first * width, stop - start)

    def _send(self, start: int, stop: int) -> None:
        """Enqueue a copy of some bytes of `array` to the GPU."""
        if start < stop:
            cuda = self._memory.cuda
            cuda.upload(self.address + start, self._host_address() + start, stop - start)
            self._sent = cuda.enqueued

    def duplicate(self) -> DeviceBuffer:
        """Enqueue a copy on the GPU: what this holds when the stream comes to it."""
        made = DeviceBuffer(self._memory, self.shape, self.dtype, zeroed=False)
        self._memory.cuda.copy(made.address, self.address, self._size)
        return made

    def download(self) -> None:
        """Copy from the GPU to `array`, and wait for it and for all work before it."""
        self.start_download()
        self._memory.cuda.synchronize()

    def start_download(self) -> None:
        """Enqueue a copy to `array`: for several tensors, with one wait."""
        self._memory.cuda.download(self.address, self._host_address(), self._size)
