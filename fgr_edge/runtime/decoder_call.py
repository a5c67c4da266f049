"""One bound call of the decoder: its buffers, its logits when they are asked for, and the shape of a tree of tokens.

In: buffers that the decoder filled. Out: logits of the rows asked for. Does not know what comes before or after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.head import DIRECT_ROWS, Head, LazyLogits
from fgr_edge.runtime.rotary import IntArray
from fgr_edge.runtime.sessions.session import Buffer
from fgr_edge.runtime.step_inputs import HIDDEN, StepInput

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class DecoderCall:
    """Buffers of one sequence length and the bound call over them.

    Attributes:
        logits_buffer: [1, R, V]; None until it is asked for, where the head is a graph of its own.
        hidden, head: rows [1, R, H], and the graph that makes logits of them; None where the head is inside.
    """

    embeds: Buffer
    step: list[tuple[StepInput, Buffer]]
    deepstack: list[Buffer]
    run: Callable[[], None]
    logits_buffer: Buffer | None
    hidden: Buffer | None = None
    head: Head | None = None
    _project: Callable[[], None] | None = None
    _read: bool = False  # whether the logits of the last run are in their buffer

    def compute(self) -> None:
        """Run on what the buffers hold."""
        self._read = False
        self.run()

    def logits(self) -> Floats:
        """Logits [R, V] of the last run."""
        if self.logits_buffer is None:
            assert self.hidden is not None and self.head is not None
            self.logits_buffer, self._project = self.head.bind(self.hidden)
        if not self._read:
            if self._project is not None:
                self._project()
            self.logits_buffer.download()
            self._read = True
        logits: Floats = self.logits_buffer.array[0]
        return logits

    def in_parts(self) -> Iterator[Floats]:
        """Logits [P, V] of the last run, some rows after the others; each part is overwritten by the next."""
        if self.head is None or self.hidden is None or self.hidden.shape[1] <= DIRECT_ROWS:
            yield self.logits()
            return
        self.hidden.download()
        yield from self.head.in_parts(self.hidden.array[0])


@dataclass(frozen=True, slots=True)
class Checked:
    """What the decoder says after each token of a call; until its next call."""

    call: DecoderCall

    def after(self, row: int, doubt: float = 0.0, again: Callable[[], LazyLogits] | None = None) -> LazyLogits:
        """Logits after one of the rows that were asked for; see `LazyLogits` for what makes them doubtful."""
        call = self.call

        def full() -> Floats:
            logits: Floats = call.logits()[row]
            return logits

        if call.hidden is None or call.head is None or call.head.screen is None:
            return LazyLogits(full, doubt=doubt, again=again)
        call.hidden.download()
        return LazyLogits(full, call.hidden.array[0, row], call.head.screen, doubt, again)


@lru_cache(maxsize=256)  # drafts recur: most are a chain
def tree(parents: tuple[int, ...]) -> tuple[IntArray, Floats]:
    """Depth [S] of each token below the text, and which of the others it sees [S, S].

    Args:
        parents: the place of the token that each follows, -1 for the text; parents before their children.
    """
    depths = np.zeros(len(parents), np.int64)
    mask = np.full((len(parents), len(parents)), HIDDEN, np.float32)
    for row, parent in enumerate(parents):
        if parent >= 0:
            depths[row] = depths[parent] + 1
            mask[row] = mask[parent]
        mask[row, row] = 0
    return depths, mask
