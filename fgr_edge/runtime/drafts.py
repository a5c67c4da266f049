"""Guesses at how a text goes on, as a tree of tokens: what speculative decoding lets the model check at once.

In: the text so far, token by token, and what the model wrote before. Out: the tokens that it may write next, the
likeliest first, each below the one it follows. Knows tokens; no model, no cache. A wrong guess costs time, never
correctness.

A token's probability interpolates the counts of all contexts that were seen before, the longest first, after Witten
and Bell (1991): a context that was seen often, and had few successors, is believed, else the next shorter one is asked.
Two tables are counted together: all earlier texts, and this one with its prompt, which weighs more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fgr_edge.runtime.ngrams import ORDER, NgramTable, context_keys

OWN_WEIGHT = 2  # of a count in the text itself, against one in an earlier text
DOUBT = 1.0  # of each successor that a context had, in counts
BRANCHES = 4  # of a node at most
LONGEST = 32  # tokens of a branch
SETTLED = 0.05  # of the probability left to shorter contexts: they are not asked
CROWDED = 64  # successors: a context that had more says nothing worth its time
LEAST_SHARE = 0.01  # probability of a guess that is worth a row

Grow = Callable[[int, float, float], bool]
"""Whether a draft of so many tokens, which are expected to save so many steps, should grow by one of a probability."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A tree of guesses.

    Attributes:
        tokens: [N], parents before their children, the likeliest first.
        parents: [N], the place of the token that each follows; -1 for the end of the text.
        shares: [N], probability that each is written, all those above it included.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def is_chain(self) -> bool:
        """Whether each token follows the one before it."""
        return all(parent == place - 1 for place, parent in enumerate(self.parents))


class Drafter:
    """Guesses from earlier texts and the text so far.

    Args:
        known: makes the table of earlier texts, when the first text begins; texts that are finished are added to it.
        branches: of a node at most; 1 drafts chains.
    """

    def __init__(self, known: Callable[[], NgramTable], *, branches: int = BRANCHES) -> None:
        self._known = known
        self._table: NgramTable | None = None
        self._branches = branches
        self._prompt: list[int] = []  # of the last text, counted: a camera asks the same of every picture
        self._prompted = NgramTable()
        self._own = NgramTable()
        self._text: list[int] = []
        self._start = 0

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text, after a prompt; what is not finished is forgotten."""
        if self._table is None:
            self._table = self._known()
        if prompt != self._prompt:
            self._prompt, self._prompted = list(prompt), NgramTable()
            self._prompted.add(self._prompt)
        self._own = self._prompted.copy()
        self._text = list(prompt)
        self._start = len(self._text)

    def take(self, token: int) -> None:
        """The text has gone on."""
        self._own.count(context_keys(self._text[-ORDER:]), token)
        self._text.append(token)

    def finish(self) -> None:
        """The text has ended; later texts learn from it."""
        assert self._table is not None
        self._table.add(self._text, self._start)
        self._start = len(self._text)

    def forget(self) -> None:
        """Know what was known before the first text, and no more."""
        self._table = self._known()

    def draft(self, most: int, grow: Grow | None = None) -> Draft:
        """Guess at most `most` tokens, fewer where `grow` says that more are not worth it."""
        text, found, expected = self._text[-ORDER:], Draft(), 0.0
        queue: list[tuple[float, int, int, list[int]]] = []  # -share, place, token, text before it
        order = 0

        def expand(place: int, share: float, before: list[int]) -> None:
            nonlocal order
            for token, part in self._likely(before):
                if share * part < LEAST_SHARE:
                    break
                order += 1  # of equal shares the one found first
                heapq.heappush(queue, (-share * part, order, place, [*before[-ORDER + 1 :], token]))

        expand(-1, 1.0, text)
        depths = [0]
        while queue and len(found.tokens) < most:
            share, _, parent, path = heapq.heappop(queue)
            if grow is not None and not grow(len(found.tokens), expected, -share):
                break
            found.tokens.append(path[-1])
            found.parents.append(parent)
            found.shares.append(-share)
            expected -= share
            depths.append(depths[parent + 1] + 1)
            if depths[-1] < LONGEST:
                expand(len(found.tokens) - 1, -share, path)
        return found

    def _likely(self, text: Sequence[int]) -> list[tuple[int, float]]:
        """The likeliest successors of a text and their probabilities."""
        assert self._table is not None
        before, own = self._table.after, self._own.after
        shares: dict[int, float] = {}
        left = 1.0
        for key in reversed(context_keys(text)):
            counts = _together(before(key), own(key))
            if not counts or len(counts) > CROWDED:
                continue
            total = sum(counts.values())
            part = left / (total + DOUBT * len(counts))
            for token, count in counts.items():
                shares[token] = shares.get(token, 0.0) + part * count
            left -= part * total
            if left < SETTLED:
                break
        if len(shares) <= 1:
            return list(shares.items())
        return sorted(shares.items(), key=_share, reverse=True)[: self._branches]


def _together(before: Mapping[int, int], own: Mapping[int, int]) -> Mapping[int, int]:
    """Counts of earlier texts and of this one."""
    if not own:
        return before
    counts = dict(before)
    for token, count in own.items():
        counts[token] = counts.get(token, 0) + OWN_WEIGHT * count
    return counts


def _share(row: tuple[int, float]) -> float:
    return row[1]
