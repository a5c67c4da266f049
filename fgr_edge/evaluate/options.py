"""The four options of a closed-world question, in an order that a seed decides.

In: a photograph's own options, where its source has them, or class names to draw from. Out: four names, shuffled. In
Fine-R1's released records the right option is always the first, so nothing here is ever asked in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import DataError
from fgr_edge.runtime.labels import LabelSet

OPTIONS = 4


@dataclass(frozen=True, slots=True)
class FourOptions:
    """Names in the order in which they are asked, and the place of the right one, 0..3."""

    names: tuple[str, ...]
    position: int


def four_options(
    picture: LabelledPicture, truth: int | None, labels: LabelSet, rng: np.random.Generator
) -> FourOptions:
    """The picture's own options, or its class and three others: siblings first, then any; always shuffled.

    Args:
        truth: index of the picture's class in `labels`; only needed where the picture has no options of its own.
        labels: classes to draw from.
        rng: decides distractors and order.

    Raises:
        DataError: the picture's own options are not four, or there are fewer than four classes.
    """
    if picture.options:
        if len(picture.options) != OPTIONS:
            raise DataError(f"{picture.path} has {len(picture.options)} options; closed-4 expects {OPTIONS}")
        names = list(picture.options)
        right = picture.label
    else:
        if truth is None or len(labels) < OPTIONS:
            raise DataError(f"closed-4 draws {OPTIONS} options and there are {len(labels)} classes; name more labels")
        names = [labels.names[index] for index in (truth, *_distractors(truth, labels, rng))]
        right = labels.names[truth]
    shuffled = tuple(names[place] for place in rng.permutation(OPTIONS))
    return FourOptions(shuffled, shuffled.index(right))


def _distractors(truth: int, labels: LabelSet, rng: np.random.Generator) -> list[int]:
    """Three other classes: of the nearest ancestor that has any, then of the next, then of all."""
    chosen: list[int] = []
    circles = [labels.groups[name] for name in labels.ancestors(truth)]
    for circle in (*circles, range(len(labels))):
        near = [index for index in circle if index != truth and index not in chosen]
        wanted = min(OPTIONS - 1 - len(chosen), len(near))
        chosen += [near[place] for place in rng.permutation(len(near))[:wanted]]
    return chosen
