"""Speculative decoding: one decoder call checks several guessed tokens; those that the model would have chosen stay.

In: tokens that a sampler chose, one at a time. Out: logits after them, as `Decoder.advance` gives them, in fewer calls.
A guess is never put in place of a choice: the sampler sees the logits of every token and chooses as without guesses,
greedy, penalized or drawn; a choice that was guessed has its logits already. Knows tokens and the decoder; no text.

What a call of several rows gives differs from calls of one row in the last bits (of nano's logits: 1e-5 in fp32; mostly
that in int8, too, but up to 0.1 where a last bit rounds an input to the next step). So that greedy tokens are the same:

1. The difference is measured, on the first `PROBED` tokens of the first text and whenever tokens are run again; it is
   taken to be a share of the largest logit at least.
2. A token whose lead over the others is not larger is not believed: all tokens since the last that was computed singly
   are computed again, singly, and the choice is made by what they give.

Where that happens often (long thoughts of quantized models), it costs what guesses gain; then the text goes on plainly
for a while. Without it a token may differ where two are within rounding of each other, as between two engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.decoder_call import Checked
from fgr_edge.runtime.drafts import Draft, Drafter
from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.pace import ROWS, Pace, padded
from fgr_edge.runtime.rotary import IntArray

Floats = npt.NDArray[np.float32]
Gather = Callable[[IntArray], Floats]

MOST_ROWS = ROWS[-1]  # room that a cache needs beyond the text
PROBED = 24  # tokens
COMPARED = 4  # of them, the last: their logits are kept
SAFETY = 2.0  # times the largest difference of a logit that was seen: it may be off in each of two
WATCHED = 128  # tokens after which guesses must have paid
REST = 128  # tokens that are written plainly where they have not


@dataclass(slots=True)
class SpeculationCounts:
    """What happened, since the recognizer was opened.

    Attributes:
        tokens: chosen.
        calls: of the decoder, for them.
        drafted: tokens that were guessed.
        near_ties: choices that were made again, singly.
        rounding: largest difference of a logit between a call of several rows and calls of one; 0 if not measured.
    """

    tokens: int = 0
    calls: int = 0
    drafted: int = 0
    near_ties: int = 0
    rounding: float = 0.0


@dataclass(slots=True)
class _Open:
    """A call whose guesses are being compared with choices; start: tokens in the cache before; path: rows that hold."""

    checked: Checked
    start: int
    tokens: list[int]
    children: dict[tuple[int, int], int]
    path: list[int]
    expected: float


class Speculation:
    """Writes texts with one decoder.

    Args:
        decoder: shared with whoever fills its cache.
        gather: embeds token ids.
        drafter: guesses.
        doubt_share: of the largest logit, that the difference of two may be off at least; None believes every choice.
        trees: whether drafts may be trees: the graph takes them, and the engine keeps its cache in the host's memory.

    Attributes:
        counts: what happened.
    """

    def __init__(
        self, decoder: Decoder, gather: Gather, drafter: Drafter, *, doubt_share: float | None, trees: bool = True
    ) -> None:
        self._decoder = decoder
        self._gather = gather
        self._drafter = drafter
        self._doubt_share = doubt_share
        self._doubt = 0.0  # how much a difference of two logits may be off
        self._trees = trees
        self._pace = Pace()
        self.counts = SpeculationCounts()
        self._open: _Open | None = None
        self._single = 0  # tokens in the cache that were computed singly, or with the prompt
        self._since: list[list[int]] = []  # what was appended after them
        self._probe: list[tuple[int, Floats]] | None = []  # tokens of the first text, the last ones' logits
        self._watched = (0, 0.0)  # tokens, seconds
        self._rest = 0

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text, after the prompt that the decoder has read; its tokens may recur."""
        self._open = None
        self._since = []
        self._single = self._decoder.length
        self._drafter.begin(prompt)
        if self._probe is not None:
            self._probe = []

    def end(self) -> None:
        """The text is finished: later ones learn from it. The cache holds it, and nothing else."""
        self._settle()
        self._drafter.finish()

    def forget(self) -> None:
        """Texts that are finished are no source of guesses any more; the phrases of the bundle stay one."""
        self._drafter.forget()

    def advance(self, tokens: Sequence[int]) -> LazyLogits:
        """Append tokens; logits after the last, until the next call."""
        self.counts.tokens += len(tokens)
        row = self._guessed(tokens)
        if row is not None:
            return row
        start = time.perf_counter()
        self._settle()
        for token in tokens:
            self._drafter.take(token)
        room = self._decoder.capacity - self._decoder.length
        if len(tokens) > 1 or room < ROWS[0] or self._probe is not None or self._rest:
            logits = self._plainly(tokens)
            rows = len(tokens)
        else:
            logits, rows = self._together(tokens[0], room)
        if rows == 1 or rows in ROWS:
            self._pace.add(rows, time.perf_counter() - start)
        self._watch(self._pace.seconds(rows))
        return logits

    def _guessed(self, tokens: Sequence[int]) -> LazyLogits | None:
        """Logits after a token that was guessed."""
        done = self._open
        if done is None or len(tokens) != 1:
            return None
        row = done.children.get((done.path[-1], tokens[0]))
        if row is None:
            return None
        done.path.append(row)
        self._since.append([tokens[0]])
        self._drafter.take(tokens[0])
        return self._doubted(done.checked.after(row))

    def _settle(self) -> None:
        """Leave in the cache what was chosen."""
        done, self._open = self._open, None
        if done is not None:
            self._decoder.keep(done.start, done.path)
            self._pace.guessed(done.expected, len(done.path) - 1)

    def _together(self, token: int, room: int) -> tuple[LazyLogits, int]:
        """Append a token with guesses at what follows; logits after it, and the rows of the call."""
        most = max(size for size in ROWS if size <= room)
        draft = self._drafter.draft(most - 1, self._pace.grows)
        rows = padded(len(draft.tokens) + 1)
        # Rows to spare hold the token once more, below itself: never the guess that was made, and of no weight.
        tokens = [token, *draft.tokens, *[token] * (rows - 1 - len(draft.tokens))]
        start = self._decoder.length
        checked = self._decoder.check(self._gather(np.array(tokens, np.int64)), self._parents(draft, rows))
        children = {
            (parent + 1, guess): place + 1
            for place, (parent, guess) in enumerate(zip(draft.parents, draft.tokens, strict=True))
        }
        self._open = _Open(checked, start, tokens, children, [0], sum(draft.shares))
        self._since.append([token])
        self.counts.calls += 1
        self.counts.drafted += len(draft.tokens)
        return self._doubted(checked.after(0)), rows

    def _parents(self, draft: Draft, rows: int) -> list[int] | None:
        """Of the rows of a call; None for a chain where the engine takes no tree."""
        if not self._trees:
            return None
        return [-1, *(parent + 1 for parent in draft.parents), *[0] * (rows - 1 - len(draft.parents))]

    def _plainly(self, tokens: Sequence[int]) -> LazyLogits:
        """Append tokens as without speculation."""
        self._rest = max(0, self._rest - len(tokens))
        logits = self._decoder.advance(self._gather(np.asarray(tokens, np.int64)))
        self.counts.calls += 1
        if self._since:
            self._since.append(list(tokens))
            return self._doubted(logits)
        self._single = self._decoder.length
        return logits if self._probe is None else self._probed(tokens, logits)

    def _doubted(self, logits: LazyLogits) -> LazyLogits:
        if self._doubt_share is None:
            return logits
        again = partial(self._again, logits)
        return LazyLogits(logits.full, logits.hidden, logits.screen, doubt=self._doubt, again=again)

    def _again(self, doubted: LazyLogits) -> LazyLogits:
        """Compute what was computed together once more, singly; logits after the last token."""
        before = doubted.full().copy()
        self._settle()
        since, self._since = self._since, []
        self._decoder.rewind(self._single)
        for tokens in since:
            logits = self._decoder.advance(self._gather(np.asarray(tokens, np.int64)))
        self._single = self._decoder.length
        self.counts.calls += len(since)
        self.counts.near_ties += 1
        self._differ(before, logits.full())
        self._watch(len(since) * self._pace.seconds(1))
        return logits

    def _probed(self, tokens: Sequence[int], logits: LazyLogits) -> LazyLogits:
        """Keep the beginning of the first text; when there is enough of it, compute it together and compare."""
        probe = self._probe
        assert probe is not None
        if len(tokens) > 1:  # given, not written: begin again behind them
            probe.clear()
            return logits
        wanted = PROBED - COMPARED <= len(probe) < PROBED
        probe.append(
            (tokens[0], logits.full().copy() if wanted and self._doubt_share is not None else np.empty(0, np.float32))
        )
        if len(probe) < PROBED:
            return logits
        self._probe = None
        if self._doubt_share is None:
            return logits
        ids = [token for token, _ in probe]
        self._decoder.rewind(self._decoder.length - PROBED)
        for start in range(0, PROBED, ROWS[1]):
            part = ids[start : start + ROWS[1]]
            checked = self._decoder.check(self._gather(np.array(part, np.int64)))
        for place, (_, row) in enumerate(probe[-COMPARED:], start=ROWS[1] - COMPARED):
            self._differ(row, checked.after(place).full())
        # The cache now holds what was computed together; it does for what follows, within the doubt just found.
        self._since = [[token] for token in ids]
        self._single -= PROBED
        last = probe[-1][1]
        self._doubt = max(self._doubt, self._doubt_share * float(np.abs(last).max()))
        return LazyLogits(lambda: last)

    def _differ(self, one: Floats, other: Floats) -> None:
        """Take in two computations of the same logits."""
        self.counts.rounding = max(self.counts.rounding, float(np.abs(one - other).max()))
        self._doubt = max(self._doubt, SAFETY * self.counts.rounding)

    def _watch(self, seconds: float) -> None:
        """Rest where guesses cost more than they gain, by what calls of their size usually take."""
        tokens, spent = self._watched
        self._watched = (
            (self.counts.tokens, 0.0) if self._rest or self._probe is not None else (tokens, spent + seconds)
        )
        written = self.counts.tokens - tokens
        if written >= WATCHED and not self._rest:
            if self._watched[1] > written * self._pace.seconds(1):
                self._rest = REST
            self._watched = (self.counts.tokens, 0.0)
