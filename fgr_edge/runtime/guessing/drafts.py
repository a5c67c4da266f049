"""Guesses at how a text goes on, as a tree of tokens: what speculative decoding lets the model check at once.

In: the text so far, token by token, and what the model wrote before. Out: the tokens that it may write next, the
likeliest first, each below the one it follows. Knows tokens; no model, no cache. A wrong guess costs time, never
correctness.

A token's probability interpolates the counts of all contexts that were seen before, the longest first, after Witten
and Bell (1991): a context that was seen often, and had few successors, is believed, else the next shorter one is asked.
Two tables are counted together: all earlier texts, and this one with its prompt, which weighs more.

Small models take no longer for a token than a few hundred lines of Python, so a guess must cost nearly nothing: what
earlier texts say after a context is remembered, and this text is asked only where it has the context, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from fgr_edge.runtime.guessing.ngrams import LENGTHS, ORDER, NgramTable

OWN_WEIGHT = 2  # of a count in the text itself, against one in an earlier text
DOUBT = 1.0  # of each successor that a context had, in counts
BRANCHES = 4  # of a node at most
SETTLED = 0.05
SURE = 4  # times that one token alone was seen: shorter contexts are not asked
AGREES = 0.6  # of the probability that would be left to them: what they say is mostly the same
CROWDED = 64  # successors: a context that had more says nothing worth its time
LEAST_SHARE = 0.01  # probability of a guess that is worth a row
REMEMBERED = 1 << 14  # contexts whose successors are remembered

Context = tuple[int, ...]
Successors = Sequence[tuple[int, float]]
"""Tokens and their probabilities, the likeliest first."""


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

    def trunk_first(self, count: int) -> Draft:
        """The first `count` guesses, the likeliest branch before all others.

        Tokens that are kept stand in the cache already where they belong if they are the first ones.
        """
        parents = self.parents[:count]
        heirs = dict(zip(reversed(parents), range(len(parents) - 1, -1, -1), strict=True))  # the first child of each
        order, place = [], heirs.get(-1)
        while place is not None:
            order.append(place)
            place = heirs.get(place)
        if len(order) == len(parents):
            return Draft([self.tokens[i] for i in order], list(range(-1, len(order) - 1)), self.shares[:count])
        trunk = set(order)
        order += [place for place in range(len(parents)) if place not in trunk]
        moved = dict(zip(order, range(len(order)), strict=True))
        moved[-1] = -1
        return Draft(
            [self.tokens[i] for i in order], [moved[parents[i]] for i in order], [self.shares[i] for i in order]
        )


class Drafter:
    """Guesses from earlier texts and the text so far.

    Args:
        known: makes the table of earlier texts, when the first text begins; texts that are finished are added to it.
        branches: of a node at most; 1 drafts chains.
    """

    def __init__(self, known: Callable[[], NgramTable], *, branches: int = BRANCHES) -> None:
        self._known = known
        self._table = NgramTable()
        self._begun = False
        self._branches = branches
        self._after: dict[int, Successors] = {}  # by the key of the longest context that earlier texts know
        self._prompt: list[int] = []  # of the last text, counted: a camera asks the same of every picture
        self._prompted = NgramTable()
        self._own = NgramTable()
        self._text: list[int] = []
        self._start = 0

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text, after a prompt; what is not finished is forgotten."""
        if not self._begun:
            self._table, self._begun = self._known(), True
            self._table.changed.clear()
        if prompt != self._prompt:
            self._prompt, self._prompted = list(prompt), NgramTable()
            self._prompted.add(self._prompt)
        self._own = NgramTable()
        self._text = list(prompt)
        self._start = len(self._text)

    def take(self, token: int, *, guessed: bool = False) -> None:
        """The text has gone on; what was guessed is known already, and not counted for this text."""
        text = self._text
        if not guessed and text:
            self._own.count(tuple(text[-ORDER:]), token)
        text.append(token)

    def finish(self) -> float:
        """The text has ended; later texts learn from it. Returns how much of it earlier texts knew."""
        known = self._table.add(self._text, self._start) / max(1, len(self._text) - self._start)
        self._start = len(self._text)
        for key in self._table.changed:
            self._after.pop(key, None)
        self._table.changed.clear()
        if len(self._after) > REMEMBERED:
            self._after.clear()
        return known

    def forget(self) -> None:
        """Know what was known before the first text, and no more."""
        self._table = self._known()
        self._table.changed.clear()
        self._after.clear()

    def draft(self, most: int, worth: Sequence[float] = ()) -> Draft:
        """Guess at most `most` tokens.

        Args:
            worth: the least probability with which each further guess is worth its time; [] takes all.
        """
        found, text = Draft(), tuple(self._text[-ORDER:])
        tokens, parents, shares = found.tokens, found.parents, found.shares
        queue: list[tuple[float, int, int, int, Context]] = []  # -share, order, place, token, text before it
        likely, order, place, share = self._likely, 0, -1, 1.0
        while len(tokens) < most:
            for token, part in likely(text):
                if share * part < LEAST_SHARE:
                    break
                order += 1  # of equal shares the one found first
                heappush(queue, (-share * part, order, place, token, text))
            if not queue:
                break
            less, _, parent, token, before = heappop(queue)
            share, place = -less, len(tokens)
            if worth and share < worth[place]:
                break
            tokens.append(token)
            parents.append(parent)
            shares.append(share)
            text = (*before[1 - ORDER :], token)
        return found

    def _likely(self, text: Context) -> Successors:
        """The likeliest successors of a text: who knows the longest context is asked."""
        for place, length in enumerate(LENGTHS):
            if length > len(text):
                continue
            key = hash(text[-length:])
            if key in self._own.contexts or key in self._prompted.contexts:
                return self._interpolated(text, (self._prompted, self._own))
            found = self._after.get(key)
            if found is not None:
                return found
            if key in self._table.contexts:
                return self._learned_after(text, place)
        return ()

    def _learned_after(self, text: Context, place: int) -> Successors:
        """As earlier texts say, after contexts of LENGTHS[place:]."""
        remembered, contexts = self._after, self._table.contexts
        for at in range(place, len(LENGTHS)):
            if LENGTHS[at] > len(text):
                continue
            key = hash(text[-LENGTHS[at] :])
            found = remembered.get(key)
            if found is not None:
                return found
            if key in contexts:
                break
        else:
            return ()
        only = self._table.only_after(key)
        if only is not None:
            token, count = only
            share = count / (count + DOUBT)
            shorter: Successors = ()
            if count >= SURE:
                share += AGREES * (1 - share)
            else:
                shorter = self._learned_after(text, at + 1)
            found = _agreed(token, share, shorter)[: self._branches] if shorter else ((token, share),)
        else:
            counts = self._table.after(key)
            total = sum(counts.values())
            part = 0.0 if len(counts) > CROWDED else 1 / (total + DOUBT * len(counts))
            left = 1 - part * total
            shares = {token: part * count for token, count in counts.items()}
            for token, share in self._learned_after(text, at + 1) if left >= SETTLED else ():
                shares[token] = shares.get(token, 0.0) + left * share
            found = self._likeliest(shares)
        remembered[key] = found
        return found

    def _interpolated(self, text: Context, own: Sequence[NgramTable]) -> Successors:
        """Successors of a text by what earlier texts and `own` say together."""
        shares: dict[int, float] = {}
        left = 1.0
        for length in LENGTHS:
            if length > len(text):
                continue
            key = hash(text[-length:])
            counts = self._table.after(key)
            for table in own:
                counts = _together(counts, table.after(key))
            if not counts or len(counts) > CROWDED:
                continue
            total = sum(counts.values())
            part = left / (total + DOUBT * len(counts))
            for token, count in counts.items():
                shares[token] = shares.get(token, 0.0) + part * count
            left -= part * total
            if left < SETTLED:
                break
        return self._likeliest(shares)

    def _likeliest(self, shares: Mapping[int, float]) -> Successors:
        if len(shares) > 1:
            return sorted(shares.items(), key=_share, reverse=True)[: self._branches]
        return tuple(shares.items())


def _together(before: Mapping[int, int], own: Mapping[int, int]) -> Mapping[int, int]:
    """Counts of earlier texts and of this one."""
    if not own:
        return before
    counts = dict(before)
    for token, count in own.items():
        counts[token] = counts.get(token, 0) + OWN_WEIGHT * count
    return counts


def _agreed(token: int, share: float, shorter: Successors) -> Successors:
    """Of a context that had one successor, and those after a shorter one: most agree."""
    left = 1 - share
    others = [(other, left * part) for other, part in shorter if other != token and left * part >= LEAST_SHARE]
    if len(others) < len(shorter):
        share += left * dict(shorter).get(token, 0.0)
    return ((token, share), *others)


def _share(row: tuple[int, float]) -> float:
    return row[1]
