"""What the decoder reads of each calibration picture: the prompts of run time, and the answers to them.

In: the picture as tokens, its class, and the thought that the original model had. Out: calls, as the decoder takes
them: the direct prompt followed by the right name, then the reasoning prompt followed by the thought. What both begin
with, the picture above all, is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.export.checkpoint import LazyTensor
from fgr_edge.runtime.feed import Feed, picture_feed
from fgr_edge.runtime.prompt import Prompt, PromptBuilder, PromptSpec
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.rotary import IntArray
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]

THOUGHT_TOKENS = 512  # of each thought at most; Fine-R1's own take 540 on average


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Tokens that the decoder reads at once.

    Attributes:
        past: tokens of the call before that stay in front of them.
        embeds: [S, H].
        positions: [3, past + S].
        deepstack: per layer [S, H].
        answered_from: the first of the S tokens whose logits are wanted at run time: the last one of the prompt.
    """

    past: int
    embeds: Floats
    positions: IntArray
    deepstack: tuple[Floats, ...]
    answered_from: int


@dataclass(frozen=True, slots=True)
class _Text:
    prompt: Prompt
    answer: list[int]

    @property
    def whole(self) -> Prompt:
        ids = np.concatenate([self.prompt.ids, np.asarray(self.answer, np.int64)])
        return Prompt(ids, self.prompt.image_start, self.prompt.image_tokens)


class TextFeeder:
    """Turns pictures into calls.

    Args:
        prompts: tokenizer and wording.
        embedding: [V, H].
    """

    def __init__(self, prompts: PromptBuilder, embedding: LazyTensor) -> None:
        self._prompts = prompts
        self._embedding = embedding

    def calls(self, picture: LabelledPicture, seen: ImageEmbeds, thought: str) -> tuple[Call, Call]:
        """The direct text and the reasoning text; the closing token after a name is scored at run time, never read."""
        encode, build, tokens = self._prompts.encode_text, self._prompts.build, len(seen.tokens)
        direct = _Text(build(picture.question, "direct", tokens), encode(picture.label))
        reason = _Text(build(picture.question, "reason", tokens), encode(thought))
        past = min(_shared(direct.whole.ids, reason.whole.ids), len(reason.prompt.ids) - 1)
        feeds = [picture_feed(text.whole, seen, self._gather) for text in (direct, reason)]
        return _call(feeds[0], 0, len(direct.prompt.ids)), _call(feeds[1], past, len(reason.prompt.ids))

    def _gather(self, ids: IntArray) -> Floats:
        unique, places = np.unique(ids, return_inverse=True)
        rows = np.concatenate([self._embedding.rows(int(i), int(i) + 1) for i in unique])
        found: Floats = rows[places]
        return found


def think(
    reference: Path,
    pictures: Sequence[LabelledPicture],
    *,
    max_new_tokens: int = THOUGHT_TOKENS,
    step: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """What the original model says of each picture when it may think first, answer included.

    Args:
        reference: bundle of the original model.
        step: called with 1 for every picture.
    """
    recognizer = Recognizer(reference)
    spec = read_spec(PromptSpec, recognizer.bundle.manifest["prompt"], "prompt")
    thoughts = []
    for picture in pictures:
        question = spec.question if picture.question is None else picture.question
        wording = spec.reason.replace("{question}", question)
        thoughts.append(recognizer.generate(picture.path, wording, max_new_tokens=max_new_tokens))
        step(1)
    return thoughts


def _shared(a: IntArray, b: IntArray) -> int:
    """How many ids both begin with."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def _call(feed: Feed, past: int, prompt_tokens: int) -> Call:
    deepstack = tuple(features.on_host()[past:] for features in feed.deepstack)
    return Call(past, feed.embeds.on_host()[past:], feed.positions, deepstack, prompt_tokens - 1 - past)
