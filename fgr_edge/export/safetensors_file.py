"""One .safetensors file: its header checked hard, its tensors read on request.

In: a path. Out: `StoredTensor`s, each of which reads exactly the bytes asked for with plain reads; nothing is
mapped, because mapped pages count as resident memory of the export. Does not know what a checkpoint is.

The format: 8 bytes, little-endian length N of the header; N bytes of JSON, `{name: {dtype, shape,
data_offsets}}` with offsets into the rest; the rest, which the tensors fill without holes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import CheckpointError
from fgr_edge.export.lazy_tensor import RAW, Dtype, check_rows, to_float32

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation

_DTYPES: Mapping[str, Dtype] = {  # name in the file -> name here
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One stored tensor; nothing is read until asked.

    Attributes:
        name: its name in the file.
        shape: its dimensions; () for a scalar.
        dtype: what is stored.
        path: the file it lies in.
        offset: its first byte, from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return math.prod(self.shape) * RAW[self.dtype].itemsize

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows [start, stop) along axis 0 as float32 [stop - start, *shape[1:]]; bfloat16 converts exactly.

        Raises:
            IndexError: the rows are not within 0 ... shape[0].
            CheckpointError: the file is shorter than when it was opened.
        """
        return to_float32(self.raw_rows(start, stop), self.dtype)

    def raw_rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) along axis 0 as stored; bfloat16 comes as its bits in uint16, bool as uint8."""
        check_rows(self, start, stop)
        row_shape = self.shape[1:]
        row_bytes = math.prod(row_shape) * RAW[self.dtype].itemsize
        data = np.empty((stop - start, *row_shape), dtype=RAW[self.dtype])
        self._read_into(start * row_bytes, data)
        return data

    def read(self) -> npt.NDArray[np.float32]:
        """The whole tensor as float32 of its shape."""
        return to_float32(self.raw(), self.dtype)

    def raw(self) -> npt.NDArray[Any]:
        """The whole tensor as stored; bfloat16 comes as its bits in uint16, bool as uint8."""
        data = np.empty(self.shape, dtype=RAW[self.dtype])
        self._read_into(0, data)
        return data

    def _read_into(self, start_byte: int, data: npt.NDArray[Any]) -> None:
        view = data.reshape(-1).view(np.uint8).data
        done = 0
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset + start_byte)
            while done < len(view):  # Linux reads at most 2 GiB a call
                count = file.readinto(view[done:])
                if not count:
                    raise CheckpointError(
                        f"{self.path} ended inside {self.name}: it has become shorter since it was opened; "
                        "copy or download it again"
                    )
                done += count


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked file: its tensors by name and its size."""

    path: Path
    size: int
    tensors: Mapping[str, StoredTensor]


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of `path`; no tensor is read.

    Raises:
        CheckpointError: the file is absent, is no safetensors file, is shorter or longer than its header
            says, or its header contradicts itself.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            length = _header_length(path, start, size)
            header = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; download it again") from error
    entries = _parse(path, header)
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in entries.items()}
    _check_layout(path, tensors, 8 + length, size)
    return SafetensorsFile(path, size, tensors)


def _header_length(path: Path, start: bytes, size: int) -> int:
    if start == b"version ":
        raise CheckpointError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights; run `git lfs pull` in the checkpoint"
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{path} ({size} bytes) is no complete safetensors file: its header claims {length} bytes, expected 2 to "
            f"{max(0, min(MAX_HEADER_BYTES, size - 8))}; download or copy it again"
        )
    return length


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has a header that is no JSON ({error}); expected a safetensors file, download it again"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object; expected a safetensors file")
    entries.pop("__metadata__", None)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _tensor(path: Path, name: str, entry: object, data_start: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path} describes tensor {name!r} by {entry!r}; expected dtype, shape and data_offsets")
    stored, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(stored, str) or stored not in _DTYPES:
        raise CheckpointError(
            f"{path} stores tensor {name!r} as {stored!r}; expected one of {', '.join(_DTYPES)}; "
            "save the model in bfloat16 and export that"
        )
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"{path} gives tensor {name!r} shape {shape!r} and offsets {offsets!r}; expected lists of sizes from 0 up, "
            "two offsets; download it again"
        )
    begin, end = offsets
    expected = math.prod(shape) * RAW[_DTYPES[stored]].itemsize
    if end - begin != expected:
        raise CheckpointError(
            f"{path} keeps tensor {name!r} in {end - begin} bytes, but {stored} {list(shape)} takes {expected}; "
            "download it again"
        )
    return StoredTensor(name, tuple(shape), _DTYPES[stored], path, data_start + begin)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(path: Path, tensors: Mapping[str, StoredTensor], data_start: int, size: int) -> None:
    """Tensors follow one another from the first data byte to the last, without holes or overlaps."""
    position = data_start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != position:
            raise CheckpointError(
                f"{path} has tensor {tensor.name!r} at byte {tensor.offset}, expected {position}: its tensors overlap "
                "or leave a hole; download it again"
            )
        position += tensor.nbytes
    if position != size:
        state = "truncated" if size < position else "too long"
        raise CheckpointError(f"{path} is {state}: {size} bytes, its header says {position}; download or copy it again")
