"""Every stage of one picture, from pixels to tokens: what a parity report compares and golden outputs record.

In: logits after a prompt, and calls that append tokens to it. Out: greedy tokens with the logits that chose them, and
logits along a text that is given. Knows tokens; not text, labels or bundles. No sampling and no penalty: what the
graphs say, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.decoder import Decoder
from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.vision import ImageEmbeds

Floats = npt.NDArray[np.float32]
Extend = Callable[[Sequence[int]], Floats]
STAGE_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """What each stage gave for one picture and one prompt.

    Attributes:
        patches: the preprocessed picture; None where its embeddings were given.
        embeds: from the vision graph.
        logits: [V] float32, after the prompt.
        tokens: [T] chosen greedily, the token that ends the turn included; of `along`, where it was given, the same T.
        token_logits: [T, V] float32, those that each of `tokens` is judged by; the first row is `logits`.
        label_log_probs: [C] float64, uncalibrated, after the prompt, or in reason mode after the thought in `tokens`;
            None without labels.
    """

    patches: Patches | None
    embeds: ImageEmbeds
    logits: Floats
    tokens: npt.NDArray[np.int64]
    token_logits: Floats
    label_log_probs: npt.NDArray[np.float64] | None


def greedy(logits: Floats, extend: Extend, stop_ids: Collection[int], most: int) -> tuple[list[int], Floats]:
    """The likeliest token, again and again, until one ends the turn or there are `most`; ids [T] and logits [T, V]."""
    tokens: list[int] = []
    rows: list[Floats] = []
    while True:
        rows.append(logits.copy())  # the decoder overwrites its own
        tokens.append(int(logits.argmax()))
        if tokens[-1] in stop_ids or len(tokens) >= most:
            return tokens, np.stack(rows)
        logits = extend(tokens[-1:])


def logits_along(first: Floats, embeds: Floats, decoder: Decoder) -> Floats:
    """Logits [T, V] that each of T tokens after the prompt is judged by; the decoder appends all but the last.

    Args:
        first: [V], after the prompt.
        embeds: [T, H], of the tokens.
    """
    if len(embeds) == 1:
        return first[None]
    later = decoder.forward(embeds[:-1], np.arange(len(embeds) - 1))
    rows: Floats = np.concatenate([first[None], later])
    return rows
