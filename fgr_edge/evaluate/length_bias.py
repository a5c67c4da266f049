"""Whether the length of a class's name bends its probability.

In: probabilities [N, C], classes [N], the length of each name in tokens [C]. Out: for each class how much more it is
predicted than it is there, and the slope of that over length, with the chance of one as steep if length meant nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PERMUTATIONS = 10_000
_CHUNK_VALUES = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class LengthBias:
    """Over the classes that have photographs.

    Attributes:
        lengths: [K] tokens of the name.
        excess: [K] mean predicted probability less frequency.
        slope: of a straight line through them, in probability for one more token; None where all are of one length.
        p_value: share of random orders of the lengths that give a slope at least as steep, either way.
    """

    lengths: Ints
    excess: Floats
    slope: float | None
    p_value: float | None


def length_bias(probabilities: Floats, classes: Ints, lengths: Ints, *, seed: int = 0) -> LengthBias:
    """Slope of over-prediction over name length, and a permutation test of it (Fisher, 1935), two-sided.

    Args:
        probabilities: [N, C].
        classes: [N].
        lengths: [C] tokens of each name.
        seed: of the permutations; the order that is there counts as one of them, so p is never 0.
    """
    counts = np.bincount(classes, minlength=len(lengths))
    present = counts > 0
    excess = (probabilities.mean(axis=0) - counts / len(classes))[present]
    kept = lengths[present]
    centred = kept - kept.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return LengthBias(kept, excess, None, None)
    slope = float(centred @ excess) / spread
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_VALUES // len(kept))
    steeper = 0
    for start in range(0, PERMUTATIONS, at_once):
        orders = np.tile(centred, (min(at_once, PERMUTATIONS - start), 1))
        slopes = generator.permuted(orders, axis=1) @ excess / spread
        steeper += int((np.abs(slopes) >= abs(slope) * (1 - 1e-9)).sum())
    return LengthBias(kept, excess, slope, (steeper + 1) / (PERMUTATIONS + 1))
