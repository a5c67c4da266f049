"""Session settings chosen by measurement: how ONNX Runtime uses this machine's CPU and memory for one bundle.

In: a bundle. Out: a `Tuning`, to be written by `runtime.tuning.write_tuning`. No setting changes a result by more than
rounding.

One setting after another is tried against the best so far, alternatives in turns within each round, each in sessions
of its own. What counts is the time of one answer: a picture of 640 x 480 (fewer pixels, where the model takes fewer),
its prompt, and 32 tokens, each part in its fastest round: what else the machine does only adds. A busy machine's noise
must not decide (what else the machine did meanwhile is in `Tuning.noise`):
1. threads, products, spinning and pages stay at the defaults unless another value is faster by 2 %; products of our own
   are compared with ONNX Runtime's where they can be used;
2. the arena is given up where that costs less than 2 %: without it, vision's activations are not kept in memory while
   the decoder runs.

What it costs is in proportion. A large model is timed on an eighth of the picture, and fewer tokens; milliseconds are
scaled to the whole. What is far behind in one round is not measured in the next, and there is no next round where the
comparisons so far have taken their part of the time.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.bench.noise import Snapshot, judge
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.decoder import Decoder, DecoderSpec
from fgr_edge.runtime.head import open_head
from fgr_edge.runtime.image import ImageConfig, Patches, preprocess
from fgr_edge.runtime.kernels import library
from fgr_edge.runtime.opening import open_graphs
from fgr_edge.runtime.rotary import IntArray
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.tuning import Tuning, sources_of, this_machine
from fgr_edge.runtime.vision import VisionEncoder, VisionSpec

ANSWER_TOKENS = 32  # of a thought or a name; what counts of decoding against the picture
PROMPT_TOKENS = 40  # of a usual question, beside the picture
WORTH = 1.02  # a setting must be faster by this, or the arena cost less
FAR = 1.25  # times the first candidate's time: no noise makes up for that
BUDGET_S = 120.0  # for further rounds; the first are always there
_SIZE, _SMALL_SIZE = (640, 480), (224, 168)
LONG_S = 1.5  # where an answer about the small picture takes longer, the large one is not timed
_TIMED_STEPS, _LEAST_STEPS, _STEPS_S = 24, 6, 0.6
_COMPARISONS = 5

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
Floats = npt.NDArray[np.float32]


def tune(
    bundle: Bundle,
    *,
    rounds: int = 3,
    measure: Measure | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuning:
    """Find the settings.

    Args:
        rounds: of each comparison, at most: see above.
        measure: times one answer under given settings; None opens the bundle's graphs with them.
        progress: called with (measurements done, at most in all).
        clock: seconds, for the budget.

    Raises:
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.
    """
    machine, before = this_machine(), Snapshot.take()
    counts = _thread_counts(machine.cores)
    own = _has_own_kernels(bundle)
    total = rounds * (len(counts) + 2 * (_COMPARISONS - 1 - (not own)))
    comparisons = _Comparisons(measure or _Answer(bundle).times, rounds, clock, progress, total)
    compare = comparisons.compare
    best = SessionSettings(threads=machine.cores)
    best = _faster([replace(best, threads=count) for count in counts], compare)
    if own:
        best = _faster([best, replace(best, products="onnxruntime")], compare)
    best = _faster([best, replace(best, spinning="never")], compare)
    best = _faster([best, replace(best, huge_pages=True)], compare)
    kept, given_up = compare([best, replace(best, arena=False)])
    if given_up < kept * WORTH:
        best = replace(best, arena=False)
    log.info("settings of %s: %s", bundle.path, asdict(best))
    noise = judge(before, Snapshot.take(), (), {}, {})["findings"]
    return Tuning(best, machine, sources_of(bundle), tuple(comparisons.rows), tuple(noise))


class _Comparisons:
    """Measures candidates in turns, as often as time allows; notes a row for each.

    Args:
        total: measurements at most, for `progress`.
    """

    def __init__(
        self,
        measure: Measure,
        rounds: int,
        clock: Callable[[], float],
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._measure, self._rounds, self._clock, self._total = measure, rounds, clock, total
        self._progress = progress or (lambda done, total: None)
        self._started = clock()
        self._compared = self._done = 0

    def compare(self, candidates: Sequence[SessionSettings]) -> list[float]:
        """answer_ms of each."""
        self._compared += 1
        found: list[list[AnswerTimes]] = [[] for _ in candidates]
        left = list(range(len(candidates)))
        before = self._clock()
        for number in range(self._rounds):
            now = self._clock()
            if number and (len(left) < 2 or self._late(now, now - before)):
                break
            before = now
            for turn in range(len(left)):
                index = left[(turn + number) % len(left)]
                found[index].append(self._measure(candidates[index]))
                self._done += 1
                self._progress(self._done, self._total)
            # The first stays: were its round disturbed, noise would decide.
            left = [index for index in left if not index or _answer_ms(found[index]) < FAR * _answer_ms(found[0])]
        self.rows.extend(_row(settings, times) for settings, times in zip(candidates, found, strict=True))
        return [_answer_ms(times) for times in found]

    def _late(self, now: float, round_s: float) -> bool:
        """Whether the comparisons so far would have more than their part of the time after one more round."""
        return now + round_s - self._started > BUDGET_S * self._compared / _COMPARISONS


def _fastest(found: Sequence[AnswerTimes]) -> AnswerTimes:
    """Each part in its own fastest round: what disturbs one seldom disturbs all."""
    return AnswerTimes(*(min(getattr(one, part) for one in found) for part in AnswerTimes.__slots__))


def _answer_ms(found: Sequence[AnswerTimes]) -> float:
    return _fastest(found).answer_ms


def _faster(
    candidates: Sequence[SessionSettings], compare: Callable[[Sequence[SessionSettings]], list[float]]
) -> SessionSettings:
    """The first, unless another is faster by more than noise."""
    if len(candidates) == 1:
        return candidates[0]
    times = compare(candidates)
    fastest = min(range(len(times)), key=times.__getitem__)
    return candidates[fastest] if times[fastest] * WORTH < times[0] else candidates[0]


def _has_own_kernels(bundle: Bundle) -> bool:
    """Whether our kernels can be used here, and a graph of the bundle has any of their operators."""
    graphs = [name for name in bundle.manifest["files"] if name.endswith(".onnx")]
    return library.instructions() is not None and any(library.computes(bundle.file(name)) for name in graphs)


def _thread_counts(cores: int) -> list[int]:
    """All cores first, then a half and a quarter: hyperthreads and slow cores may be in each other's way."""
    return sorted({max(1, cores // part) for part in (1, 2, 4)}, reverse=True)


def _row(settings: SessionSettings, found: Sequence[AnswerTimes]) -> dict[str, Any]:
    fastest = _fastest(found)
    times = {**asdict(fastest), "answer_ms": fastest.answer_ms}
    return {**asdict(settings), **{name: round(ms, 3) for name, ms in times.items()}, "rounds": len(found)}


@dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """A picture of noise, its prompt's rows [S, H] and positions, and a row [H] for each step after it.

    vision_scale, prefill_scale: what the times are multiplied by, to be those of the whole picture.
    """

    patches: Patches
    embeds: Floats
    positions: IntArray
    steps: Floats
    vision_scale: float = 1.0
    prefill_scale: float = 1.0

    def of(self, whole: _Question) -> _Question:
        """The same, its times scaled to `whole`."""
        return replace(
            self,
            vision_scale=len(whole.patches.pixels) / len(self.patches.pixels),
            prefill_scale=len(whole.embeds) / len(self.embeds),
        )


class _Answer:
    """One answer, with random tokens and a picture of noise: what is said takes no time, how much is."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        manifest = bundle.manifest
        self._vision = read_spec(VisionSpec, manifest["vision"], "vision")
        self._decoder = read_spec(DecoderSpec, manifest["decoder"], "decoder")
        self._image = read_spec(ImageConfig, manifest["image"], "image")
        self._whole = self._ask(_SIZE)
        self._small = self._ask(_SMALL_SIZE).of(self._whole)
        self._chosen: _Question | None = None

    def times(self, settings: SessionSettings) -> AnswerTimes:
        """Open the graphs, warm up where that matters, then measure."""
        graphs = open_graphs(self._bundle, "cpu", None, settings)
        vision = VisionEncoder(graphs.session("vision.onnx"), self._vision)
        head = open_head(self._bundle, graphs.session, screened=graphs.exact_float32)
        decoder = Decoder(graphs.session("decoder.onnx"), self._decoder, head)
        if self._chosen is None:
            started = time.perf_counter()
            _times(self._small, vision, decoder)
            self._chosen = self._whole if time.perf_counter() - started < LONG_S else self._small
        if self._chosen is self._whole:  # what a first call costs more is nothing beside a long one
            _times(self._chosen, vision, decoder)
        return _times(self._chosen, vision, decoder)

    def _ask(self, size: tuple[int, int]) -> _Question:
        random = np.random.default_rng(0)
        width, height = size
        patches = preprocess(Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)), self._image)
        tokens = PROMPT_TOKENS + len(patches.pixels) // self._vision.merge_size**2
        ids = random.integers(0, self._bundle.manifest["embedding"]["rows"], tokens + _TIMED_STEPS)
        embeds = self._bundle.embedding().gather(ids)
        return _Question(patches, embeds[:tokens], np.tile(np.arange(tokens), (3, 1)), embeds[tokens:])


def _times(question: _Question, vision: VisionEncoder, decoder: Decoder) -> AnswerTimes:
    """Of one answer; of its tokens the median, of fewer of them where they take long."""
    started = time.perf_counter()
    vision.encode(question.patches)
    seen = time.perf_counter()
    decoder.prefill(question.embeds, question.positions, max_new_tokens=_TIMED_STEPS)
    read = time.perf_counter()
    steps: list[float] = []
    for row in question.steps:
        before = time.perf_counter()
        if len(steps) >= _LEAST_STEPS and before - read > _STEPS_S:
            break
        decoder.extend(row[None])
        steps.append((time.perf_counter() - before) * 1e3)
    return AnswerTimes(
        (seen - started) * 1e3 * question.vision_scale,
        (read - seen) * 1e3 * question.prefill_scale,
        statistics.median(steps),
    )
