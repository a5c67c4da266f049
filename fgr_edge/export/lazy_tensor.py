"""A tensor of a checkpoint whose values come when asked for: the Protocol, and the one whose values are computed.

What an export sees of a weight is a `LazyTensor`: stored in a file (`safetensors_file.StoredTensor`) or computed
from others, chunk by chunk (`VirtualTensor`: a merged adapter, a soup, a folded scale).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Dtype = Literal[
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip

FLOATS: tuple[Dtype, ...] = ("float64", "float32", "float16", "bfloat16")
"""What computed values can be rounded to."""

COMPARE_BYTES = 8 * 1024 * 1024

RAW: Mapping[Dtype, np.dtype[Any]] = {
    "float64": np.dtype("<f8"), "float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"),
    "int64": np.dtype("<i8"), "int32": np.dtype("<i4"), "int16": np.dtype("<i2"), "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"), "uint32": np.dtype("<u4"), "uint16": np.dtype("<u2"), "uint8": np.dtype("u1"),
    "bool": np.dtype("u1"),
}  # fmt: skip
"""How the stored bits of each dtype come as an array: bfloat16 as its bits, bool as uint8."""


class LazyTensor(Protocol):
    """A tensor of a checkpoint; nothing is read or computed until asked.

    Attributes:
        name: its name in the checkpoint.
        shape: its dimensions; () for a scalar.
        dtype: what `raw` and `raw_rows` give.
        nbytes: bytes of all values in that dtype.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Dtype: ...
    @property
    def nbytes(self) -> int: ...

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows [start, stop) along axis 0 as float32 [stop - start, *shape[1:]]; bfloat16 converts exactly.

        Raises:
            IndexError: the rows are not within 0 ... shape[0].
        """

    def raw_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) along axis 0 in `dtype`; bfloat16 comes as its bits in uint16, bool as uint8."""

    def read(self) -> npt.NDArray[np.float32]:
        """The whole tensor as float32 of its shape."""

    def raw(self) -> npt.NDArray[Any]:
        """The whole tensor in `dtype`; bfloat16 comes as its bits in uint16, bool as uint8."""


@dataclass(frozen=True, slots=True)
class VirtualTensor:
    """A tensor whose rows are computed when asked for, and rounded to `dtype`.

    Attributes:
        name: its name in the checkpoint.
        shape: its dimensions, one at least.
        dtype: what its values are rounded to; float32 rounds nothing.
        compute: (start, stop) -> rows [start, stop) as float32 [stop - start, *shape[1:]], a new array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    compute: Callable[[int, int], npt.NDArray[np.float32]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * RAW[self.dtype].itemsize

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        if self.dtype == "float32":
            return self._computed(start, stop)
        return to_float32(self.raw_rows(start, stop), self.dtype)

    def raw_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        return rounded(self._computed(start, stop), self.dtype)

    def read(self) -> npt.NDArray[np.float32]:
        return self.rows(0, self.shape[0])

    def raw(self) -> npt.NDArray[Any]:
        return self.raw_rows(0, self.shape[0])

    def _computed(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        check_rows(self, start, stop)
        values = self.compute(start, stop)
        expected = (stop - start, *self.shape[1:])
        if values.shape != expected or values.dtype != np.float32:
            raise ValueError(f"{self.name}: computed {values.dtype} {values.shape}, expected float32 {expected}")
        return values


def check_rows(tensor: LazyTensor, start: int, stop: int) -> None:
    """Raise IndexError unless rows [start, stop) are within the tensor."""
    if not tensor.shape or not 0 <= start <= stop <= tensor.shape[0]:
        raise IndexError(f"{tensor.name}: rows {start}:{stop} asked of shape {list(tensor.shape)}")


def to_float32(raw: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.float32]:
    """Values of an array that holds the bits of `dtype`; bfloat16 converts exactly."""
    if dtype != "bfloat16":
        return raw.astype(np.float32, copy=False)
    bits = raw.astype(np.uint32)
    np.left_shift(bits, 16, out=bits)
    return bits.view(np.float32)


def rounded(values: npt.NDArray[np.float32], dtype: Dtype) -> npt.NDArray[Any]:
    """The bits of `values` rounded to `dtype`, to nearest and ties to even, as torch rounds."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        total = bits >> 16  # in place from here on: chunks are large
        total &= 1
        total += 0x7FFF
        total += bits
        total >>= 16
        result = total.astype(np.uint16)
        result[np.isnan(values)] = 0x7FC0  # the carry would turn some NaNs into numbers
        return result
    if dtype not in FLOATS:
        raise ValueError(f"values cannot be rounded to {dtype}; expected a floating dtype")
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float16's range is infinity, as in torch
        return values.astype(RAW[dtype], copy=False)


def same_values(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two tensors have one shape, one dtype and the same bits; stops at the first difference.

    This finds the output head that repeats the embedding (Fine-R1-3B stores both: 622 MB for nothing).
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a is b or not a.nbytes:
        return True
    if not a.shape:
        return bool((_bits(a.raw()) == _bits(b.raw())).all())
    rows = a.shape[0]
    step = max(1, COMPARE_BYTES * rows // a.nbytes)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if not np.array_equal(_bits(a.raw_rows(start, stop)), _bits(b.raw_rows(start, stop))):
            return False
    return True


def _bits(raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)
