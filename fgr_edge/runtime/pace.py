"""How long a decoder call of so many tokens takes, measured as it goes: how much a guess may cost.

In: seconds of calls, guesses that held. Out: whether a draft should grow. It decides how fast a text is written, never
what is written.
"""

from __future__ import annotations

ROWS = (2, 4, 6, 8, 12, 16, 24, 32)
"""Tokens of a call: few shapes, so that calls stay bound. Even: engines compute rows in pairs, and a row without one by
another kernel, whose last bits differ; so the bits of a text do not depend on what was guessed."""

_WARM_UP = 2  # calls of each size that are not counted: the first binds buffers
_FASTER, _SLOWER = 0.3, 0.03  # weight of a call in the mean: what else the machine did is not the call's cost
_OUTLIER = 3.0  # times the mean, at most
_ROW_SHARE = 0.03  # of a call of one token, that a row more takes: assumed until it is measured


class Pace:
    """Seconds of a call by its rows, and the share of the guesses that hold."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._calls: dict[int, int] = {}
        self._expected = self._held = 1.0

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

    def guessed(self, expected: float, held: int) -> None:
        """Of guesses whose probabilities add up to `expected`, so many held."""
        self._expected, self._held = 0.99 * self._expected + expected, 0.99 * self._held + held

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

    def grows(self, tokens: int, expected: float, share: float) -> bool:
        """Whether one more guess is worth its time.

        Args:
            tokens: guesses so far.
            expected: sum of their probabilities.
            share: the next one's probability; those after it have no more.
        """
        rows = tokens + 1
        if rows not in ROWS:
            return rows < ROWS[-1]  # the call is padded to the next size in any case
        larger = next((size for size in ROWS if size > rows), None)
        if larger is None:
            return False
        hold = self._held / self._expected
        now, then = 1 + hold * expected, 1 + hold * (expected + (larger - rows) * share)
        return then * self.seconds(rows) > now * self.seconds(larger)


def padded(rows: int) -> int:
    """The size of the call that so many rows are padded to."""
    return next(size for size in ROWS if size >= rows)
