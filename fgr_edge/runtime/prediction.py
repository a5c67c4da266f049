"""What a recognition returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fgr_edge.runtime.prompt import Mode


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock milliseconds of one recognition, and its token counts.

    ttft_ms runs from the picture as given to the first token chosen: preprocessing, vision and prefill. decode_ms is
    what came after.
    """

    preprocess_ms: float
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    total_ms: float
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """One picture's answer.

    Attributes:
        label: the class name, or the free answer where no labels were given; None if the answer could not be read.
        probability: with labels, the product of the shares that the chosen tokens have among the tokens that some label
            allows there; without, the product of the answer tokens' probabilities over the vocabulary. Not calibrated.
        top_k: (label, probability), the likeliest first. Greedy decoding follows one label and so lists one.
        abstained: no answer was given (label is None).
        reasoning: text between <think> and </think>, in reason mode.
        text: everything generated.
        mode: "direct" or "reason".
        timings: see `Timings`.
    """

    label: str | None
    probability: float | None
    top_k: tuple[tuple[str, float], ...]
    abstained: bool
    reasoning: str | None
    text: str
    mode: Mode
    timings: Timings

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        document = asdict(self)
        document["top_k"] = [{"label": label, "probability": probability} for label, probability in self.top_k]
        return document
