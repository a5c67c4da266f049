"""Weights of one checkpoint by role: which stored tensors make up a matrix of the graph, checked before use.

A `Matrix` is several stored tensors stacked along their rows (q, k and v of one layer, say), read in chunks; nothing
is in memory until a dialect asks for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.plan import Part
from fgr_edge.errors import CheckpointError
from fgr_edge.export.checkpoint import Checkpoint, LazyTensor

CHUNK_VALUES = 8 * 1024 * 1024  # 32 MiB of float32 in flight


@dataclass(frozen=True, slots=True)
class Matrix:
    """Stored tensors stacked along axis 0: a linear layer's weight [rows, columns] as transformers keeps it.

    Attributes:
        name: of the first tensor; the layer's name in plans and statistics.
        parts: the tensors.
        columns: inputs of the layer.
        part: of the model.
        unit: layer or block that it belongs to: "decoder.3", "vision.merger", "head".
        padded_rows, padded_columns: what the dialect that asked for it fills the weight up to with zeros.
    """

    name: str
    parts: tuple[LazyTensor, ...]
    columns: int
    part: Part
    unit: str
    padded_rows: int = 0
    padded_columns: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "padded_rows", max(self.padded_rows, self.rows))
        object.__setattr__(self, "padded_columns", max(self.padded_columns, self.columns))

    @property
    def rows(self) -> int:
        return sum(part.shape[0] for part in self.parts)

    def padded(self, *, rows: int = 0, columns: int = 0) -> Matrix:
        """This matrix, to be filled up with zeros to `rows` and `columns`; its values stay as stored."""
        return replace(self, padded_rows=rows, padded_columns=columns)

    def chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield float32 blocks [some rows, columns], in order."""
        step = max(1, CHUNK_VALUES // self.columns)
        for part in self.parts:
            for start in range(0, part.shape[0], step):
                rows = part.rows(start, min(start + step, part.shape[0]))
                yield rows.reshape(rows.shape[0], self.columns)


class Weights:
    """Tensors of a checkpoint under one of several prefixes, by role.

    Raises:
        CheckpointError: no prefix fits, a tensor is missing, or its shape is not the expected one.
    """

    def __init__(
        self, checkpoint: Checkpoint, prefixes: Sequence[str], names: Mapping[str, str], probe: str, part: Part
    ) -> None:
        self._checkpoint = checkpoint
        self._names = names
        self._part: Part = part
        for prefix in prefixes:
            if prefix + names[probe].format(i=0) in checkpoint:
                self._prefix = prefix
                return
        tried = ", ".join(prefix + names[probe].format(i=0) for prefix in prefixes)
        raise CheckpointError(
            f"{checkpoint.path} holds none of {tried}; expected the weights that config.json describes"
        )

    def over(self, checkpoint: Checkpoint) -> Weights:
        """The same roles in another checkpoint with the same names: one with other tensors laid over it."""
        other = copy.copy(self)
        other._checkpoint = checkpoint
        return other

    def name(self, role: str, layer: int = 0) -> str:
        return self._prefix + self._names[role].format(i=layer)

    def tensor(self, role: str, shape: tuple[int, ...], layer: int = 0) -> LazyTensor:
        return self._checkpoint.tensor(self.name(role, layer), shape)

    def matrix(self, roles: Sequence[str], rows: Sequence[int], columns: int, layer: int = 0) -> Matrix:
        """Stack the weights of `roles`, each [rows[i], columns]."""
        parts = tuple(self.tensor(role, (count, columns), layer) for role, count in zip(roles, rows, strict=True))
        return Matrix(self.name(roles[0], layer), parts, columns, self._part, self.unit(roles[0], layer))

    def unit(self, role: str, layer: int = 0) -> str:
        """The layer or block that a role's weight belongs to: "decoder.3", "vision.patch", "vision.merger"."""
        if "{i}" in self._names[role]:
            below = self._names[role].split("{i}")[0]
            repeated = f"{layer}" if below in ("layers.", "blocks.") else f"{role.split('_')[0]}.{layer}"
            return f"{self._part}.{repeated}"
        return f"{self._part}.{role.split('_')[0]}"

    def vector(self, roles: Sequence[str], sizes: Sequence[int], layer: int = 0) -> npt.NDArray[np.float32]:
        """Read and concatenate the vectors of `roles` (biases, norm weights)."""
        return np.concatenate(
            [self.tensor(role, (size,), layer).read() for role, size in zip(roles, sizes, strict=True)]
        )
