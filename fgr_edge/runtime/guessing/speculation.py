"""Speculative decoding: one decoder call checks several guessed tokens; those that the model would have chosen stay.

In: tokens that a sampler chose, one at a time. Out: logits after them, as `Decoder.advance` gives them, in fewer calls.
A guess is never put in place of a choice: the sampler sees the logits of every token and chooses as without guesses,
greedy, penalized or drawn; a choice that was guessed has its logits already. Knows tokens and the decoder; no text.

What a call of several rows gives differs from calls of one row in the last bits (of nano's logits: 1e-5 in fp32; in
int8 mostly that, too, but up to 0.07 where a last bit rounds an input to the next step). So that greedy tokens are
the same:

1. By how much the lead of the likeliest token differs is measured, on the first `PROBED` tokens of the first text and
   whenever tokens are run again; it is taken to be a share of the largest logit at least.
2. A token whose lead is not larger than twice that is not believed: all tokens since the last that was computed singly
   are computed again, singly, and the choice is made by what they give. One call at that token alone would not do: keys
   and values before it differ, and its logits do so by as much (measured: 0.069 against 0.069).

3. Where products and attention do not depend on how many rows are computed together (`Model.alike`), both have the
   same bits. If the comparison of 1. finds them to be, nothing is in doubt any more. Drafts are chains then: in a tree,
   what a token sees does not lie side by side, and is added up in other parts.

Where 2. happens often (long thoughts of quantized models), it costs what guesses gain; then the text goes on plainly
for a while, as it does wherever guesses do not pay. Without it a token may differ where two are within rounding of each
other, as between two engines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.decoder_call import Checked
from fgr_edge.runtime.guessing.drafts import Draft, Drafter
from fgr_edge.runtime.guessing.pace import ROWS, Pace, Profit
from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.rotary import IntArray

Floats = npt.NDArray[np.float32]
Gather = Callable[[IntArray], Floats]

MOST_ROWS = ROWS[-1]  # room that a cache needs beyond the text
PROBED = 16  # tokens
COMPARED = 4  # of them, the last: their logits are kept
RIVALS = 16  # of the likeliest token, whose leads are compared
SAFETY = 2.0  # times the largest difference of a lead that was seen
MOST_WAIT = 8  # tokens
RECKONED = 32  # calls after which what a guess is worth is reckoned again


@dataclass(slots=True)
class SpeculationCounts:
    """What happened, since the recognizer was opened.

    Attributes:
        tokens: chosen.
        calls: of the decoder, for them.
        drafted: tokens that were guessed.
        near_ties: choices that were made again, singly.
        again: tokens that were computed again for them.
        rested: tokens that were written plainly because guesses did not pay.
        rounding: largest difference of a lead between a call of several rows and calls of one; 0 if not measured.
    """

    tokens: int = 0
    calls: int = 0
    drafted: int = 0
    near_ties: int = 0
    again: int = 0
    rested: int = 0
    rounding: float = 0.0


@dataclass(slots=True)
class _Open:
    """A call whose guesses are being compared with choices; start: tokens in the cache before; path: rows that hold."""

    checked: Checked
    start: int
    children: dict[tuple[int, int], int]
    path: list[int]
    expected: float


@dataclass(slots=True)
class _Turn:
    """From one call to the next, by the clock and by the counts when it began; guessing: whether guesses were tried."""

    seconds: float
    tokens: int
    again: int
    guessing: bool
    warm: bool = True


class Speculation:
    """Writes texts with one decoder.

    Args:
        decoder: shared with whoever fills its cache.
        gather: embeds token ids.
        drafter: guesses.
        doubt_share: of the largest logit, that the difference of two may be off at least; None believes every choice.
        trees: whether drafts may be trees: the graph takes them, and the engine keeps its cache in the host's memory.
        alike: whether several rows may have the bits of one, see 3.; for drafts that are chains.

    Attributes:
        counts: what happened.
    """

    def __init__(
        self,
        decoder: Decoder,
        gather: Gather,
        drafter: Drafter,
        *,
        doubt_share: float | None,
        trees: bool = True,
        alike: bool = False,
    ) -> None:
        self._decoder = decoder
        self._gather = gather
        self._drafter = drafter
        self._doubt_share = doubt_share
        self._doubt = 0.0  # how much a difference of two logits may be off
        self._alike = alike
        self._trees = trees
        self._pace = Pace()
        self._profit = Profit()
        self._in_vain = self._wait = 0  # drafts without a guess, one after the other; tokens without a draft
        self._reckoned = 0  # calls, when what a guess is worth was
        self._turn: _Turn | None = None
        self.counts = SpeculationCounts()
        self._open: _Open | None = None
        self._latest: LazyLogits | None = None  # in doubt
        self._single = 0  # tokens in the cache that were computed singly, or with the prompt
        self._since: list[tuple[int, ...]] = []  # what was appended after them
        self._probe: list[tuple[int, Floats]] | None = []  # tokens of the first text, the last ones' logits

    def begin(self, prompt: Sequence[int]) -> None:
        """A new text, after the prompt that the decoder has read; its tokens may recur."""
        self._open = self._turn = None
        self._since = []
        self._single = self._decoder.length
        self._drafter.begin(prompt)
        self._profit.begin()
        if self._probe is not None:
            self._probe = []
        if self.counts.calls - self._reckoned >= RECKONED:
            self._reckoned = self.counts.calls
            self._pace.reckon()

    def end(self) -> None:
        """The text is finished: later ones learn from it. The cache holds it, and nothing else."""
        self._account(time.perf_counter(), self.counts.tokens)
        self._settle()
        self._profit.learned(self._drafter.finish())

    def forget(self) -> None:
        """Texts that are finished are no source of guesses any more; the phrases of the bundle stay one."""
        self._drafter.forget()

    def advance(self, tokens: Sequence[int]) -> LazyLogits:
        """Append tokens; logits after the last, until the next call."""
        counts, done = self.counts, self._open
        counts.tokens += len(tokens)
        if done is not None and len(tokens) == 1:
            row = done.children.get((done.path[-1], tokens[0]))
            if row is not None:  # it was guessed
                done.path.append(row)
                self._note((tokens[0],))
                self._drafter.take(tokens[0], guessed=True)
                return self._doubted_row(done.checked, row)
        rests = self._profit.rests(len(tokens))
        for token in tokens:
            self._drafter.take(token, guessed=rests)  # a rest outlasts what could be learned from
        if rests and done is None and not self._since and self._profit.is_measured and self._probe is None:
            return self._resting(tokens)
        now, before = time.perf_counter(), counts.tokens - len(tokens)
        self._account(now, before)
        self._settle()
        counts.rested += len(tokens) if rests else 0
        room = self._decoder.capacity - self._decoder.length
        guessing = len(tokens) == 1 and room >= ROWS[0] and self._probe is None and not rests and not self._waits()
        self._turn = _Turn(now, before, counts.again, not rests and self._probe is None)
        return self._guessing(tokens[0], room) if guessing else self._plainly(tokens)

    def _resting(self, tokens: Sequence[int]) -> LazyLogits:
        """As without speculation, at once: nothing is to be measured, nothing in doubt."""
        self._turn = None
        self.counts.rested += len(tokens)
        self.counts.calls += 1
        logits = self._decoder.advance(self._gather(np.asarray(tokens, np.int64)))
        self._single = self._decoder.length
        return logits

    def _waits(self) -> bool:
        """Whether not to guess at this token: where nothing could be guessed, soon after mostly nothing can."""
        if not self._wait:
            return False
        self._wait -= 1
        return True

    def _account(self, now: float, tokens: int) -> None:
        """Take in what the tokens since the last call took, everything included."""
        turn, self._turn = self._turn, None
        if turn is None or not turn.warm:
            return
        seconds, written, again = now - turn.seconds, tokens - turn.tokens, self.counts.again - turn.again
        if not turn.guessing and not again:
            if written == 1 and not self._since:  # what is in doubt takes longer
                self._profit.plain(seconds)
            return
        if not again:
            self._pace.wrote(written, seconds)
        self._profit.guessed(written, seconds, again)

    def _settle(self) -> None:
        """Leave in the cache what was chosen."""
        done, self._open = self._open, None
        if done is not None:
            self._decoder.keep(done.start, done.path)
            self._pace.guessed(done.expected, len(done.path) - 1)

    def _guessing(self, token: int, room: int) -> LazyLogits:
        """Append a token, with guesses at what follows where they are worth it; logits after it."""
        most = max(size for size in ROWS if size <= room)
        draft = self._drafter.draft(most - 1, self._pace.worth)
        rows = self._pace.rows(draft.shares)
        assert self._turn is not None
        self._turn.warm = self._pace.is_warm(rows)
        if rows == 1:
            self._pace.guessed(0.0, 0)
            self._in_vain = min(self._in_vain + 1, 2 * MOST_WAIT)
            self._wait = self._in_vain // 2
            return self._plainly((token,))
        self._in_vain = 0
        draft = draft.trunk_first(rows - 1)
        start, begun = self._decoder.length, time.perf_counter()
        self._pace.drafted(rows, begun - self._turn.seconds)
        # Rows to spare hold the token once more, below itself: never the guess that was made, and of no weight.
        spare = rows - 1 - len(draft.tokens)
        ids = np.array([token, *draft.tokens, *[token] * spare], np.int64)
        checked = self._decoder.check(self._gather(ids), self._parents(draft, spare))
        self._pace.add(rows, time.perf_counter() - begun)
        places = range(1, len(draft.tokens) + 1)
        above = [parent + 1 for parent in draft.parents]
        children = dict(zip(zip(above, draft.tokens, strict=True), places, strict=True))
        self._open = _Open(checked, start, children, [0], sum(draft.shares))
        self._note((token,))
        self.counts.calls += 1
        self.counts.drafted += len(draft.tokens)
        return self._doubted_row(checked, 0)

    def _parents(self, draft: Draft, spare: int) -> list[int] | None:
        """Of the rows of a call; None for a chain where the engine takes no tree."""
        if not self._trees:
            return None
        return [-1, *[parent + 1 for parent in draft.parents], *[0] * spare]

    def _plainly(self, tokens: Sequence[int]) -> LazyLogits:
        """Append tokens as without speculation."""
        begun = time.perf_counter()
        logits = self._decoder.advance(self._gather(np.asarray(tokens, np.int64)))
        if len(tokens) == 1:
            self._pace.add(1, time.perf_counter() - begun)
        self.counts.calls += 1
        if self._since:
            self._note(tuple(tokens))
            self._latest = LazyLogits(logits.full, logits.hidden, logits.screen, self._doubt, self._again)
            return self._latest
        self._single = self._decoder.length
        return logits if self._probe is None else self._probed(tokens, logits)

    def _note(self, tokens: tuple[int, ...]) -> None:
        """Of tokens that were computed together; where nothing is in doubt they are as good as others."""
        if self._doubt_share is not None:
            self._since.append(tokens)

    def _doubted_row(self, checked: Checked, row: int) -> LazyLogits:
        if self._doubt_share is None:
            return checked.after(row)
        self._latest = checked.after(row, self._doubt, self._again)
        return self._latest

    def _again(self) -> LazyLogits:
        """Compute what was computed together once more, singly; logits after the last token."""
        assert self._latest is not None
        before = self._latest.full().copy()
        self._settle()
        since, self._since = self._since, []
        self._decoder.rewind(self._single)
        for tokens in since:
            logits = self._decoder.advance(self._gather(np.asarray(tokens, np.int64)))
        self._single = self._decoder.length
        self.counts.calls += len(since)
        self.counts.near_ties += 1
        self.counts.again += len(since)
        self._differ(before, logits.full())
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
        same = self._alike
        for place, (_, row) in enumerate(probe[-COMPARED:], start=ROWS[1] - COMPARED):
            other = checked.after(place).full()
            same = same and np.array_equal(row, other)
            self._differ(row, other)
        last = probe[-1][1]
        if same:
            self._doubt_share = None
            return LazyLogits(lambda: last)
        # The cache now holds what was computed together; it does for what follows, within the doubt just found.
        self._since = [(token,) for token in ids]
        self._single -= PROBED
        self._doubt = max(self._doubt, self._doubt_share * float(np.abs(last).max()))
        return LazyLogits(lambda: last)

    def _differ(self, one: Floats, other: Floats) -> None:
        """Take in two computations of the same logits: by how much rivals of the likeliest are nearer, or farther."""
        off = other - one
        rivals = np.argpartition(one, -min(RIVALS, len(one)))[-RIVALS:]
        nearer = float(np.abs(off[rivals] - off[one.argmax()]).max())
        self.counts.rounding = max(self.counts.rounding, nearer)
        self._doubt = max(self._doubt, SAFETY * self.counts.rounding)
