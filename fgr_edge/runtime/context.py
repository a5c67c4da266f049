"""What a recognizer knows of a picture once it has read it, and once it has scored the labels; with the times taken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.label_trie.label_scorer import ClassScores, Frame
from fgr_edge.runtime.prediction import Timings
from fgr_edge.runtime.prompt import Mode, Prompt
from fgr_edge.runtime.sampling import Sampler
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]


class Context(NamedTuple):
    """A picture and a message that the decoder has read; times_s: start, preprocessed, seen, prefilled."""

    mode: Mode
    patches: Patches | None
    prompt: Prompt
    embeds: ImageEmbeds
    logits: Floats
    sampler: Sampler
    room: int
    times_s: tuple[float, float, float, float]

    def timings(self, generated_s: float, scored_s: float, *, generated: int, scored: int) -> Timings:
        """Of the answer whose tokens were generated, and labels scored, at those times."""
        start, preprocessed, seen, prefilled = self.times_s
        return Timings(
            preprocess_ms=(preprocessed - start) * 1e3,
            vision_ms=(seen - preprocessed) * 1e3,
            prefill_ms=(prefilled - seen) * 1e3,
            decode_ms=(generated_s - prefilled) * 1e3,
            labels_ms=(scored_s - generated_s) * 1e3,
            ttft_ms=(prefilled - start) * 1e3,
            total_ms=(scored_s - start) * 1e3,
            prompt_tokens=len(self.prompt.ids),
            generated_tokens=generated,
            scored_tokens=scored,
        )


class Scored(NamedTuple):
    """Scores of the classes, after `text` (a thought, or nothing) and its `frame`; times_s: generated, scored."""

    context: Context
    text: str
    tokens: int
    frame: Frame
    scores: ClassScores
    times_s: tuple[float, float]

    @property
    def timings(self) -> Timings:
        """Of the whole answer."""
        return self.context.timings(*self.times_s, generated=self.tokens, scored=self.scores.nodes)
