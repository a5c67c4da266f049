"""The public face: a picture in, a `Prediction` out, streamed or whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.answer import Answerer, reasoning_in
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.context import Scored
from fgr_edge.runtime.evidence import Evidence
from fgr_edge.runtime.guessing.habits import Habits
from fgr_edge.runtime.image import ImageInput
from fgr_edge.runtime.judge import Judge
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, ClassScores, Compiled, Extend, Frame, LabelScorer
from fgr_edge.runtime.labels import LabelSet, read_labels
from fgr_edge.runtime.model import Model
from fgr_edge.runtime.opening import Device
from fgr_edge.runtime.pictures.last_picture import LastPicture
from fgr_edge.runtime.prediction import Prediction, PredictionStream, result_of
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.reading import REASON_TOKENS, Reader
from fgr_edge.runtime.request import Request
from fgr_edge.runtime.sampling import SamplingConfig
from fgr_edge.runtime.stages import STAGE_TOKENS, Stages, greedy, logits_along
from fgr_edge.runtime.threads import usable_threads
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]
NONE_OF_THESE = "none of these"

Score = Callable[[Frame, Floats, Extend], ClassScores]


class Recognizer:
    """An open bundle that recognises pictures, one after another, reusing its buffers.

    Args:
        bundle: folder that `fgr-edge export` wrote.
        labels: class names to choose among, a `LabelSet`, or a file of them; None takes the bundle's own, if it has
            any. With none at all the model answers freely.
        fast_pictures: large pictures are opened by shortcuts that give other pixels: see `shortcuts.py`.
        device: where the graphs run; None takes the bundle's target. "cpu" runs every bundle, on ONNX Runtime.
        threads: for one operator, and for large pictures; None takes one per core, or what `fgr-edge tune` found.
        speculate: whether several tokens of a thought are guessed and checked at once; greedy text is the same. With
            "rounded" it may differ where two tokens are as likely within the engine's rounding: faster for long
            thoughts of quantized models. On ONNX Runtime's CPU only; see `speculation`.
        keep_picture: whether a picture asked about again at once, in the same pixels, is not seen and read again.

    Attributes:
        model: the open graphs, below labels and answers.
        labels: the classes; None where the model answers freely.
        speculated: tokens, calls and guesses so far; None without speculation.

    Raises:
        BundleError: the folder is no bundle, or is damaged.
        LabelError: the labels cannot be used.
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.

    One `Recognizer` serves one thread: its cache holds one sequence.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        labels: LabelSet | Iterable[str] | str | os.PathLike[str] | None = None,
        *,
        device: Device | None = None,
        threads: int | None = None,
        fast_pictures: bool = False,
        speculate: bool | Literal["rounded"] = True,
        keep_picture: bool = False,
    ) -> None:
        opened = self.bundle = Bundle.open(Path(bundle))
        stored = opened.labels() if labels is None else None
        self.labels = _label_set(labels) if stored is None else stored.labels
        model = self.model = Model(opened, device=device, threads=threads, fast_pictures=fast_pictures)
        self._answers = Answerer(model.prompts, model.eos_ids)
        self._scorer: LabelScorer | None = None
        if self.labels is not None:
            self._scorer = self._scorer_of(self.labels, None if stored is None else stored.compiled)
            self._judge = Judge(opened, self.labels, own=stored is not None)
        speculation = None
        if speculate and model.cache_on_host:  # elsewhere it was not tried
            habits = Habits(opened, self.labels, model.prompts.encode_text)
            exact = speculate != "rounded"
            speculation = habits.speculation(
                model.decoder, model.embedding.gather, exact=exact, alike=exact and model.alike
            )
        self.speculated = None if speculation is None else speculation.counts
        self._reader = Reader(model, LastPicture(keep_picture), speculation, self._answers.closing_tokens)

    def __call__(
        self,
        image: ImageInput,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        think_budget: int | None = None,
        sampling: SamplingConfig | None = None,
        top_k: int = 1,
    ) -> Prediction:
        """Recognise one picture.

        Args:
            image: path, bytes, PIL image or uint8 array [H, W, 3].
            mode: "direct" names the picture at once; "reason" thinks first.
            question: asked instead of the bundle's own.
            think_budget: tokens after which a thought is closed and the answer asked for.
            sampling: of free text; names are scored, not sampled. None is greedy, with the repetition penalty of the
                checkpoint's generation_config.json.
            top_k: classes whose order and probabilities are wanted.

        Raises:
            ImageError: the picture cannot be used.
            ConfigError: an option makes no sense.
        """
        stream = self.stream(
            image, mode=mode, question=question, think_budget=think_budget, sampling=sampling, top_k=top_k
        )
        for _ in stream:
            pass
        return stream.prediction

    def stream(
        self,
        image: ImageInput,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        think_budget: int | None = None,
        sampling: SamplingConfig | None = None,
        top_k: int = 1,
    ) -> PredictionStream:
        """As calling the recognizer, piece by piece: iterate for text, then read `.prediction`."""
        request = Request(mode, question, think_budget, sampling)
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}, expected at least 1")
        if self._scorer is None:
            return PredictionStream(self._answer_freely(image, request))
        return PredictionStream(self._name(image, request, self._scorer, top_k))

    def forget_texts(self) -> None:
        """Guess no more from texts written so far: for measurements, which ask about the same pictures again."""
        if self._reader.speculation is not None:
            self._reader.speculation.forget()

    def see(self, image: ImageInput) -> ImageEmbeds:
        """The picture as the decoder gets it; `evidence` and `stages` take it instead of the picture.

        Raises:
            ImageError: the picture cannot be used.
        """
        return self.model.vision.encode(self.model.patches(image))

    def stages(
        self,
        image: ImageInput | ImageEmbeds,
        *,
        mode: Mode = "direct",
        along: Sequence[int] | None = None,
        max_new_tokens: int = STAGE_TOKENS,
    ) -> Stages:
        """Everything between one picture and its answer, for comparison with another bundle of the same model.

        Args:
            along: tokens that another bundle chose: their logits, and the label scores after them, instead of its own.
            max_new_tokens: chosen at most, where `along` is not given.

        Raises:
            ImageError: the picture cannot be used.
        """
        room = max_new_tokens if along is None else len(along)
        context = self._reader.read(image, Request(mode, max_new_tokens=room), self._scorer)
        first, start = context.logits.copy(), self.model.decoder.length
        if along is None:
            tokens, rows = greedy(first, self.model.extend, self.model.eos_ids, context.room)
        else:
            tokens, rows = (
                list(along),
                logits_along(first, self.model.embedding.gather(np.array(along, np.int64)), self.model.decoder),
            )
        scores = None
        if self._scorer is not None:
            self.model.decoder.rewind(start)
            thought, frame = (0, DIRECT) if mode == "direct" else self._answers.thought_in(tokens)
            logits = self.model.extend(tokens[:thought]) if thought else first
            scores = self._scorer.all(frame, logits, self.model.extend).log_probs
        return Stages(context.patches, context.embeds, first, np.array(tokens, np.int64), rows, scores)

    def evidence(
        self,
        image: ImageInput | ImageEmbeds,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        think_budget: int | None = None,
        labels: LabelSet | None = None,
        wording: str | None = None,
    ) -> Evidence:
        """Score every class, uncalibrated; arguments as for calling.

        Args:
            labels: scored instead of the recognizer's own.
            wording: the whole message, instead of the bundle's wording around the question.

        Raises:
            ImageError: the picture cannot be used.
            ConfigError: an option makes no sense, or there are no labels.
        """
        scorer = self._scorer if labels is None else self._scorer_of(labels, None)
        if scorer is None:
            raise ConfigError("there are no labels to score; give some to the Recognizer, or to this call")
        request = Request(mode, question, think_budget, None, wording)
        scored = result_of(self._score(image, request, scorer, scorer.all))
        return Evidence(scored.scores.log_probs, _features(scored.context.embeds), scored.text, scored.timings)

    def generate(self, image: ImageInput, wording: str, *, max_new_tokens: int = REASON_TOKENS) -> str:
        """The model's free greedy answer to a whole message about a picture.

        Args:
            max_new_tokens: at most; fewer where the model has no more positions.

        Raises:
            ImageError: the picture cannot be used.
        """
        context = self._reader.read(image, Request("reason", wording=wording, max_new_tokens=max_new_tokens))
        with self._reader.writing(context) as advance:
            return result_of(self._answers.reason(context.logits, advance, context.sampler, context.room)).text

    def _name(
        self, image: ImageInput, request: Request, scorer: LabelScorer, top_k: int
    ) -> Generator[str, None, Prediction]:
        """Think if asked to, score the labels, decide."""
        confidence = self._judge.confidence(request.mode)

        def best(frame: Frame, logits: Floats, extend: Extend) -> ClassScores:
            return scorer.best(frame, logits, extend, confidence, top_k=top_k)

        scored = yield from self._score(image, request, scorer, best)
        decision, shares, strange = self._judge.judge(
            request.mode, scored.scores, lambda: _features(scored.context.embeds)
        )
        piece = scored.frame.lead + (decision.label or NONE_OF_THESE) + scored.frame.tail
        yield piece
        order = np.argsort(-shares, kind="stable")[:top_k]
        return Prediction(
            label=decision.label,
            probability=decision.probability,
            top_k=tuple((scorer.labels.names[i], float(shares[i])) for i in order),
            rest=scored.scores.rest,
            calibrated=self._judge.calibrated(request.mode),
            level=decision.level,
            abstained=decision.label is None,
            abstained_because=decision.abstained_because,
            outlier_score=strange,
            reasoning=reasoning_in(scored.text) if request.mode == "reason" else None,
            text=scored.text + piece,
            mode=request.mode,
            timings=scored.timings,
        )

    def _score(
        self, image: ImageInput | ImageEmbeds, request: Request, scorer: LabelScorer, score: Score
    ) -> Generator[str, None, Scored]:
        context = self._reader.read(image, request, scorer)
        text, tokens, frame, logits = "", 0, DIRECT, context.logits
        if request.mode == "reason":
            with self._reader.writing(context) as advance:
                text, tokens, logits, frame = yield from self._answers.think(
                    context.logits, advance, context.sampler, context.room
                )
        generated = time.perf_counter()
        scores = score(frame, logits, self.model.extend)
        return Scored(context, text, tokens, frame, scores, (generated, time.perf_counter()))

    def _answer_freely(self, image: ImageInput, request: Request) -> Generator[str, None, Prediction]:
        """No labels: whatever the model says."""
        context = self._reader.read(image, request)
        answers = self._answers
        with self._reader.writing(context) as advance:
            given = (context.logits, advance, context.sampler, context.room)
            if request.mode == "direct":
                found = yield from answers.name(*given)
            elif request.think_budget is None:
                found = yield from answers.reason(*given)
            else:
                thought = yield from answers.think(*given)
                found = yield from answers.name_after(thought, advance, context.sampler)
        end = time.perf_counter()
        return Prediction(
            label=found.name,
            probability=found.probability,
            top_k=() if found.name is None or found.probability is None else ((found.name, found.probability),),
            rest=0.0 if found.probability is None else 1 - found.probability,
            calibrated=False,
            level=None,
            abstained=found.name is None,
            abstained_because=None,
            outlier_score=None,
            reasoning=reasoning_in(found.text) if request.mode == "reason" else None,
            text=found.text,
            mode=request.mode,
            timings=context.timings(end, end, generated=found.tokens, scored=0),
        )

    def _scorer_of(self, labels: LabelSet, compiled: Compiled | None) -> LabelScorer:
        return LabelScorer(
            self.model.decoder,
            self.model.embedding.gather,
            self.model.prompts.encode_text,
            labels,
            self.model.eos_ids[0],
            compiled,
            usable_threads(self.model.threads),
        )


def _label_set(labels: LabelSet | Iterable[str] | str | os.PathLike[str] | None) -> LabelSet | None:
    if labels is None or isinstance(labels, LabelSet):
        return labels
    return read_labels(Path(labels)) if isinstance(labels, (str, os.PathLike)) else LabelSet.from_names(labels)


def _features(embeds: ImageEmbeds) -> Floats:
    features: Floats = embeds.tokens.mean(axis=0)
    return features
