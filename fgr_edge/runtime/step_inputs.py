"""What decoder graphs may want to know of one call: a row for each input, whichever dialect asks for it.

In: a `Step`. Out: the arrays of those inputs that the graph has. Small numbers all of them; embeddings, the cache and
the rotary table are the decoder's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.rotary import IntArray
from fgr_edge.runtime.sessions.session import Array

HIDDEN = np.float32(-1e9)  # added to the attention logit of what a token must not see


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """S tokens appended to a cache of `capacity` slots, `start` of them taken.

    Attributes:
        rows: [R], which of the tokens get logits.
        slots: [S], rows of the rotary table; None for the slots that the tokens take.
        mask: [S, W] float32 for the last W slots, 0 for what a token sees, `HIDDEN` elsewhere; None is causal.
    """

    start: int
    count: int
    capacity: int
    rows: IntArray
    slots: IntArray | None = None
    mask: npt.NDArray[np.float32] | None = None

    @property
    def total(self) -> int:
        """Tokens in the cache after the call."""
        return self.start + self.count

    @property
    def width(self) -> int:
        """W; 1 without a mask."""
        return 1 if self.mask is None else self.mask.shape[1]


@dataclass(frozen=True, slots=True)
class StepInput:
    """One input: its type, its shape for a step, how its values are written, and whether engines read it on the CPU."""

    dtype: npt.DTypeLike
    shape: Callable[[Step], tuple[int, ...]]
    write: Callable[[Array, Step], None]
    on_host: bool = False


def _seqlens_k(array: Array, step: Step) -> None:
    array[0] = step.total - 1


def _total_sequence_length(array: Array, step: Step) -> None:
    array[...] = step.total


def _logit_rows(array: Array, step: Step) -> None:
    array[:] = step.rows


def _table_rows(array: Array, step: Step) -> None:
    array[0] = np.arange(step.start, step.total) if step.slots is None else step.slots


def _tree_mask(array: Array, step: Step) -> None:
    array[0, 0] = 0 if step.mask is None else step.mask


def _masked_from(array: Array, step: Step) -> None:
    array[0] = step.total - step.width


def _write_indices(array: Array, step: Step) -> None:
    array[0] = step.start


def _attention_mask(array: Array, step: Step) -> None:
    """Slots beyond the last token are never seen: what an earlier picture left there stays without effect."""
    seen: npt.NDArray[Any] = array[0, 0]
    if step.mask is None:
        seen[...] = np.arange(step.capacity) <= np.arange(step.start, step.total)[:, None]
        return
    seen[:, : step.total - step.width] = True
    seen[:, step.total - step.width : step.total] = step.mask == 0
    seen[:, step.total :] = False


STEP_INPUTS: Mapping[str, StepInput] = {
    "logit_rows": StepInput(np.int64, lambda step: (len(step.rows),), _logit_rows),
    # GroupQueryAttention: lengths, and the mask of the last slots only.
    "seqlens_k": StepInput(np.int32, lambda step: (1,), _seqlens_k),
    "total_sequence_length": StepInput(np.int32, lambda step: (), _total_sequence_length, on_host=True),
    "table_rows": StepInput(np.int64, lambda step: (1, step.count), _table_rows),
    "tree_mask": StepInput(np.float32, lambda step: (1, 1, step.count, step.width), _tree_mask),
    "masked_from": StepInput(np.int64, lambda step: (1,), _masked_from, on_host=True),
    # TensorScatter and Attention: where to write, and the whole mask.
    "write_indices": StepInput(np.int64, lambda step: (1,), _write_indices),
    "attention_mask": StepInput(np.bool_, lambda step: (1, 1, step.count, step.capacity), _attention_mask),
}
