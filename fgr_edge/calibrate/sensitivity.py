"""Which units of a model suffer most from quantization, and how many of them must stay at a higher precision.

In: a function that builds a bundle in which one unit is quantized, the original, photographs. Out: units by how far the
class probabilities move, the most sensitive first; and the fewest of them that, kept higher, hold a bound on the
accuracy. Knows units by name only: what they are and how they are quantized is the builder's.

Where a build leaves the vision graph as it is (every unit of the decoder), the original's image embeddings are used
again: most of the time of a picture is the vision tower's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.parity_document import Sensitivity
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.evaluate.evaluation import ProgressBar, ask_all
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float64]
Build = Callable[[str], Path]
_ROUNDING = 1e-9  # of shares: 0.3 points lost are within 0.003
_VISION = ("vision.onnx", "vision.onnx.data")


def rank(
    units: Sequence[str],
    build: Build,
    reference: Path,
    pictures: Sequence[LabelledPicture],
    labels: LabelSet,
    progress: ProgressBar,
    *,
    threads: int | None = None,
) -> list[Sensitivity]:
    """Measure every unit alone.

    The error is KL(original || bundle) in nats between the probabilities of the classes, the mean over the pictures:
    unlike a difference of log-probabilities it weighs a class by how much the answer depends on it.

    Args:
        build: given a unit, a bundle of the same model with only that unit quantized. It may write to the same folder
            every time: a bundle is done with before the next is asked for.
        reference: with nothing quantized.

    Returns:
        The most sensitive unit first; of equals, in the order given.

    Raises:
        DataError: more than 5 % of the pictures cannot be opened.
    """
    with progress("original", len(pictures)) as step:
        original = _Original.of(reference, pictures, labels, threads, step)
    found: list[Sensitivity] = []
    with progress("sensitivity", len(units)) as step:
        for unit in units:
            scores = original.scores_of(build(unit), labels, threads)
            found.append({"unit": unit, "error": class_divergence(scores, original.scores), "kept": None})
            step(1)
    return sorted(found, key=lambda row: -row["error"])


def class_divergence(found: Floats, original: Floats) -> float:
    """Mean over pictures of KL(original || found), in nats, of the class probabilities; both [N, C] log-probabilities.

    Probabilities are among the classes: a model that names none of them has lost its answer, not its choice.
    """
    one, other = (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True) for scores in (original, found))
    return float((np.exp(one) * (one - other)).sum(axis=1).mean())


@dataclass(frozen=True, slots=True)
class _Original:
    """What the unquantized bundle says: pictures that open, their embeddings, [N, C] label scores."""

    bundle: Bundle
    pictures: list[LabelledPicture]
    embeds: list[ImageEmbeds]
    scores: Floats

    @classmethod
    def of(
        cls,
        path: Path,
        pictures: Sequence[LabelledPicture],
        labels: LabelSet,
        threads: int | None,
        step: Callable[[int], None],
    ) -> _Original:
        recognizer = Recognizer(path, labels, device="cpu", threads=threads)

        def ask(index: int) -> tuple[ImageEmbeds, Floats]:
            seen = recognizer.see(pictures[index].path)
            return seen, recognizer.evidence(seen).log_probs

        found, _ = ask_all(ask, range(len(pictures)), pictures, step)
        return cls(
            recognizer.bundle,
            [pictures[index] for index, _ in found],
            [seen for _, (seen, _) in found],
            np.stack([scores for _, (_, scores) in found]),
        )

    def scores_of(self, path: Path, labels: LabelSet, threads: int | None) -> Floats:
        """[N, C] of another bundle for the same pictures."""
        recognizer = Recognizer(path, labels, device="cpu", threads=threads)
        if _digests(recognizer.bundle) == _digests(self.bundle):
            return np.stack([recognizer.evidence(seen).log_probs for seen in self.embeds])
        return np.stack([recognizer.evidence(picture.path).log_probs for picture in self.pictures])


def _digests(bundle: Bundle) -> list[str]:
    """Of the vision graph and its weights."""
    files = bundle.manifest["files"]
    return [files[name]["sha256"] for name in _VISION if name in files]


@dataclass(frozen=True, slots=True)
class Kept:
    """Units to keep at a higher precision.

    Attributes:
        units: the most sensitive ones, so many.
        drop: of the accuracy with them kept.
        within: whether it is within the bound; where it is not, no number of units is.
        tried: number kept and the drop then, in the order tried.
    """

    units: tuple[str, ...]
    drop: float
    within: bool
    tried: tuple[tuple[int, float], ...]


def keep_until(bound: float, ranking: Sequence[str], accuracy_drop: Callable[[tuple[str, ...]], float]) -> Kept:
    """Keep as few of the most sensitive units as hold the bound, by bisection on their number.

    Keeping more is taken to lose no more; where chance breaks that, the answer still holds the bound, and one unit
    fewer was seen to break it.

    Args:
        bound: largest drop of top-1 allowed, 0..1.
        ranking: units, the most sensitive first.
        accuracy_drop: builds with these units kept, and measures; called at most 2 + log2(len(ranking)) times (rounded
            up).
    """
    tried: dict[int, float] = {}

    def holds(count: int) -> bool:
        if count not in tried:
            tried[count] = accuracy_drop(tuple(ranking[:count]))
        return tried[count] <= bound + _ROUNDING

    too_few, enough = 0, len(ranking)
    if holds(0):
        enough = 0
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if holds(middle) else (middle, enough)
    within = holds(enough)
    return Kept(tuple(ranking[:enough]), tried[enough], within, tuple(tried.items()))


def with_kept(ranking: Sequence[Sensitivity], kept: Mapping[str, str]) -> list[Sensitivity]:
    """The ranking with the scheme that each kept unit got."""
    return [{**row, "kept": kept.get(row["unit"])} for row in ranking]
