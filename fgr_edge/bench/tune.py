"""Session settings chosen by measurement: how ONNX Runtime uses this machine's CPU and memory for one bundle.

In: a bundle. Out: a `Tuning`, to be written by `runtime.tuning.write_tuning`. No setting changes a result.

One setting after another is tried against the best so far, alternatives in turns within each round, each in sessions
of its own. What counts is the time of one answer: a picture of 640 x 480 (fewer pixels, where the model takes fewer),
its prompt, and 32 tokens, medians over the rounds. A busy machine's noise must not decide (what else the machine did
meanwhile is in `Tuning.noise`):
1. threads, spinning and pages stay at the defaults unless another value is faster by 2 %;
2. the arena is given up where that costs less than 2 %: without it, vision's activations are not kept in memory while
   the decoder runs.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from fgr_edge.bench.noise import Snapshot, judge
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.decoder import Decoder, DecoderSpec
from fgr_edge.runtime.head import open_head
from fgr_edge.runtime.image import ImageConfig, Patches, preprocess
from fgr_edge.runtime.opening import open_graphs
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.tuning import Tuning, sources_of, this_machine
from fgr_edge.runtime.vision import VisionEncoder, VisionSpec

ANSWER_TOKENS = 32  # of a thought or a name; what counts of decoding against the picture
PROMPT_TOKENS = 40  # of a usual question, beside the picture
WORTH = 1.02  # a setting must be faster by this, or the arena cost less
_TIMED_STEPS = 24

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """Milliseconds of the parts of an answer, with warm caches."""

    vision_ms: float
    prefill_ms: float
    token_ms: float

    @property
    def answer_ms(self) -> float:
        """A picture, its prompt and `ANSWER_TOKENS`."""
        return self.vision_ms + self.prefill_ms + ANSWER_TOKENS * self.token_ms


Measure = Callable[[SessionSettings], AnswerTimes]


def tune(
    bundle: Bundle,
    *,
    rounds: int = 3,
    measure: Measure | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Find the settings.

    Args:
        rounds: of each comparison.
        measure: times one answer under given settings; None opens the bundle's graphs with them.
        progress: called with (measurements done, at most in all).

    Raises:
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.
    """
    machine, before = this_machine(), Snapshot.take()
    measure = measure or _Answer(bundle).times
    counts = _thread_counts(machine.cores)
    total = rounds * (len(counts) + 2 + 2 + 2)
    best, done = SessionSettings(threads=machine.cores), 0
    measured: list[dict[str, Any]] = []

    def compare(candidates: Sequence[SessionSettings]) -> list[float]:
        """Median answer_ms of each; notes rows."""
        nonlocal done
        times: list[list[AnswerTimes]] = [[] for _ in candidates]
        for number in range(rounds):
            for turn in range(len(candidates)):
                index = (turn + number) % len(candidates)
                times[index].append(measure(candidates[index]))
                done += 1
                if progress is not None:
                    progress(done, total)
        measured.extend(_row(settings, found) for settings, found in zip(candidates, times, strict=True))
        return [statistics.median(one.answer_ms for one in found) for found in times]

    best = _faster([replace(best, threads=count) for count in counts], compare)
    best = _faster([best, replace(best, spinning="never")], compare)
    best = _faster([best, replace(best, huge_pages=True)], compare)
    kept, given_up = compare([best, replace(best, arena=False)])
    if given_up < kept * WORTH:
        best = replace(best, arena=False)
    log.info("settings of %s: %s", bundle.path, asdict(best))
    noise = judge(before, Snapshot.take(), (), {}, {})["findings"]
    return Tuning(best, machine, sources_of(bundle), tuple(measured), tuple(noise))


def _faster(
    candidates: Sequence[SessionSettings], compare: Callable[[Sequence[SessionSettings]], list[float]]
) -> SessionSettings:
    """The first, unless another is faster by more than noise."""
    if len(candidates) == 1:
        return candidates[0]
    times = compare(candidates)
    fastest = min(range(len(times)), key=times.__getitem__)
    return candidates[fastest] if times[fastest] * WORTH < times[0] else candidates[0]


def _thread_counts(cores: int) -> list[int]:
    """All cores first, then a half and a quarter: hyperthreads and slow cores may be in each other's way."""
    return sorted({max(1, cores // part) for part in (1, 2, 4)}, reverse=True)


def _row(settings: SessionSettings, found: Sequence[AnswerTimes]) -> dict[str, Any]:
    median = {name: statistics.median(getattr(one, name) for one in found) for name in AnswerTimes.__slots__}
    answer = statistics.median(one.answer_ms for one in found)
    return {**asdict(settings), **{name: round(ms, 3) for name, ms in {**median, "answer_ms": answer}.items()}}


class _Answer:
    """One answer, with random tokens and a picture of noise: what is said takes no time, how much is."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        manifest = bundle.manifest
        self._vision = read_spec(VisionSpec, manifest["vision"], "vision")
        self._decoder = read_spec(DecoderSpec, manifest["decoder"], "decoder")
        random = np.random.default_rng(0)
        noise = Image.fromarray(random.integers(0, 256, (480, 640, 3), np.uint8))
        self._patches: Patches = preprocess(noise, read_spec(ImageConfig, manifest["image"], "image"))
        tokens = PROMPT_TOKENS + len(self._patches.pixels) // self._vision.merge_size**2
        ids = random.integers(0, manifest["embedding"]["rows"], tokens + _TIMED_STEPS)
        self._embeds = bundle.embedding().gather(ids)
        self._positions = np.tile(np.arange(tokens), (3, 1))

    def times(self, settings: SessionSettings) -> AnswerTimes:
        """Open the graphs, answer once to warm up, then measure."""
        graphs = open_graphs(self._bundle, "cpu", None, settings)
        vision = VisionEncoder(graphs.session("vision.onnx"), self._vision)
        head = open_head(self._bundle, graphs.session, screened=graphs.exact_float32)
        decoder = Decoder(graphs.session("decoder.onnx"), self._decoder, head)
        self._once(vision, decoder)
        return self._once(vision, decoder)

    def _once(self, vision: VisionEncoder, decoder: Decoder) -> AnswerTimes:
        tokens = self._positions.shape[1]
        started = time.perf_counter()
        vision.encode(self._patches)
        seen = time.perf_counter()
        decoder.prefill(self._embeds[:tokens], self._positions, max_new_tokens=_TIMED_STEPS)
        read = time.perf_counter()
        steps = []
        for row in self._embeds[tokens:]:
            before = time.perf_counter()
            decoder.extend(row[None])
            steps.append((time.perf_counter() - before) * 1e3)
        return AnswerTimes((seen - started) * 1e3, (read - seen) * 1e3, statistics.median(steps))
