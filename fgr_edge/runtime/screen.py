"""The greedy token without the whole output head: a coarse copy rules out all but a few rows, and these are exact.

In: the decoder's hidden row h [H]. Out: the token that the full head would choose, or None where that is not certain
and the full head has to say. Knows numbers only; no text, no cache.

Row w_i of the head [V, H] has the logit l_i = w_i h. Its coarse copy w~_i, in int8, is computed with inputs h~ that the
engine rounds to int8, too, and gives l~_i. By Cauchy and Schwarz

    |l_i - l~_i| <= |w_i - w~_i| |h| + |w~_i| |h - h~| + rounding

so that a row whose l~_i lies further below the best logit than this is not the best. The norms come with the bundle.
The rounding of inputs is made small by giving the engine two rows that add up to h: h rounded as the engine would
round it, which it then takes as it is, and the rest, whose own rounding is some 250 times smaller.

The float32 sums of engines differ with the order of their additions, by at most gamma_n = n u / (1 - n u) times the sum
of magnitudes, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). A lead that is not larger than
that, equal rows among them, is left to the full head.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError
from fgr_edge.runtime.sessions.session import Session

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVELS = 127  # of an input, in each direction, in int8
ROUNDING = 2.0**-24  # u of float32
EXACT_TERMS = 64  # roundings that an engine may add to the H of a row's sum
COARSE_TERMS = 512  # and here: engines take zero points away from sums, few but large numbers
SMALLEST = 1e-30  # a block of inputs below this is taken as zero: engines divide by it
LARGEST = 1e30  # logits that could exceed this could overflow
MOST_ROWS = 16  # computed exactly at most, or a share of the vocabulary:
MOST_ROWS_SHARE = 128  # float64 rows of this share cost about as much as the coarse copy
LONGEST_PAUSE = 31  # tokens
PROBED_ROWS = 128


@dataclass(frozen=True, slots=True)
class RowNorms:
    """Upper bounds [V] float32 of Euclidean norms. errors: of w_i - w~_i; rows: of w_i and of w~_i."""

    errors: Floats
    rows: Floats


@dataclass(frozen=True, slots=True)
class _Halves:
    """A hidden row in two: rows [2, H] float32, and bounds of what an engine's logits of them may be away from exact.

    error_factor, row_factor: multiply `RowNorms.errors` and `.rows`.
    """

    rows: Floats
    error_factor: float
    row_factor: float


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
        self._gamma = _gamma(hidden + EXACT_TERMS)
        self._most = max(MOST_ROWS, vocab // MOST_ROWS_SHARE)
        self._input = session.buffer((1, 2, hidden), np.float32)
        self._output = session.buffer((1, 2, vocab), np.float32)
        self._sum = np.empty(vocab, np.float32)
        self._run = session.bind({"halves": self._input}, {"coarse_logits": self._output})
        self._pause = self._waiting = 0
        self.candidates: int | None = None
        self._trusted = True
        self._probe()

    def likeliest(self, hidden: Floats, seen: IntArray | None = None, penalty: float = 1.0) -> int | None:
        """The token whose logit is largest in the full head; None where the full head has to say.

        Args:
            hidden: [H].
            seen: tokens, each once, whose logits are multiplied by `penalty` where negative, else divided by it.

        After a token that it could not tell it pauses for one, then for 3, 7, ... tokens: a text whose next token is
        always open costs hardly more than without a screen.
        """
        if self._waiting or not self._trusted:
            self.candidates = None
            self._waiting -= bool(self._waiting)
            return None
        token = self.certain(hidden, seen, penalty)
        self._pause = 0 if token is not None else min(2 * self._pause + 1, LONGEST_PAUSE)
        self._waiting = self._pause
        return token

    def certain(self, hidden: Floats, seen: IntArray | None = None, penalty: float = 1.0) -> int | None:
        """As `likeliest`, without pauses."""
        self.candidates = None
        if not np.isfinite(hidden).all():
            return None
        halves = split(hidden, self._block)
        if not self._fits(halves):
            return None
        coarse = self._coarse(halves)
        penalties = _Penalties(seen, penalty)
        penalties.apply(coarse)
        guess = int(coarse.argmax())  # the first NaN, where there is one
        if not np.isfinite(coarse[guess]):
            return None
        inputs = hidden.astype(np.float64)
        low = self._exact(np.array([guess]), inputs, penalties)[1][0]
        rows = self._not_ruled_out(coarse, halves, penalties, low)
        if len(rows) > self._most:
            return None
        values, low_ends, high_ends = self._exact(rows, inputs, penalties)
        away = np.abs(values - coarse[rows])
        if (away > self._bounds(rows, halves, penalties) + _rounding(values)).any():
            self._distrust()
            return None
        best = int(values.argmax())
        if not (np.delete(high_ends, best) < low_ends[best]).all():
            return None
        self.candidates = len(rows)
        return int(rows[best])

    def _fits(self, halves: _Halves) -> bool:
        """Whether no logit can overflow; false where a norm is no number, too."""
        return halves.error_factor * sum(self._largest) < LARGEST

    def _coarse(self, halves: _Halves) -> Floats:
        self._input.array[0] = halves.rows
        self._input.upload()
        self._run()
        self._output.download()
        np.add(self._output.array[0, 0], self._output.array[0, 1], out=self._sum)
        return self._sum

    def _not_ruled_out(self, coarse: Floats, halves: _Halves, penalties: _Penalties, low: float) -> IntArray:
        """Rows whose logit may reach `low`: first by the widest bound of all rows, then by their own."""
        errors, rows = self._largest
        widest = penalties.slope * (halves.error_factor * errors + halves.row_factor * rows) + _rounding(low)
        found = np.flatnonzero(coarse >= np.nextafter(np.float32(low - 1.001 * widest), np.float32(-np.inf)))
        reach = coarse[found] + self._bounds(found, halves, penalties) + _rounding(coarse[found])
        kept: IntArray = found[reach >= low]
        return kept

    def _bounds(self, rows: IntArray, halves: _Halves, penalties: _Penalties) -> Doubles:
        """How far the coarse logits of `rows` may be away from what the full head gives."""
        errors, norms = self._norms.errors[rows].astype(np.float64), self._norms.rows[rows].astype(np.float64)
        return (halves.error_factor * errors + halves.row_factor * norms) * penalties.slopes(rows)

    def _exact(self, rows: IntArray, inputs: Doubles, penalties: _Penalties) -> tuple[Doubles, Doubles, Doubles]:
        """Logits of `rows`, and the ends of what a float32 engine may make of each."""
        weight = self._weight[rows].astype(np.float64)
        plain = weight @ inputs
        away = self._gamma * (np.abs(weight) @ np.abs(inputs)) * penalties.slopes(rows)
        values = penalties.of(rows, plain)
        away += _rounding(values) + SMALLEST
        return values, values - away, values + away

    def _probe(self) -> None:
        """Trust no engine that rounds otherwise than it should: look at some rows before the first token."""
        vocab, hidden = self._weight.shape
        rows = np.unique(np.linspace(0, vocab - 1, PROBED_ROWS).astype(np.int64))
        random = np.random.default_rng(0)
        for outlier in (1.0, 50.0):
            values = random.standard_normal((hidden,), np.float32)
            values[:: max(1, hidden // 4)] *= np.float32(outlier)
            halves = split(values, self._block)
            if not self._fits(halves):
                continue
            exact = self._weight[rows].astype(np.float64) @ values.astype(np.float64)
            if not (np.abs(exact - self._coarse(halves)[rows]) <= self._bounds(rows, halves, _Penalties())).all():
                self._distrust()

    def _distrust(self) -> None:
        if self._trusted:
            log.warning(
                "the screen of the output head is further from it than this engine's arithmetic allows; greedy "
                "decoding goes on with the full head, correct and slower"
            )
        self._trusted = False


class _Penalties:
    """A repetition penalty on the logits of some tokens; monotone, and no steeper than `slope`."""

    def __init__(self, seen: IntArray | None = None, penalty: float = 1.0) -> None:
        self._factor = np.float32(penalty)  # as `sampling.Sampler` rounds it
        self._seen = None if seen is None or penalty == 1.0 or not len(seen) else seen
        self.slope = 1.0 if self._seen is None else max(float(self._factor), 1 / float(self._factor))

    def apply(self, logits: Floats) -> None:
        """Penalize logits [V] in place."""
        if self._seen is not None:
            logits[self._seen] = self._penalized(logits[self._seen])

    def of(self, rows: IntArray, logits: Doubles) -> Doubles:
        """Penalize those of `rows` that were seen."""
        if self._seen is None:
            return logits
        return np.where(np.isin(rows, self._seen), self._penalized(logits), logits)

    def slopes(self, rows: IntArray) -> Doubles:
        """By how much the penalty can stretch a difference in each of `rows`."""
        stretched: Doubles = np.ones(len(rows))
        if self._seen is not None:
            stretched[np.isin(rows, self._seen)] = self.slope
        return stretched

    def _penalized(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(logits < 0, logits * self._factor, logits / self._factor)


def split(hidden: Floats, block_size: int) -> _Halves:
    """Cut h [H] into what an engine takes as it is, and the rest.

    Args:
        block_size: inputs that share a scale in the engine: their largest magnitude / 127.
    """
    length = len(hidden)
    padded = np.zeros((-(-length // block_size), block_size), np.float32)
    padded.reshape(-1)[:length] = hidden
    step = np.abs(padded).max(axis=1, keepdims=True) / np.float32(LEVELS)
    step[step < SMALLEST] = 0
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    coarse = np.rint(padded * inverse) * step
    rest = padded - coarse
    largest = np.abs(rest).max(axis=1)
    rest[largest < LEVELS * SMALLEST] = 0
    # A whole step of the rest, not half of one: it is small, and then the engine may round as it likes.
    unseen = np.where(largest < LEVELS * SMALLEST, largest, largest / LEVELS).astype(np.float64)
    inputs = float(np.linalg.norm(hidden.astype(np.float64)))
    rests = float(np.linalg.norm(rest.astype(np.float64)))
    lost = float(np.sqrt(block_size * np.square(unseen).sum()))
    # What the sums over both halves may be off, and the full head's own.
    sums = _gamma(length + COARSE_TERMS) * (inputs + 2 * rests) + _gamma(length + EXACT_TERMS) * inputs
    rows = np.stack([coarse.reshape(-1)[:length], rest.reshape(-1)[:length]])
    return _Halves(rows, 1.000001 * inputs + SMALLEST, 1.000001 * (lost + sums) + SMALLEST)


def _gamma(terms: int) -> float:
    """Of a float32 sum of so many terms, whatever the order."""
    return terms * ROUNDING / (1 - terms * ROUNDING)


def _rounding(values: Any) -> Any:
    """Of a logit that is penalized in float32, on both sides of a comparison."""
    return 4 * ROUNDING * np.abs(values)
