"""The output head as a graph of its own, perhaps with its screen: all logits of hidden rows, or the likeliest alone.

In: hidden rows that the decoder left in a buffer. Out: logits, when they are asked for. Does not know what comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.screen import Screen
from fgr_edge.runtime.screen_bounds import RowNorms
from fgr_edge.runtime.sessions.session import Buffer, Session

Floats = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

HEAD = "head.onnx"
HEAD_WEIGHT = "head.onnx.data"
SCREEN = "screen.onnx"
SCREEN_NORMS = "screen.npz"
DIRECT_ROWS = 32  # of one call with buffers of its own; the logits of more are large
PART_BYTES = 80 * 1024 * 1024  # of logits at once: each part reads the whole weight again
EVEN_ROWS = 12  # that engines multiply together
KEPT_PARTS = 2


@dataclass(frozen=True, slots=True)
class LazyLogits:
    """Logits [V] after the text so far, computed when asked for; until the decoder's next call.

    Attributes:
        full: all of them.
        hidden, screen: what tells the likeliest without the others; None where the decoder's graph has its head inside.
        doubt: how much the difference of two logits may be off what `again` gives.
        again: computes them as a text appended token by token gives them; None where they are that already.
    """

    full: Callable[[], Floats]
    hidden: Floats | None = None
    screen: Screen | None = None
    doubt: float = 0.0
    again: Callable[[], LazyLogits] | None = None

    def likeliest(self, seen: IntArray | None = None, penalty: float = 1.0) -> int | None:
        """The token with the largest logit, `seen` ones penalized; None where only `full`, or `again`, can tell."""
        if self.hidden is None or self.screen is None:
            return None
        return self.screen.likeliest(self.hidden, seen, penalty, self.doubt)


class Head:
    """head.onnx, and its screen where it has one.

    Args:
        vocab: logits of a row.
    """

    def __init__(self, session: Session, screen: Screen | None, vocab: int) -> None:
        self._session = session
        self._vocab = vocab
        self.screen = screen
        self._parts: dict[int, tuple[Buffer, Buffer, Callable[[], None]]] = {}  # by rows, those used last

    @property
    def most_rows(self) -> int | None:
        """Rows of one call at most; None where any number fits."""
        return self._session.longest("hidden", 1)

    def bind(self, hidden: Buffer) -> tuple[Buffer, Callable[[], None]]:
        """Logits [1, R, V], and the call that computes them from hidden [1, R, H], in place."""
        logits = self._session.buffer((1, hidden.shape[1], self._vocab), np.float32)
        return logits, self._session.bind({"hidden": hidden}, {"logits": logits})

    @property
    def part_rows(self) -> int:
        """Rows of one part at most."""
        most = max(EVEN_ROWS, PART_BYTES // (4 * self._vocab * EVEN_ROWS) * EVEN_ROWS)
        return min(most, self.most_rows or most)

    def in_parts(self, hidden: Floats) -> Iterator[Floats]:
        """Logits [P, V] of hidden rows [R, H], some rows after the others; each part is overwritten by the next."""
        count, most = len(hidden), self.part_rows
        parts = -(-count // most)
        size = min(-(-count // (parts * EVEN_ROWS)) * EVEN_ROWS, count, most)
        given, found, run = self._bound_part(size, hidden.shape[1])
        for start in range(0, count, size):
            again = max(0, start + size - count)  # the last part begins with rows of the one before it
            given.array[0] = hidden[start - again : start - again + size]
            given.upload()
            run()
            found.download()
            yield found.array[0, again:]

    def _bound_part(self, rows: int, width: int) -> tuple[Buffer, Buffer, Callable[[], None]]:
        """Large buffers are kept, and few of them: a list of labels asks for the same parts at every picture."""
        part = self._parts.pop(rows, None)
        if part is None:
            if len(self._parts) >= KEPT_PARTS:
                del self._parts[next(iter(self._parts))]
            given = self._session.buffer((1, rows, width), np.float32)
            part = (given, *self.bind(given))
        self._parts[rows] = part
        return part


def open_head(bundle: Bundle, session: Callable[[str], Session], *, screened: bool) -> Head | None:
    """The head of a bundle where it is a graph of its own; None where decoder.onnx has it inside.

    Args:
        session: opens a graph of the bundle by its file name.
        screened: whether to use the screen: with engines whose float32 products are float32 (CUDA's may be TF32).

    Raises:
        BundleError: the files do not fit each other.
        EngineError: the engine refuses a graph.
    """
    spec = bundle.manifest.get("screen")
    if spec is None and HEAD not in bundle:
        return None
    decoder = bundle.manifest["decoder"]
    head = session(HEAD)  # first: opening it reads the weight, whose rows the screen looks at
    if spec is None or not screened:
        return Head(head, None, decoder["vocab"])
    stored = bundle.arrays(SCREEN_NORMS)
    if not {"errors", "rows"} <= stored.keys():
        raise BundleError(f"{bundle.file(SCREEN_NORMS)} holds {sorted(stored)}, expected errors and rows; export again")
    weight = _mapped(bundle, (decoder["vocab"], decoder["hidden"]))
    norms = RowNorms(stored["errors"], stored["rows"])
    return Head(head, Screen(session(SCREEN), weight, norms, spec["block_size"]), decoder["vocab"])


def _mapped(bundle: Bundle, shape: tuple[int, int]) -> npt.NDArray[Any]:
    path = bundle.file(HEAD_WEIGHT)
    expected = shape[0] * shape[1] * 4
    if path.stat().st_size != expected:
        raise BundleError(
            f"{path} has {path.stat().st_size} bytes, expected {expected}: float32 {list(shape)}; export again"
        )
    return np.asarray(np.memmap(path, np.dtype("<f4"), "r", shape=shape))
