"""Pictures to answers, timed: direct, reason, and the cascade of both.

In: an open recognizer and the path of a picture. Out: an `AnswerRun`. The cascade is the caller's own: ask directly,
and ask again with reasoning where the direct answer abstained or its probability is below a bound. Asked again at
once, the picture is not seen and read a second time, where the recognizer keeps it (`keep_picture`).

Nothing else may profit from what was asked before: the recognizer forgets its texts before each pass over the pictures,
because those of the last pass would be guessed word by word; and a picture asked about twice in a row is asked about
after another one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from fgr_edge.bench.document import Answers
from fgr_edge.bench.spread import Spread, rounded, spread
from fgr_edge.runtime.prediction import Prediction, Timings
from fgr_edge.runtime.recognizer import Recognizer

BenchMode = Literal["direct", "reason", "cascade"]
MODES: tuple[BenchMode, ...] = get_args(BenchMode)
# Of `Timings`, in the order in which they happen.
STAGES = ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_ms", "labels_ms")
COUNTS = ("prompt_tokens", "generated_tokens", "scored_tokens")
ANOTHER = np.full((56, 56, 3), 128, np.uint8)


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """timings: of the last call; reasoned: whether the cascade went on; answer_ms: by the clock of the caller.

    speculated: tokens of a thought, and the decoder's calls for them; None without speculation.
    """

    picture: int
    answer_ms: float
    timings: Timings
    abstained: bool
    reasoned: bool
    speculated: tuple[int, int] | None = None


class Asker:
    """Asks one recognizer.

    Args:
        below: probability under which the cascade reasons; without one, too.
        think_budget: tokens after which a thought is closed; None lets it end.
    """

    def __init__(self, recognizer: Recognizer, pictures: Sequence[Path], below: float, think_budget: int | None):
        self._recognizer = recognizer
        self._pictures = pictures
        self._below = below
        self._think_budget = think_budget
        self._last: int | None = None

    def ask_all(self, mode: BenchMode) -> list[AnswerRun]:
        """Answer every picture once, as a recognizer that is new to them."""
        self._recognizer.forget_texts()
        return [self.ask(number, mode) for number in range(len(self._pictures))]

    def ask(self, number: int, mode: BenchMode) -> AnswerRun:
        """Answer one of the pictures."""
        picture = self._pictures[number]
        if number == self._last:
            self._recognizer(ANOTHER)
        self._last = number
        before = self._counts()
        start = time.perf_counter()
        found = self._reason(picture) if mode == "reason" else self._recognizer(picture)
        reasoned = mode == "cascade" and self._unsure(found)
        if reasoned:
            found = self._reason(picture)
        answer_ms = (time.perf_counter() - start) * 1e3
        after = self._counts()
        speculated = None if before is None or after is None else (after[0] - before[0], after[1] - before[1])
        return AnswerRun(number, answer_ms, found.timings, found.abstained, reasoned, speculated)

    def _counts(self) -> tuple[int, int] | None:
        counts = self._recognizer.speculated
        return None if counts is None else (counts.tokens, counts.calls)

    def _reason(self, picture: Path) -> Prediction:
        return self._recognizer(picture, mode="reason", think_budget=self._think_budget)

    def _unsure(self, found: Prediction) -> bool:
        return found.abstained or found.probability is None or found.probability < self._below


def summarize(runs: Sequence[AnswerRun], mode: BenchMode) -> Answers:
    """All runs of one mode, of all pictures."""
    return Answers(
        answer_ms=spread([run.answer_ms for run in runs]),
        stages={} if mode == "cascade" else _stages([run.timings for run in runs]),
        reasoned_share=rounded(sum(run.reasoned for run in runs) / len(runs)) if mode == "cascade" else None,
        abstained_share=rounded(sum(run.abstained for run in runs) / len(runs)),
        tokens_per_call=_tokens_per_call(runs),
    )


def _tokens_per_call(runs: Sequence[AnswerRun]) -> float | None:
    pairs = [run.speculated for run in runs if run.speculated is not None]
    calls = sum(calls for _, calls in pairs)
    return rounded(sum(tokens for tokens, _ in pairs) / calls) if calls else None


def unsteadiness(runs: Sequence[AnswerRun]) -> float | None:
    """How much answers to one picture vary: interquartile range over median, the middle picture's; None if unknown."""
    by_picture: dict[int, list[float]] = {}
    for run in runs:
        by_picture.setdefault(run.picture, []).append(run.answer_ms)
    shares = [relative_iqr(spread(values)) for values in by_picture.values() if len(values) >= 4]
    known = sorted(share for share in shares if share is not None)
    return known[len(known) // 2] if known else None


def relative_iqr(found: Spread) -> float | None:
    """Interquartile range over median."""
    return None if found["iqr"] is None or not found["p50"] else found["iqr"] / found["p50"]


def _stages(timings: Sequence[Timings]) -> dict[str, Spread]:
    stages = {name: spread([getattr(one, name) for one in timings]) for name in (*STAGES, *COUNTS)}
    steps = [one.decode_ms / one.generated_tokens for one in timings if one.generated_tokens]
    stages["tpot_ms"] = spread(steps)
    return stages
