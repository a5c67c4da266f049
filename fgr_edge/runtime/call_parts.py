"""Splits a decoder call that is longer than its engine takes. Counts only: no tensors, no engine.

In: how many tokens, which of them want logits, and the most of both in one call. Out: runs of tokens in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fgr_edge.runtime.rotary import IntArray

UNREAD_ROW = np.zeros(1, np.int64)  # of a part without rows: graphs give logits of one row at least


@dataclass(frozen=True, slots=True)
class CallPart:
    """Tokens `start` to `stop`; rows: [R], which of them get logits, counted from `start`: perhaps none."""

    start: int
    stop: int
    rows: IntArray


def call_parts(count: int, rows: IntArray, most_tokens: int | None, most_rows: int | None) -> Iterator[CallPart]:
    """As few calls as there can be for `count` tokens of which `rows`, ascending, want logits.

    Args:
        most_tokens, most_rows: of one call, at least 1; None where any number fits.
    """
    start, taken = 0, 0
    while start < count:
        stop = count if most_tokens is None else min(count, start + most_tokens)
        last = int(np.searchsorted(rows, stop))
        if most_rows is not None and last - taken > most_rows:
            last = taken + most_rows
            stop = int(rows[last])
        yield CallPart(start, stop, rows[taken:last] - start)
        start, taken = stop, last
