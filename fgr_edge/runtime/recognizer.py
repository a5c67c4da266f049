"""The public face: a picture in, a `Prediction` out, streamed or whole."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.answer import Answer, Answerer, reasoning_in
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.decoder import Decoder, DecoderSpec
from fgr_edge.runtime.image import ImageConfig, ImageInput, load_image, preprocess
from fgr_edge.runtime.labels import check_labels, read_labels
from fgr_edge.runtime.prediction import Prediction, Timings
from fgr_edge.runtime.prompt import Mode, Prompt, PromptBuilder, PromptSpec
from fgr_edge.runtime.rotary import prompt_positions
from fgr_edge.runtime.sampling import Sampler, SamplingConfig
from fgr_edge.runtime.sessions.onnxruntime import Device, OnnxRuntimeSession
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.vision import ImageEmbeds, VisionEncoder, VisionSpec

Floats = npt.NDArray[np.float32]
DIRECT_TOKENS = 64  # generated at most for a name, where no labels bound it
REASON_TOKENS = 1024  # and for a thought; Fine-R1's own take 540 on average


class Recognizer:
    """An open bundle that recognises pictures, one after another, reusing its buffers.

    Args:
        bundle: folder that `fgr-edge export` wrote.
        labels: class names to choose among, or a file with one a line; None takes the bundle's own, if it has any. With
            none at all the model answers freely.
        device: where the engine runs; None takes the bundle's target.
        threads: for one operator; None takes one per core.

    Raises:
        BundleError: the folder is no bundle, or is damaged.
        LabelError: the labels cannot be used.
        EngineError, MissingExtraError: the engine is missing or refuses the graphs.

    One `Recognizer` serves one thread: its cache holds one sequence.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        labels: Iterable[str] | str | os.PathLike[str] | None = None,
        *,
        device: Device | None = None,
        threads: int | None = None,
    ) -> None:
        opened = self.bundle = Bundle.open(Path(bundle))
        manifest = opened.manifest
        if isinstance(labels, (str, os.PathLike)):
            self.labels = read_labels(Path(labels)).names
        elif labels is not None:
            self.labels = check_labels(labels)
        else:
            stored = opened.labels()
            self.labels = () if stored is None else stored.labels.names
        if device is None:
            device = "cuda" if manifest["target"] == "cuda" else "cpu"
        self._image_config = read_spec(ImageConfig, manifest["image"], "image")
        self._embedding = opened.embedding()
        self._prompts = PromptBuilder(
            opened.file("tokenizer.json"), read_spec(PromptSpec, manifest["prompt"], "prompt")
        )
        self._vision = VisionEncoder(
            OnnxRuntimeSession(opened.file("vision.onnx"), device, threads),
            read_spec(VisionSpec, manifest["vision"], "vision"),
        )
        self._decoder = Decoder(
            OnnxRuntimeSession(opened.file("decoder.onnx"), device, threads),
            read_spec(DecoderSpec, manifest["decoder"], "decoder"),
        )
        generation = manifest["generation"]
        self._repetition_penalty = float(generation.get("repetition_penalty", 1.0))
        self._answers = Answerer(self._prompts, generation["eos_token_ids"], self.labels)

    def __call__(
        self,
        image: ImageInput,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        think_budget: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Prediction:
        """Recognise one picture.

        Args:
            image: path, bytes, PIL image or uint8 array [H, W, 3].
            mode: "direct" names the picture at once; "reason" thinks first.
            question: asked instead of the bundle's own.
            think_budget: tokens after which a thought is closed and the answer asked for.
            sampling: of free text; names are chosen greedily among the labels. None is greedy, with the repetition
                penalty of the checkpoint's generation_config.json.

        Raises:
            ImageError: the picture cannot be used.
            ConfigError: an option makes no sense.
        """
        stream = self.stream(image, mode=mode, question=question, think_budget=think_budget, sampling=sampling)
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
    ) -> PredictionStream:
        """As calling the recognizer, piece by piece: iterate for text, then read `.prediction`."""
        if mode not in ("direct", "reason"):
            raise ConfigError(f"mode is {mode!r}, expected 'direct' or 'reason'")
        if think_budget is not None and think_budget < 1:
            raise ConfigError(f"think_budget is {think_budget}, expected at least 1 token")
        return PredictionStream(self._run(image, mode, question, think_budget, sampling))

    def _run(
        self,
        image: ImageInput,
        mode: Mode,
        question: str | None,
        think_budget: int | None,
        sampling: SamplingConfig | None,
    ) -> Generator[str, None, Prediction]:
        start = time.perf_counter()
        patches = preprocess(load_image(image), self._image_config)
        preprocessed = time.perf_counter()
        embeds = self._vision.encode(patches)
        seen = time.perf_counter()
        prompt = self._prompts.build(question, mode, len(embeds.tokens))
        if sampling is None:
            sampling = self._default_sampling(mode, len(prompt.ids))
        room = sampling.max_new_tokens
        logits = self._prefill(prompt, embeds, room + self._answers.closing_tokens)
        prefilled = time.perf_counter()
        sampler = Sampler(sampling, prompt.ids)
        if mode == "direct":
            answer = yield from self._answers.direct(logits, self._extend, sampler, room)
        else:
            answer = yield from self._answers.reason(logits, self._extend, sampler, room, think_budget)
        end = time.perf_counter()
        timings = Timings(
            preprocess_ms=(preprocessed - start) * 1e3,
            vision_ms=(seen - preprocessed) * 1e3,
            prefill_ms=(prefilled - seen) * 1e3,
            decode_ms=(end - prefilled) * 1e3,
            ttft_ms=(prefilled - start) * 1e3,
            total_ms=(end - start) * 1e3,
            prompt_tokens=len(prompt.ids),
            generated_tokens=answer.tokens,
        )
        return _prediction(answer, mode, timings)

    def _default_sampling(self, mode: Mode, prompt_tokens: int) -> SamplingConfig:
        """Greedy, with the checkpoint's repetition penalty and as much room as the mode needs and the model has."""
        wanted = DIRECT_TOKENS if mode == "direct" else REASON_TOKENS
        left = self._decoder.spec.max_positions - prompt_tokens - self._answers.closing_tokens
        return SamplingConfig(max_new_tokens=max(1, min(wanted, left)), repetition_penalty=self._repetition_penalty)

    def _prefill(self, prompt: Prompt, embeds: ImageEmbeds, room: int) -> Floats:
        picture = slice(prompt.image_start, prompt.image_start + prompt.image_tokens)
        inputs = self._embedding.gather(prompt.ids)
        inputs[picture] = embeds.tokens
        deepstack = []
        for features in embeds.deepstack:
            layer = np.zeros_like(inputs)
            layer[picture] = features
            deepstack.append(layer)
        positions = prompt_positions(prompt.image_start, embeds.grid, len(prompt.ids) - picture.stop)
        return self._decoder.prefill(inputs, positions, max_new_tokens=room, deepstack=deepstack)

    def _extend(self, tokens: Sequence[int]) -> Floats:
        return self._decoder.extend(self._embedding.gather(np.asarray(tokens, np.int64)))


class PredictionStream:
    """Iterates over generated text; `prediction` is there once the text has ended."""

    def __init__(self, pieces: Generator[str, None, Prediction]) -> None:
        self._pieces = pieces
        self._prediction: Prediction | None = None

    def __iter__(self) -> Iterator[str]:
        self._prediction = yield from self._pieces

    @property
    def prediction(self) -> Prediction:
        """The finished prediction; generates what has not been iterated over yet."""
        if self._prediction is None:
            for _ in self:
                pass
        assert self._prediction is not None
        return self._prediction


def _prediction(answer: Answer, mode: Mode, timings: Timings) -> Prediction:
    known = answer.name is not None and answer.probability is not None
    return Prediction(
        label=answer.name,
        probability=answer.probability,
        top_k=((answer.name, answer.probability),) if known else (),  # type: ignore[arg-type]
        abstained=answer.name is None,
        reasoning=reasoning_in(answer.text) if mode == "reason" else None,
        text=answer.text,
        mode=mode,
        timings=timings,
    )
