"""A prompt with its picture as the decoder takes it: embeddings, positions, DeepStack features. Runs no graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.prompt import Prompt
from fgr_edge.runtime.rotary import IntArray, prompt_positions
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """embeds: [S, H]; positions: [3, S]; deepstack: per layer [S, H], zero where there is no picture."""

    embeds: Floats
    positions: IntArray
    deepstack: tuple[Floats, ...]


def picture_feed(prompt: Prompt, picture: ImageEmbeds, gather: Callable[[IntArray], Floats]) -> Feed:
    """Put the picture's tokens in their place; `gather` embeds token ids."""
    place = slice(prompt.image_start, prompt.image_start + prompt.image_tokens)
    embeds = gather(prompt.ids)
    embeds[place] = picture.tokens
    deepstack = []
    for features in picture.deepstack:
        layer = np.zeros_like(embeds)
        layer[place] = features
        deepstack.append(layer)
    positions = prompt_positions(prompt.image_start, picture.grid, len(prompt.ids) - place.stop)
    return Feed(embeds, positions, tuple(deepstack))
