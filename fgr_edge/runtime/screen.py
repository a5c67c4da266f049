"""The greedy token without the whole output head: a coarse copy rules out all but a few rows, and these are exact.

In: the decoder's hidden row h [H]. Out: the token that the full head would choose, or None where that is not certain
and the full head has to say. Knows numbers only; no text, no cache.

A row whose coarse logit lies further below the best logit than its bound (`screen_bounds`) is not the best. Those left
are computed in float64. A lead that is not larger than what the full head's own float32 sums may be off, equal rows
among them, is left to the full head, as are inputs that leave many rows.
"""

from __future__ import annotations

import logging

import numpy as np

from fgr_edge.errors import BundleError
from fgr_edge.runtime.screen_bounds import (
    COARSE_TERMS,
    EXACT_TERMS,
    LEVELS,
    SMALLEST,
    Doubles,
    Floats,
    Halves,
    IntArray,
    Penalties,
    RowNorms,
    gamma,
    rounding,
    split,
)
from fgr_edge.runtime.sessions.session import Session

log = logging.getLogger(__name__)

LARGEST = 1e30  # logits that could exceed this could overflow
MOST_ROWS = 16  # computed exactly at most, or a share of the vocabulary:
MOST_ROWS_SHARE = 128  # float64 rows of this share cost about as much as the coarse copy
LONGEST_PAUSE = 31  # tokens
PROBED_ROWS = 128


class Screen:
    """The coarse copy of one head.

    Args:
        session: screen.onnx.
        weight: the exact head [V, H] float32, mapped: only rows that are looked at are read.
        norms: as export wrote them.
        block_size: inputs that share a scale in the engine.

    Attributes:
        candidates: rows that the last token was chosen among; None where the full head has to say.

    Raises:
        BundleError: norms and weight do not fit each other.
    """

    def __init__(self, session: Session, weight: Floats, norms: RowNorms, block_size: int) -> None:
        vocab, hidden = weight.shape
        for name, values in (("errors", norms.errors), ("rows", norms.rows)):
            if values.shape != (vocab,) or values.dtype != np.float32:
                raise BundleError(
                    f"the screen's {name} are {values.dtype} {list(values.shape)}, expected float32 [{vocab}]; "
                    "export the bundle again"
                )
        self._weight, self._norms, self._block = weight, norms, block_size
        self._largest = (float(norms.errors.max()), float(norms.rows.max()))
        self._gamma = gamma(hidden + EXACT_TERMS)
        self._most = max(MOST_ROWS, vocab // MOST_ROWS_SHARE)
        self._input = session.buffer((1, 2, hidden), np.float32)
        self._output = session.buffer((1, 2, vocab), np.float32)
        self._sum = np.empty(vocab, np.float32)
        self._run = session.bind({"halves": self._input}, {"coarse_logits": self._output})
        self._pause = self._waiting = 0
        self.candidates: int | None = None
        self._trusted = True
        if not (self._adds_up() and self._keeps_bounds()):
            self._distrust()

    def likeliest(
        self, hidden: Floats, seen: IntArray | None = None, penalty: float = 1.0, doubt: float = 0.0
    ) -> int | None:
        """The token whose logit is largest in the full head; None where the full head has to say.

        Args:
            hidden: [H].
            seen: tokens, each once, whose logits are multiplied by `penalty` where negative, else divided by it.
            doubt: by how much a logit must lead the others, before the penalty, to be certain.

        After a token that it could not tell it pauses for one, then for 3, 7, ... tokens: a text whose next token is
        always open costs hardly more than without a screen.
        """
        if self._waiting or not self._trusted:
            self.candidates = None
            self._waiting -= bool(self._waiting)
            return None
        token = self.certain(hidden, seen, penalty, doubt)
        self._pause = 0 if token is not None else min(2 * self._pause + 1, LONGEST_PAUSE)
        self._waiting = self._pause
        return token

    def certain(
        self, hidden: Floats, seen: IntArray | None = None, penalty: float = 1.0, doubt: float = 0.0
    ) -> int | None:
        """As `likeliest`, without pauses."""
        self.candidates = None
        if not np.isfinite(hidden).all():
            return None
        halves = split(hidden, self._block)
        if not self._fits(halves):
            return None
        coarse = self._coarse(halves.rows)
        penalties = Penalties(seen, penalty)
        penalties.apply(coarse)
        guess = int(coarse.argmax())  # the first NaN, where there is one
        if not np.isfinite(coarse[guess]):
            return None
        inputs = hidden.astype(np.float64)
        low = self._exact(np.array([guess]), inputs, penalties)[1][0]
        lead = doubt * penalties.slope
        rows = self._not_ruled_out(coarse, halves, penalties, low - lead)
        if len(rows) > self._most:
            return None
        values, low_ends, high_ends = self._exact(rows, inputs, penalties)
        away = np.abs(values - coarse[rows])
        if (away > self._bounds(rows, halves, penalties) + rounding(values)).any():
            self._distrust()
            return None
        best = int(values.argmax())
        if (np.delete(high_ends, best) + lead >= low_ends[best]).any():
            return None
        self.candidates = len(rows)
        return int(rows[best])

    def _fits(self, halves: Halves) -> bool:
        """Whether no logit can overflow; false where a norm is no number, too."""
        return halves.error_factor * sum(self._largest) < LARGEST

    def _coarse(self, rows: Floats) -> Floats:
        """The sum [V] of the coarse logits of two rows [2, H]; overwritten by the next call."""
        self._input.array[0] = rows
        self._input.upload()
        self._run()
        self._output.download()
        np.add(self._output.array[0, 0], self._output.array[0, 1], out=self._sum)
        return self._sum

    def _not_ruled_out(self, coarse: Floats, halves: Halves, penalties: Penalties, low: float) -> IntArray:
        """Rows whose logit may reach `low`: first by the widest bound of all rows, then by their own."""
        errors, rows = self._largest
        widest = penalties.slope * (halves.error_factor * errors + halves.row_factor * rows) + rounding(low)
        found = np.flatnonzero(coarse >= np.nextafter(np.float32(low - 1.001 * widest), np.float32(-np.inf)))
        reach = coarse[found] + self._bounds(found, halves, penalties) + rounding(coarse[found])
        kept: IntArray = found[reach >= low]
        return kept

    def _bounds(self, rows: IntArray, halves: Halves, penalties: Penalties) -> Doubles:
        """How far the coarse logits of `rows` may be away from what the full head gives."""
        errors, norms = self._norms.errors[rows].astype(np.float64), self._norms.rows[rows].astype(np.float64)
        return (halves.error_factor * errors + halves.row_factor * norms) * penalties.slopes(rows)

    def _exact(self, rows: IntArray, inputs: Doubles, penalties: Penalties) -> tuple[Doubles, Doubles, Doubles]:
        """Logits of `rows`, and the ends of what a float32 engine may make of each."""
        weight = self._weight[rows].astype(np.float64)
        plain = weight @ inputs
        away = self._gamma * (np.abs(weight) @ np.abs(inputs)) * penalties.slopes(rows)
        values = penalties.of(rows, plain)
        away += rounding(values) + SMALLEST
        return values, values - away, values + away

    def _adds_up(self) -> bool:
        """Whether the engine takes inputs that are rounded as it rounds as they are: then their logits add up.

        One that rounds to another grid, or all blocks by one scale, does not, and `split` would say too little of it.
        """
        length = self._weight.shape[1]
        place = np.arange(length)
        first = place % self._block == 0  # the largest of each block: all rows have the same grid
        random = np.random.default_rng(0)
        some, others = np.where(first, 0, random.integers(-LEVELS // 2 + 1, LEVELS // 2, (2, length)))
        largest = np.where(first, LEVELS, 0)
        grid = 0.01 * (1 + place // self._block % 7)
        rows = (np.stack([largest + some, largest + others, largest + some + others, largest]) * grid).astype(
            np.float32
        )
        apart = self._coarse(rows[:2]).copy()
        together = self._coarse(rows[2:])
        sums = gamma(length + COARSE_TERMS) * float(np.linalg.norm(rows, axis=1).sum())
        return bool((np.abs(apart - together) <= sums * self._norms.rows + SMALLEST).all())

    def _keeps_bounds(self) -> bool:
        """Whether some rows of the exact head are as near to the coarse ones as the norms say."""
        vocab, length = self._weight.shape
        rows = np.unique(np.linspace(0, vocab - 1, PROBED_ROWS).astype(np.int64))
        hidden = np.random.default_rng(0).standard_normal((length,), np.float32)
        hidden[:: max(1, length // 4)] *= np.float32(50)  # as trained models have them
        halves = split(hidden, self._block)
        if not self._fits(halves):
            return True  # and nothing will be asked of it
        exact = self._weight[rows].astype(np.float64) @ hidden.astype(np.float64)
        away = np.abs(exact - self._coarse(halves.rows)[rows])
        return bool((away <= self._bounds(rows, halves, Penalties())).all())

    def _distrust(self) -> None:
        if self._trusted:
            log.warning(
                "the screen of the output head is further from it than this engine's arithmetic allows; greedy "
                "decoding goes on with the full head, correct and slower"
            )
        self._trusted = False
