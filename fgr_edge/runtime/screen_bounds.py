"""How far a logit of a head's coarse copy may be from the exact one, and from what a float32 engine makes of that.

In: a hidden row h [H], norms of the head's rows. Out: bounds. Knows numbers only, no engine and no weights.

Row w_i of the head [V, H] has the logit l_i = w_i h. Its coarse copy w~_i, in int8, is computed with inputs h~ that the
engine rounds to int8, too, and gives l~_i. By Cauchy and Schwarz

    |l_i - l~_i| <= |w_i - w~_i| |h| + |w~_i| |h - h~| + rounding

The norms of rows come with the bundle. The rounding of inputs is made small by giving the engine two rows that add up
to h: h rounded as the engine would round it, which it then takes as it is, and the rest, whose own rounding is some 250
times smaller.

The float32 sums of engines differ with the order of their additions, by at most gamma_n = n u / (1 - n u) times the sum
of magnitudes, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVELS = 127  # of an input, in each direction, in int8
ROUNDING = 2.0**-24  # u of float32
EXACT_TERMS = 64  # roundings that an engine may add to the H of a row's sum
COARSE_TERMS = 512  # and here: engines take zero points away from sums, few but large numbers
SMALLEST = 1e-30  # a block of inputs below this is taken as zero: engines divide by it


@dataclass(frozen=True, slots=True, eq=False)
class RowNorms:
    """Upper bounds [V] float32 of Euclidean norms. errors: of w_i - w~_i; rows: of w_i and of w~_i."""

    errors: Floats
    rows: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """A hidden row in two.

    Attributes:
        rows: [2, H] float32.
        error_factor, row_factor: of `RowNorms.errors` and `.rows`; the sum of both products is the bound.
    """

    rows: Floats
    error_factor: float
    row_factor: float


def split(hidden: Floats, block_size: int) -> Halves:
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
    sums = gamma(length + COARSE_TERMS) * (inputs + 2 * rests) + gamma(length + EXACT_TERMS) * inputs
    rows = np.stack([coarse.reshape(-1)[:length], rest.reshape(-1)[:length]])
    return Halves(rows, 1.000001 * inputs + SMALLEST, 1.000001 * (lost + sums) + SMALLEST)


class Penalties:
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


def gamma(terms: int) -> float:
    """Of a float32 sum of so many terms, whatever the order."""
    return terms * ROUNDING / (1 - terms * ROUNDING)


def rounding(values: Any) -> Any:
    """Of a logit that is penalized in float32, on both sides of a comparison."""
    return 4 * ROUNDING * np.abs(values)
