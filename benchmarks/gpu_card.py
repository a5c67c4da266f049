"""The GPU that `gpu.py` measures: its name, its generation, and how fast it moves its own memory.

In: nothing. Out: a `Card`, or None where there is no NVIDIA GPU, and GB/s. The bandwidth is that of a copy from device
memory to device memory, bytes read and bytes written together: what a card reaches, not what its data sheet says.
Uses cuda-python, or torch where that is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fgr_edge.errors import FgrEdgeError

COPY_BYTES = 1 << 30
COPIES = 20


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU.

    Attributes:
        sm: compute capability, 87 is 8.7.
        through: the package that found it.
    """

    name: str
    sm: int
    memory_bytes: int
    through: str


def find_card() -> tuple[Card | None, str]:
    """The first GPU; or None and, in words, what was found instead."""
    reasons = []
    for find in (_by_cuda_python, _by_torch):
        card, reason = find()
        if card is not None:
            return card, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


def copy_gbps(card: Card) -> float:
    """GB/s of device memory, read and written, median of `COPIES` copies of a GiB."""
    copy = _cuda_python_copy() if card.through == "cuda-python" else _torch_copy()
    copy()  # the first one pays for what the driver puts off
    seconds = []
    for _ in range(COPIES):
        started = time.perf_counter()
        copy()
        seconds.append(time.perf_counter() - started)
    return 2 * COPY_BYTES / sorted(seconds)[len(seconds) // 2] / 1e9


def _by_cuda_python() -> tuple[Card | None, str]:
    from fgr_edge.runtime.sessions.cuda_driver import open_cuda

    try:
        cuda = open_cuda("tensorrt")
    except FgrEdgeError as error:
        return None, str(error).split(";")[0]
    return Card(cuda.gpu.name, cuda.gpu.sm, cuda.free_bytes()[1], "cuda-python"), ""


def _by_torch() -> tuple[Card | None, str]:
    try:
        import torch
    except ImportError:
        return None, "torch is not installed"
    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} sees no CUDA device"
    major, minor = torch.cuda.get_device_capability(0)
    memory = torch.cuda.get_device_properties(0).total_memory
    return Card(torch.cuda.get_device_name(0), 10 * major + minor, memory, "torch"), ""


def _cuda_python_copy() -> Callable[[], None]:
    from fgr_edge.runtime.sessions.cuda_driver import open_cuda

    cuda = open_cuda("tensorrt")
    source, target = cuda.allocate(COPY_BYTES), cuda.allocate(COPY_BYTES)
    cuda.zero(source, COPY_BYTES)
    kind = cuda.api.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    def copy() -> None:
        cuda.call("cudaMemcpyAsync", target, source, COPY_BYTES, kind, cuda.stream)
        cuda.synchronize()

    return copy


def _torch_copy() -> Callable[[], None]:
    import torch

    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return copy
