"""The library of our own products and attention: whether it can be used here, and by which instructions it computes.

In: nothing. Out: a path for `SessionOptions.register_custom_ops_library`, and the name of an instruction set.

The library is an accelerator and never a requirement. It lies beside this file where the package was installed on a
machine with a C compiler. In a session that loads it, its kernels take the place of ONNX Runtime's MatMulNBits, which
is the operator of weights in blocks of 4 or 8 bits, and of its GroupQueryAttention and MultiHeadAttention (all of
domain com.microsoft); no graph is exported for it. ONNX Runtime 1.23, 1.24, 1.26, 1.28, 1.30 and 1.31 were seen to do
so with MatMulNBits, 1.23, 1.26 and 1.31 with all three. Our products copy weights when a session opens, as its own do.
Before 1.31 it keeps the file of what they copied mapped: pages that count as this process's, and that the system takes
back when it needs them.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.native import opened

Rows = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]

LIBRARY = Path(__file__).with_name("libkernels.so")
PRODUCT = b"MatMulNBits"
ATTENTION = (b"GroupQueryAttention", b"MultiHeadAttention")

log = logging.getLogger(__name__)


def instructions() -> str | None:
    """What the library computes with on this processor, as "avx512vnni"; None where it cannot be used."""
    return _instructions(LIBRARY)


@cache
def _instructions(library: Path) -> str | None:
    found = opened(library, "fgr_kernels_way")
    if found is None:
        return None
    ask = found.fgr_kernels_way
    ask.restype, ask.argtypes = ctypes.c_char_p, ()
    name: bytes | None = ask()
    if name is None:
        log.debug("%s has no kernels for this processor: onnxruntime's are used", library.name)
        return None
    return name.decode()


def log_sums(rows: Rows) -> Sums | None:
    """Logarithms [R] of the sums of exponentials of rows [R, V], within 2e-6 whatever the values.

    Not finite where a row has what is no number, or is infinite. None where the library cannot be used.
    """
    found = opened(LIBRARY, "fgr_log_sums")
    if found is None:
        return None
    rows, sums = np.ascontiguousarray(rows, np.float32), np.empty(len(rows))
    ask = found.fgr_log_sums
    ask.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    return sums if ask(rows.ctypes.data, *rows.shape, sums.ctypes.data) else None


def multiplies(graph: Path) -> bool:
    """Whether a graph's file has products of weights in blocks; False where it cannot be read."""
    return _names(graph, (PRODUCT,))


def computes(graph: Path) -> bool:
    """Whether a graph's file has any operator that the library has, too; False where it cannot be read."""
    return _names(graph, (PRODUCT, *ATTENTION))


def _names(graph: Path, operators: Sequence[bytes]) -> bool:
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(name) >= 0 for name in operators)
    except (OSError, ValueError):  # ValueError: it is empty
        return False
