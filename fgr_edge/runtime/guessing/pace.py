"""How long a decoder call of so many tokens takes, measured as it goes: how many guesses are worth their time.

In: seconds of calls, guesses that held, seconds that tokens took with guesses and without. Out: how unlikely a guess
may be, how many rows a call gets, and whether to guess at all. It decides how fast a text is written, never what.

A guess is worth its row if its probability times what a token takes on average is more than what the row takes
(the rule of the best rate; Charnov, 1976). Whether guessing pays is not computed but measured, everything included: the
time since the last call, however it was spent, against that of a token written plainly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

ROWS = (2, 4, 6, 8, 12, 16, 24, 32)
"""Tokens of a call: few shapes, so that calls stay bound. Even: engines compute rows in pairs, and a row without one by
another kernel, whose last bits differ; so the bits of a text do not depend on what was guessed."""

_WARM_UP = 2  # calls of each size that are not counted: the first binds buffers
_FASTER, _SLOWER = 0.3, 0.03  # weight of a call in the mean: what else the machine did is not the call's cost
_OUTLIER = 3.0  # times the mean, at most
_ROW_SHARE = 0.1  # of a call of one token, that a row more takes: assumed until it is measured
_DRAFT_S = 5e-6  # to guess one token: until it is measured
_KEPT = 0.98  # of a mean, at each call
_FAITH = 0.05  # guesses that are taken to have held, at each call: where none are made any more, they are tried again


class Pace:
    """Seconds of a call by its rows, the share of the guesses that hold, and what a token takes with them.

    Attributes:
        worth: [ROWS[-1]], the least probability with which each guess of a draft is worth its row; see `reckon`.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._calls: dict[int, int] = {}
        self._expected = self._held = _FAITH / (1 - _KEPT)
        self._spent = self._written = 0.0  # seconds, tokens
        self._draft = _DRAFT_S  # a row
        self.worth: list[float] = []
        self._costs: Sequence[float] = ()
        self.reckon()

    def add(self, rows: int, seconds: float) -> None:
        """A call took so long."""
        calls = self._calls[rows] = self._calls.get(rows, 0) + 1
        if calls <= _WARM_UP:
            return
        mean = self._seconds.get(rows)
        if mean is None:
            self._seconds[rows] = seconds
        else:
            weight = _FASTER if seconds < mean else _SLOWER
            self._seconds[rows] = mean + weight * (min(seconds, _OUTLIER * mean) - mean)

    def is_warm(self, rows: int) -> bool:
        """Whether a call of this size takes what it will take."""
        return self._calls.get(rows, 0) > _WARM_UP

    def guessed(self, expected: float, held: int) -> None:
        """Of guesses whose probabilities add up to `expected`, so many held."""
        self._expected = _KEPT * self._expected + expected + _FAITH
        self._held = _KEPT * self._held + held + _FAITH

    def wrote(self, tokens: int, seconds: float) -> None:
        """With a call and its guesses, so many tokens were written."""
        self._written = _KEPT * self._written + tokens
        self._spent = _KEPT * self._spent + seconds

    def drafted(self, rows: int, seconds: float) -> None:
        """Guesses for so many rows took so long to make."""
        share = seconds / rows
        self._draft += (_FASTER if share < self._draft else _SLOWER) * (
            min(share, _OUTLIER * self._draft) - self._draft
        )

    def seconds(self, rows: int) -> float:
        """Of a call; where it was not measured, from the nearest that was.

        No more than a larger call, nor than smaller ones of as many rows: else a size whose first calls were disturbed
        would never be tried again.
        """
        if not self._seconds:
            return 1 + _ROW_SHARE * (rows - 1)
        near = min(self._seconds, key=lambda measured: abs(measured - rows))
        guess = self._seconds[near] * (1 + _ROW_SHARE * (rows - 1)) / (1 + _ROW_SHARE * (near - 1))
        return min(guess, *(taken * max(1.0, rows / size) for size, taken in self._seconds.items()))

    def reckon(self) -> None:
        """Take in what was measured since: `worth` and `rows` go by what was known then."""
        sizes = (1, *ROWS)
        draft = self._draft if self._seconds else 0.0
        costs = [self.seconds(rows) + (rows - 1) * draft for rows in sizes]
        token = min(self._spent / self._written, costs[0]) if self._written else costs[0]
        token *= self._held / self._expected
        self.worth = worth = [0.0] * ROWS[-1]  # a call is padded to its size in any case
        for place, (before, now) in enumerate(zip(sizes, costs, strict=True)):
            larger = zip(sizes[place + 1 :], costs[place + 1 :], strict=True)
            slopes = [(cost - now) / (size - before) for size, cost in larger]
            worth[before - 1] = max(0.0, min(slopes)) / token if slopes else 1.0
        self._costs = [cost / token for cost in costs]

    def rows(self, shares: Sequence[float]) -> int:
        """Rows of the call that is worth most, for guesses of these probabilities, the likeliest first; 1 for none."""
        best, rows, counted, expected = -self._costs[0], 1, 0, 0.0
        for size, cost in zip(ROWS, self._costs[1:], strict=True):
            if counted >= len(shares):
                break
            expected += sum(shares[counted : size - 1])
            counted = size - 1
            if expected - cost > best:
                best, rows = expected - cost, size
        return rows


class Profit:
    """Whether guessing pays: seconds are added up, against what as many tokens take without guesses.

    What was gained is credit for later losses, within bounds. When it is used up, tokens are written plainly for a
    while, longer each time, and then guessing is tried again.

    Attributes:
        rest: tokens that are still to be written plainly.
    """

    def __init__(self) -> None:
        self.rest = 0
        self._plainly: deque[float] = deque(maxlen=_MEASURED)  # seconds of the last tokens without guesses
        self._token = 0.0  # what most of them took at least: what gains less than their spread is no gain
        self._balance = _FIRST_CREDIT
        self._next_rest = _SHORTEST_REST
        self._fresh = self._unmeasured = 0  # tokens measured in this rest, written since
        self._next_measure = _SHORTEST_UNMEASURED
        self._known = self._known_then = 0.0  # share of texts that earlier ones knew: now, when the rest began

    def begin(self) -> None:
        """A text begins: the time to measure, where it was long ago, what its tokens take plainly."""
        if not self.rest and self._unmeasured >= self._next_measure:
            self.rest, self._fresh = _FEWEST, 0
            self._plainly.clear()
            self._next_measure = min(4 * self._next_measure, _LONGEST_UNMEASURED)

    @property
    def is_measured(self) -> bool:
        """Whether it is known what a plain token takes now."""
        return self._fresh >= _MEASURED

    def rests(self, tokens: int) -> bool:
        """Whether so many tokens are to be written plainly because guesses did not pay."""
        if not self.rest:
            return False
        self.rest = max(0, self.rest - tokens)
        return True

    def plain(self, seconds: float) -> None:
        """A token written plainly took so long."""
        self._plainly.append(seconds)
        self._token, self._unmeasured = 0.0, 0
        self._fresh += 1

    def guessed(self, tokens: int, seconds: float, again: int = 0) -> None:
        """So many tokens were written with a call, and `again` computed once more."""
        self._unmeasured += tokens
        if len(self._plainly) < _FEWEST:
            return
        if not self._token:
            self._token = sorted(self._plainly)[len(self._plainly) // 4]
        gain = tokens - min(seconds / self._token, tokens + again + _LARGEST_LOSS)
        self._balance = min(self._balance + gain, _MOST_CREDIT)
        if self._balance >= _MOST_CREDIT:
            self._next_rest = _SHORTEST_REST
        if self._balance <= 0:
            self.rest, self._balance, self._fresh = self._next_rest, _NEXT_CREDIT, 0
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
            self._known_then = self._known

    def learned(self, known: float) -> None:
        """A text has ended of which earlier ones knew so much: where that has grown, guessing is tried sooner."""
        self._known += _TEXT_WEIGHT * (known - self._known)
        if self.rest and self._known > self._known_then + _MORE:
            self.rest, self._next_rest = 0, _SHORTEST_REST


_FIRST_CREDIT, _NEXT_CREDIT, _MOST_CREDIT = 12.0, 4.0, 96.0  # tokens
_SHORTEST_REST, _LONGEST_REST = 64, 4096  # tokens
_LARGEST_LOSS = 4.0  # tokens, of one call: what else the machine did is not the guesses' cost
_MEASURED, _FEWEST = 24, 12  # tokens written plainly that are remembered, that tell something
_TEXT_WEIGHT, _MORE = 0.3, 0.15  # of a text in the mean; growth of it
_SHORTEST_UNMEASURED, _LONGEST_UNMEASURED = 24, 4096  # tokens: the first measurement is of a process just begun


def padded(rows: int) -> int:
    """The size of the call that so many rows are padded to."""
    return next(size for size in ROWS if size >= rows)
