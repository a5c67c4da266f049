"""A recognizer taken through a picture one step at a time, each step's outcome laid open: what `verify` compares.

In: an open recognizer. Out: the arrays that pass between its parts, copied. It looks into the recognizer instead of
opening parts of its own: what is verified must be what runs. Decides nothing, compares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.feed import picture_feed
from fgr_edge.runtime.image import ImageInput, Patches
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, LabelScorer
from fgr_edge.runtime.prompt import Mode, Prompt
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.rotary import IntArray
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]


class Stepper:
    """Steps of one recognizer, in the order of `recognizer.Recognizer`'s own.

    Args:
        recognizer: one with labels; nobody else uses it meanwhile.

    Raises:
        ConfigError: it has no labels.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        if recognizer._scorer is None:
            raise ConfigError("the recognizer has no labels to score; open it with some")
        self._recognizer = recognizer
        self._scorer: LabelScorer = recognizer._scorer

    def patches(self, picture: ImageInput) -> Patches:
        """The preprocessed picture."""
        return self._recognizer.model.patches(picture)

    def vision_tables(self, patches: Patches) -> dict[str, npt.NDArray[Any]]:
        """What the vision graph is given beside the pixels."""
        _, height, width = patches.grid
        return dict(self._recognizer.model.vision._grid_tables(height, width))

    def embeds(self, patches: Patches) -> ImageEmbeds:
        """The picture as the vision graph sees it."""
        return self._recognizer.model.vision.encode(patches)

    def prompt(self, mode: Mode, image_tokens: int) -> Prompt:
        """The bundle's own question."""
        return self._recognizer.model.prompts.build(None, mode, image_tokens)

    def positions(self, prompt: Prompt, embeds: ImageEmbeds) -> IntArray:
        """Rotary positions [3, S] of the prompt."""
        return picture_feed(prompt, embeds, self._recognizer.model.embedding.gather).positions

    def reserve(self, tokens: int) -> None:
        """Room for so many tokens and the labels' branches, so that the cache does not grow (and empty) later."""
        decoder = self._recognizer.model.decoder
        decoder.reserve(min(tokens, decoder.most_tokens(self._scorer.branches)), self._scorer.branches)

    def prefill(self, prompt: Prompt, embeds: ImageEmbeds, room: int) -> Floats:
        """Start a sequence with `room` for more tokens; logits [V] after it."""
        return self._recognizer.model.prefill(prompt, embeds, room, self._scorer.branches).copy()

    def rotary_rows(self, count: int) -> tuple[Floats, Floats]:
        """cos and sin [count, D / 2] of the first `count` cache slots."""
        return self._recognizer.model.decoder.rotary_rows(count)

    def one_by_one(self, tokens: Sequence[int]) -> Floats:
        """Append tokens, each in a call of its own; logits [T, V] after each."""
        return np.stack([self._recognizer.model.extend([token]).copy() for token in tokens])

    def at_once(self, tokens: Sequence[int]) -> Floats:
        """Append tokens in one call; logits [T, V] after each."""
        recognizer = self._recognizer
        embeds = recognizer.model.embedding.gather(np.asarray(tokens, np.int64))
        return recognizer.model.decoder.forward(embeds, np.arange(len(tokens))).copy()

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self._recognizer.model.decoder.rewind(length)

    def label_log_probs(self, logits: Floats) -> npt.NDArray[np.float64]:
        """Log-probability [C] of every class after the text in the cache, which stays as it is."""
        return self._scorer.all(DIRECT, logits, self._recognizer.model.extend).log_probs
