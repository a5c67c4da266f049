"""A prompt with its picture as the decoder takes it: embeddings, positions, DeepStack features. Runs no graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.placed_rows import PlacedRows
from fgr_edge.runtime.prompt import Prompt
from fgr_edge.runtime.rotary import IntArray, prompt_positions
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """embeds: [S, H]; positions: [3, S]; deepstack: per layer [S, H], zero where there is no picture."""

    embeds: PlacedRows
    positions: IntArray
    deepstack: tuple[PlacedRows, ...]


def picture_feed(prompt: Prompt, picture: ImageEmbeds, gather: Callable[[IntArray], Floats]) -> Feed:
    """Put the picture's tokens in their place, without moving them; `gather` embeds token ids."""
    place = slice(prompt.image_start, prompt.image_start + prompt.image_tokens)
    embeds = gather(prompt.ids)
    tokens, *deepstack = picture.buffers
    zeros = np.zeros_like(embeds) if deepstack else embeds
    positions = prompt_positions(prompt.image_start, picture.grid, len(prompt.ids) - place.stop)
    layers = tuple(PlacedRows(zeros, features, place) for features in deepstack)
    return Feed(PlacedRows(embeds, tokens, place), positions, layers)
