"""What a recognition returns, whole or as a stream."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from fgr_edge.runtime.prompt import Mode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock milliseconds of one recognition, and its token counts.

    ttft_ms runs from the picture as given to the logits of the first token: preprocessing, vision and prefill.
    decode_ms is the generation of text after it, labels_ms the scoring of labels, for which scored_tokens went through
    the decoder. Engines that nobody waits for (TensorRT) do their work on the picture within prefill_ms; vision_ms is
    what it takes to hand it over.
    """

    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    labels_ms: float
    ttft_ms: float
    total_ms: float
    prompt_tokens: int
    generated_tokens: int
    scored_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One picture's answer.

    Attributes:
        label: the class; or, where no class was sure enough and a level above was, that level's name (`level` > 0);
            None if the model abstained, or its free answer could not be read.
        probability: of `label` among the labels, at least: what was not visited counts as if it were another class, so
            the true value is at most `rest` higher. Without labels, the product of the answer tokens' probabilities
            over the vocabulary; None after a free thought.
        top_k: (class, probability), the likeliest first, as many as asked for; there also where the model abstained.
        rest: upper bound of the probability of all classes that were not visited.
        calibrated: whether the probabilities were calibrated on photographs (`fgr-edge calibrate-labels`).
        level: 0 for a class, 1 for its parent, and so on; None without labels and where the model abstained.
        abstained: no answer was given (label is None).
        abstained_because: "unsure", or "outlier": the picture is of none of the classes.
        outlier_score: how strange the picture is; None where no outlier rule was fitted.
        reasoning: text between <think> and </think>, in reason mode.
        text: everything generated, and the name chosen.
        mode: "direct" or "reason".
        timings: see `Timings`.
    """

    label: str | None
    probability: float | None
    top_k: tuple[tuple[str, float], ...]
    rest: float
    calibrated: bool
    level: int | None
    abstained: bool
    abstained_because: Literal["unsure", "outlier"] | None
    outlier_score: float | None
    reasoning: str | None
    text: str
    mode: Mode
    timings: Timings

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        document = asdict(self)
        document["top_k"] = [{"label": label, "probability": probability} for label, probability in self.top_k]
        return document


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


def result_of(pieces: Generator[str, None, T]) -> T:
    """What a generator of text returns."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            found: T = end.value
            return found
