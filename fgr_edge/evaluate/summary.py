"""From outcomes of single photographs to the measures of a protocol.

In: outcomes of one protocol, the classes. Out: measures by name, each a share with its 95 % interval or a plain number;
right answers of every class. A measure that does not apply is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict, cast

import numpy as np

from fgr_edge.evaluate.metrics import SMALLEST, expected_calibration_error, wilson_interval
from fgr_edge.evaluate.options import OPTIONS
from fgr_edge.evaluate.protocols import Choice, FreeAnswer, Outcome, Ranking
from fgr_edge.runtime.labels import LabelSet


class Share(TypedDict):
    """`right` of `count`; `low` and `high` bound the share at 95 % (Wilson). Shares are 0..1."""

    right: int
    count: int
    share: float
    low: float
    high: float


Measures = dict[str, Share | float | None]


class ClassShare(TypedDict):
    """Right answers among the photographs of one class."""

    label: str
    parent: str | None
    right: int
    count: int
    share: float


def share(flags: Iterable[bool]) -> Share | None:
    """Share of true flags; None of no flags."""
    values = list(flags)
    if not values:
        return None
    right = sum(values)
    low, high = wilson_interval(right, len(values))
    return {"right": right, "count": len(values), "share": right / len(values), "low": low, "high": high}


def measures(outcomes: Sequence[Outcome], labels: LabelSet) -> Measures:
    """The measures of the outcomes' protocol, the headline first."""
    if isinstance(outcomes[0], Choice):
        return _of_choices(cast(Sequence[Choice], outcomes))
    if isinstance(outcomes[0], Ranking):
        return _of_rankings(cast(Sequence[Ranking], outcomes), labels)
    return _of_free_answers(cast(Sequence[FreeAnswer], outcomes))


def per_class(outcomes: Sequence[Outcome], labels: LabelSet, classes: Sequence[int]) -> list[ClassShare]:
    """Shares of the classes that have photographs, in the order of the labels; `classes` are the outcomes' own."""
    found: dict[int, list[bool]] = {}
    for outcome, index in zip(outcomes, classes, strict=True):
        found.setdefault(index, []).append(outcome.right)
    return [
        {
            "label": labels.names[index],
            "parent": labels.ancestors(index)[0] if labels.ancestors(index) else None,
            "right": sum(found[index]),
            "count": len(found[index]),
            "share": sum(found[index]) / len(found[index]),
        }
        for index in sorted(found)
    ]


def _of_choices(outcomes: Sequence[Choice]) -> Measures:
    result: Measures = {
        "exact_match": share(o.right for o in outcomes),
        "substring_match": share(o.substring for o in outcomes),
        "substring_match_only": share(o.substring and not o.right for o in outcomes),
        "answered_with_an_option": share(o.answer is not None for o in outcomes),
        "label_scores": share(o.scored == o.truth for o in outcomes),
    }
    for name, right in _CHOICE_POSITIONS.items():
        for position in range(OPTIONS):
            result[f"{name}_right_option_{position + 1}"] = share(right(o) for o in outcomes if o.position == position)
    return result


_CHOICE_POSITIONS: Mapping[str, Callable[[Choice], bool]] = {
    "exact_match": lambda o: o.right,
    "label_scores": lambda o: o.scored == o.truth,
}


def _of_rankings(outcomes: Sequence[Ranking], labels: LabelSet) -> Measures:
    result: Measures = {"top_1": share(o.right for o in outcomes), "top_5": share(o.rank <= 5 for o in outcomes)}
    result["coarse_top_1"] = share(_same_parent(outcomes, labels)) if labels.groups else None
    result["mean_per_class"] = _mean_per_class(outcomes)
    result["ece"] = _ece([(o.probability, o.right) for o in outcomes])
    result["nll"] = _nll([o.truth_probability for o in outcomes])
    adjusted = [(o.calibrated, o.calibrated_right) for o in outcomes if o.calibrated is not None]
    result["calibrated_top_1"] = share(bool(right) for _, right in adjusted)
    result["calibrated_ece"] = _ece([(p, bool(right)) for (p, _), right in adjusted])
    result["calibrated_nll"] = _nll([p for (_, p), _ in adjusted])
    return result


def _of_free_answers(outcomes: Sequence[FreeAnswer]) -> Measures:
    near = [o.similarity for o in outcomes if o.similarity is not None]
    return {
        "text_inclusion": share(o.right for o in outcomes),
        "exact_match": share(o.exact for o in outcomes),
        "answered_with_a_class": share(o.answer is not None for o in outcomes),
        "relative_similarity": float(np.mean(near)) if near else None,
    }


def _same_parent(outcomes: Sequence[Ranking], labels: LabelSet) -> list[bool]:
    """Whether answer and truth lie under one parent; a class without one is its own."""
    above = {name: (labels.ancestors(index) or (name,))[0] for index, name in enumerate(labels.names)}
    return [above[o.answer] == above[o.truth] for o in outcomes]


def _mean_per_class(outcomes: Sequence[Ranking]) -> float:
    found: dict[str, list[bool]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.truth, []).append(outcome.right)
    return float(np.mean([np.mean(right) for right in found.values()]))


def _ece(pairs: Sequence[tuple[float, bool]]) -> float | None:
    if not pairs:
        return None
    confidences, correct = zip(*pairs, strict=True)
    return float(expected_calibration_error(np.array(confidences, np.float64), np.array(correct, np.bool_)))


def _nll(given: Sequence[float]) -> float | None:
    return float(-np.log(np.maximum(given, SMALLEST)).mean()) if given else None
