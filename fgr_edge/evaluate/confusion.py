"""Which classes are taken for which, in an order that puts the confused ones side by side.

In: pairs of the right class and the class answered (None: no class was named). Out: counts, the most confused pairs,
and an order of the classes worth drawing. Knows no pictures and draws nothing (`confusion_picture` does).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.labels import LabelSet

Floats = npt.NDArray[np.float64]
CLUSTER_AFFINITY = (
    0.1  # two clusters count as one while a tenth of their photographs, on average, are taken for the other's
)


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often photographs of one class were answered with another.

    Attributes:
        names: of the classes.
        counts: [C, C + 1] int64, at [right class, answered class]; the last column is for answers that name no class.
        parents: the nearest level above each class; None where there is none.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    parents: tuple[str | None, ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int | None]], labels: LabelSet) -> Confusion:
        """Count pairs of (right class, answered class)."""
        counts = np.zeros((len(labels), len(labels) + 1), np.int64)
        for truth, answer in pairs:
            counts[truth, len(labels) if answer is None else answer] += 1
        parents = (labels.ancestors(index)[:1] for index in range(len(labels)))
        return cls(labels.names, counts, tuple(above[0] if above else None for above in parents))


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """`count` of the `of` photographs of class `truth` were answered with class `answer` (None: with no class)."""

    truth: int
    answer: int | None
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Classes in drawing order; `blocks` are (first place, places, name) of neighbours that belong together.

    Attributes:
        order: indices of the classes drawn.
        blocks: classes of one parent, named after it; without parents, classes that are taken for each other, unnamed.
        left_out: classes that have photographs and are not drawn, being less confused than the rest.
    """

    order: tuple[int, ...]
    blocks: tuple[tuple[int, int, str | None], ...]
    left_out: int


def confused_pairs(confusion: Confusion) -> list[ConfusedPair]:
    """Every pair that was confused at least once, the most often confused first, then the larger share."""
    counts, classes = confusion.counts, len(confusion.names)
    totals = counts.sum(axis=1)
    pairs = [
        ConfusedPair(int(t), int(a) if a < classes else None, int(counts[t, a]), int(totals[t]))
        for t, a in np.argwhere(counts)
        if t != a
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.of, pair.truth))


def arrange(confusion: Confusion, at_most: int) -> Arrangement:
    """Choose and order the classes to draw: those with photographs or answers, at most so many, the most confused."""
    square = confusion.counts[:, :-1]
    seen = np.flatnonzero(confusion.counts.sum(axis=1) + square.sum(axis=0))
    mistakes = confusion.counts.sum(axis=1) + square.sum(axis=0) - 2 * square.diagonal()
    kept = np.sort(seen[np.argsort(-mistakes[seen], kind="stable")][:at_most])
    left_out = int((confusion.counts.sum(axis=1)[np.setdiff1d(seen, kept)] > 0).sum())
    near = affinity(square[np.ix_(kept, kept)])
    parents = [confusion.parents[index] for index in kept]
    if any(parents):
        places, blocks = _by_parent(near, parents)
    else:
        groups = clusters(near, CLUSTER_AFFINITY)
        places = [place for group in groups for place in group]
        blocks = _blocks(groups, [None] * len(groups))
    return Arrangement(tuple(int(kept[place]) for place in places), blocks, left_out)


def affinity(counts: npt.NDArray[np.int64]) -> Floats:
    """[C, C] how much two classes are taken for each other: the shares of both directions added, 0..2."""
    totals = np.maximum(counts.sum(axis=1), 1)
    shares = counts / totals[:, None]
    near: Floats = shares + shares.T
    np.fill_diagonal(near, 0.0)
    return near


def clusters(near: Floats, least: float) -> list[list[int]]:
    """Group by average linkage while the mean affinity is above `least`; neighbours inside a group are the nearest.

    The groups themselves are ordered in the same way, down to no affinity at all.
    """
    groups = _linked([[index] for index in range(len(near))], near, least)
    between = np.array([[near[np.ix_(a, b)].mean() if a is not b else 0.0 for b in groups] for a in groups])
    order = [place for chain in _linked([[place] for place in range(len(groups))], between, 0.0) for place in chain]
    return [groups[place] for place in order]


def _linked(groups: list[list[int]], near: Floats, least: float) -> list[list[int]]:
    """Merge the two nearest groups until none is nearer than `least`, nearest ends together."""
    if not groups:
        return []
    link = near.copy()  # mean affinity between groups; a merged group keeps the place of its first
    alive = np.ones(len(groups), bool)
    while True:
        masked = np.where(np.outer(alive, alive), link, -1.0)
        a, b = sorted(int(i) for i in np.unravel_index(masked.argmax(), masked.shape))
        if a == b or masked[a, b] <= least:
            return [group for group, keep in zip(groups, alive, strict=True) if keep]
        sizes = len(groups[a]), len(groups[b])
        groups[a] = _joined(groups[a], groups[b], near)
        mean = (link[a] * sizes[0] + link[b] * sizes[1]) / sum(sizes)
        link[a], link[:, a] = mean, mean
        link[a, a] = 0.0
        alive[b] = False


def _joined(a: list[int], b: list[int], near: Floats) -> list[int]:
    """Two chains end to end, turned so that the ends that touch are the nearest."""
    ways = [x + y for x in (a, a[::-1]) for y in (b, b[::-1])]
    return max(ways, key=lambda chain: near[chain[len(a) - 1], chain[len(a)]])


def _by_parent(
    near: Floats, parents: Sequence[str | None]
) -> tuple[list[int], tuple[tuple[int, int, str | None], ...]]:
    """Classes of one parent together; parents, and classes inside one, ordered by how much they are confused."""
    members: dict[str, list[int]] = {}
    for place, parent in enumerate(parents):
        # A class without a parent is a group of its own.
        members.setdefault(f"={parent}" if parent is not None else f"#{place}", []).append(place)
    inside = []
    for places in members.values():
        part = clusters(near[np.ix_(places, places)], 0.0)
        inside.append([places[p] for chain in part for p in chain])
    between = np.array([[near[np.ix_(a, b)].mean() if a is not b else 0.0 for b in inside] for a in inside])
    order = [g for chain in clusters(between, 0.0) for g in chain]
    groups = [inside[g] for g in order]
    blocks = _blocks(groups, [parents[group[0]] for group in groups])
    return [place for group in groups for place in group], blocks


def _blocks(groups: Sequence[Sequence[int]], names: Sequence[str | None]) -> tuple[tuple[int, int, str | None], ...]:
    sizes = Counter({number: len(group) for number, group in enumerate(groups)})
    starts = np.cumsum([0, *(sizes[number] for number in range(len(groups)))])
    return tuple(
        (int(starts[number]), sizes[number], names[number]) for number in range(len(groups)) if sizes[number] > 1
    )
