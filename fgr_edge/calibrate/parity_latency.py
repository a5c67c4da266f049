"""How long two bundles take from a picture to an answer, measured in turns on the same pictures.

In: two open recognizers and encoded pictures. Out: medians. The first call on a picture is not counted: a new size of
picture allocates what a camera's next frame finds there.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from fgr_edge.calibrate.parity_document import Latency
from fgr_edge.runtime.prediction import Timings
from fgr_edge.runtime.recognizer import Recognizer

ROUNDS = 2  # of each, on each picture
THINK_TOKENS = 64


class Stopwatch:
    """Times both sides.

    Args:
        original, bundle: recognizers with labels.
    """

    def __init__(self, original: Recognizer, bundle: Recognizer) -> None:
        self._sides = {"original": original, "bundle": bundle}
        self._direct: dict[str, list[Timings]] = {name: [] for name in self._sides}
        self._reason: dict[str, list[Timings]] = {name: [] for name in self._sides}

    def time(self, picture: bytes) -> None:
        """Answer one picture, encoded as in its file."""
        for side in self._sides.values():
            side(picture)
        for name, side in self._sides.items():
            # Once after the other side and once after itself: what ran before shows in the processor's caches.
            self._direct[name] += [side(picture).timings for _ in range(ROUNDS)]
        for name, side in self._sides.items():
            self._reason[name].append(side(picture, mode="reason", think_budget=THINK_TOKENS).timings)

    def medians(self) -> dict[str, Latency]:
        """By side."""
        return {name: self._medians(name) for name in self._sides}

    def _medians(self, name: str) -> Latency:
        def of(value: Callable[[Timings], float]) -> float:
            return median(map(value, self._direct[name]))

        steps = [one.decode_ms / one.generated_tokens for one in self._reason[name] if one.generated_tokens]
        return {
            "preprocess_ms": of(lambda one: one.preprocess_ms),
            "vision_ms": of(lambda one: one.vision_ms),
            "ttft_ms": of(lambda one: one.ttft_ms),
            "tpot_ms": median(steps) if steps else None,
            "answer_ms": of(lambda one: one.total_ms),
            "runs": len(self._direct[name]),
        }
