"""Scales moved from the input of linear layers into the weights around it, which changes no output of the model.

The inputs of a group of matrices are divided by s [K], by dividing what makes them; the columns of the matrices are
multiplied by s. AWQ and SmoothQuant choose s so that what is rounded afterwards loses less. Groups:

    input_norm -> q, k, v       post_norm -> gate, up       up -> down      final_norm -> head
    v -> o                      norm1 -> qkv                qkv's v rows -> proj
    norm2 -> gate, up (or up alone)                         up -> down      (vision; the last where the MLP is gated)

A layer norm's bias is divided, too. Query heads that share a value head share its scale. Source: AWQ (arXiv 2306.00978,
section 3.2) and SmoothQuant (arXiv 2211.10438, section 4).

In: a model and scales. Out: the model with its weights scaled as they are read. A tied embedding stays as it is, while
the head that repeats it is scaled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from fgr_edge.export.checkpoint import LazyTensor
from fgr_edge.export.lazy_tensor import VirtualTensor
from fgr_edge.export.model import Model
from fgr_edge.export.weights import Matrix

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Matrices with one input, and what makes it.

    Attributes:
        matrices: [N, K] each.
        makers: tensors whose rows make the inputs: a weight and its bias, or a norm's.
        rows: [K], the row of the makers that each input comes from.
    """

    matrices: tuple[Matrix, ...]
    makers: tuple[LazyTensor, ...]
    rows: Ints

    @property
    def columns(self) -> int:
        return len(self.rows)

    def shared(self, scale: Floats) -> Floats:
        """`scale` [K] made equal where inputs come from the same row: the geometric mean of theirs."""
        rows, places, counts = np.unique(self.rows, return_inverse=True, return_counts=True)
        means = np.bincount(places, np.log(scale.astype(np.float64)), len(rows)) / counts
        found: Floats = np.exp(means)[places].astype(np.float32)
        return found


def groups(model: Model) -> Iterator[Group]:
    """All groups of a model, from the first vision block to the head."""
    yield from _vision_groups(model)
    yield from _decoder_groups(model)


def _vision_groups(model: Model) -> Iterator[Group]:
    d, w = model.vision_dims, model.vision
    width = np.arange(d.hidden)
    inner = ["gate", "up"] if d.mlp == "swiglu" else ["up"]
    for block in range(d.depth):
        one = partial(_one, model, "vision", layer=block)
        norms = {role: [w.tensor(role, (d.hidden,), block)] for role in ("norm1", "norm2")}
        if d.norm == "layer":
            for role, tensors in norms.items():
                tensors.append(w.tensor(f"{role}_bias", (d.hidden,), block))
        qkv = one("qkv", 3 * d.hidden, d.hidden)
        yield Group((qkv,), tuple(norms["norm1"]), width)
        made = (*qkv.parts, w.tensor("qkv_bias", (3 * d.hidden,), block))
        yield Group((one("proj", d.hidden, d.hidden),), made, 2 * d.hidden + width)
        matrices = [one(role, d.intermediate, d.hidden) for role in inner]
        yield Group(tuple(matrices), tuple(norms["norm2"]), width)
        if d.mlp == "swiglu":
            made = (*matrices[1].parts, w.tensor("up_bias", (d.intermediate,), block))
            yield Group((one("down", d.hidden, d.intermediate),), made, np.arange(d.intermediate))


def _decoder_groups(model: Model) -> Iterator[Group]:
    d, w = model.decoder_dims, model.decoder
    width = np.arange(d.hidden)
    q_rows, kv_rows = d.heads * d.head_dim, d.kv_heads * d.head_dim
    by_head = np.arange(kv_rows).reshape(d.kv_heads, d.head_dim)
    value_rows = np.repeat(by_head, d.heads // d.kv_heads, axis=0).reshape(-1)
    for layer in range(d.layers):
        one = partial(_one, model, "decoder", layer=layer)
        qkv = w.matrix(["q", "k", "v"], [q_rows, kv_rows, kv_rows], d.hidden, layer)
        yield Group((qkv,), (w.tensor("input_norm", (d.hidden,), layer),), width)
        value = [qkv.parts[2], *([w.tensor("v_bias", (kv_rows,), layer)] if d.qkv_bias else [])]
        yield Group((one("o", d.hidden, q_rows),), tuple(value), value_rows)
        gate, up = (one(role, d.intermediate, d.hidden) for role in ("gate", "up"))
        yield Group((gate, up), (w.tensor("post_norm", (d.hidden,), layer),), width)
        yield Group((one("down", d.hidden, d.intermediate),), up.parts, np.arange(d.intermediate))
    yield Group((model.head,), (w.tensor("final_norm", (d.hidden,)),), width)


def _one(model: Model, part: str, role: str, rows: int, columns: int, *, layer: int) -> Matrix:
    weights = model.vision if part == "vision" else model.decoder
    return weights.matrix([role], [rows], columns, layer)


@dataclass(frozen=True, slots=True)
class Folded:
    """A model with scales folded in.

    Attributes:
        model: computes what the original does.
        scales: [K] by matrix name, what the inputs of the matrix are divided by.
        sha256: over the scales.
    """

    model: Model
    scales: Mapping[str, Floats]
    sha256: str


def fold(model: Model, scale_of: Callable[[Group], Floats | None]) -> Folded:
    """Fold the scales that `scale_of` chooses; None leaves a group alone.

    Raises:
        ValueError: a scale is not positive, or of the wrong length.
    """
    scaling: dict[str, _Scaling] = {}
    scales: dict[str, Floats] = {}
    head: Floats | None = None
    for group in groups(model):
        scale = scale_of(group)
        if scale is None:
            continue
        if scale.shape != (group.columns,) or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"{group.matrices[0].name}: expected {group.columns} positive scales")
        scale = group.shared(scale)
        for maker in group.makers:
            scaling.setdefault(maker.name, _Scaling(maker)).divide(group.rows, scale)
        for matrix in group.matrices:
            scales[matrix.name] = scale
            if matrix is model.head:  # by itself: its tensor may be the embedding's
                head = scale
                continue
            for part in matrix.parts:
                scaling.setdefault(part.name, _Scaling(part)).columns = scale
    return _overlaid(model, scaling, scales, head)


def _overlaid(
    model: Model, scaling: Mapping[str, _Scaling], scales: Mapping[str, Floats], head: Floats | None
) -> Folded:
    sha256 = _digest(scales)
    tensors = {name: change.tensor() for name, change in scaling.items()}
    checkpoint = model.checkpoint.with_tensors(tensors, f"scales folded in, sha256 {sha256}")
    folded = replace(
        model, checkpoint=checkpoint, decoder=model.decoder.over(checkpoint), vision=model.vision.over(checkpoint)
    )
    if head is not None:
        (part,) = model.head.parts
        change = _Scaling(part)
        change.columns = head
        folded = replace(folded, head=replace(model.head, parts=(change.tensor(),)))
    return Folded(folded, scales, sha256)


class _Scaling:
    """What happens to one stored tensor: columns multiplied, rows divided."""

    def __init__(self, stored: LazyTensor) -> None:
        self._stored = stored
        self._divisors = np.ones(stored.shape[0], np.float32)
        self.columns: Floats | None = None

    def divide(self, rows: Ints, scale: Floats) -> None:
        self._divisors[rows] = scale

    def tensor(self) -> VirtualTensor:
        stored, divisors, columns = self._stored, self._divisors, self.columns

        def compute(start: int, stop: int) -> Floats:
            values = stored.rows(start, stop)
            if columns is not None:
                values = values * columns
            shape = (stop - start, *(1 for _ in stored.shape[1:]))
            found: Floats = values / divisors[start:stop].reshape(shape)
            return found

        return VirtualTensor(stored.name, stored.shape, "float32", compute)


def _digest(scales: Mapping[str, Floats]) -> str:
    digest = hashlib.sha256()
    for name in sorted(scales):
        digest.update(f"{name}\n".encode() + np.ascontiguousarray(scales[name]).tobytes())
    return digest.hexdigest()


def sample_rows(matrices: Sequence[Matrix], count: int, run: int = 16) -> Floats:
    """About `count` rows [n, K] of the matrices, or all if there are fewer, in runs spread evenly over them."""
    parts = [part for matrix in matrices for part in matrix.parts]
    ends = np.cumsum([part.shape[0] for part in parts])
    total = int(ends[-1])
    starts = np.linspace(0, total, max(1, min(count, total) // run), endpoint=False).astype(int).tolist()
    found = []
    for start, following in zip(starts, [*starts[1:], total], strict=True):
        stop = min(start + run, following) if count < total else following
        for part, end in zip(parts, ends.tolist(), strict=True):
            first = end - part.shape[0]
            if start < end and stop > first:
                found.append(part.rows(max(start, first) - first, min(stop, end) - first))
    return np.concatenate(found)
