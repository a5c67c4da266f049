"""The runtime of this project: `Recognizer`'s own stages, one after another, so that each can be timed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.peers.peer import Decoded, FirstToken
from fgr_edge import Recognizer
from fgr_edge.runtime.sampling import Sampler, SamplingConfig


class FgrEdge:
    """A bundle, opened.

    Args:
        bundle: Folder of the bundle.
        name: Column of the table.
        threads: Of one operator.
        room: Tokens to keep free in the cache behind the prompt.
    """

    def __init__(self, bundle: Path, name: str, threads: int, room: int) -> None:
        self.name = name
        self._recognizer = Recognizer(bundle, threads=threads)
        self._room = room
        self._prompt_tokens = 0
        self._first = 0

    def first_logits(self, picture: Path) -> npt.NDArray[np.float32]:
        """Logits [V] that the first token is chosen by."""
        model = self._recognizer.model
        embeds = model.vision.encode(model.patches(picture))
        prompt = model.prompts.build(None, "direct", embeds.count)
        logits: npt.NDArray[np.float32] = model.prefill(prompt, embeds, self._room)
        return logits

    def first_token(self, picture: Path) -> FirstToken:
        """As `runtime/reading.py` does it."""
        model = self._recognizer.model
        times = [time.perf_counter()]
        patches = model.patches(picture)
        times.append(time.perf_counter())
        embeds = model.vision.encode(patches)
        times.append(time.perf_counter())
        prompt = model.prompts.build(None, "direct", embeds.count)
        self._first = int(model.prefill(prompt, embeds, self._room).argmax())
        times.append(time.perf_counter())
        names = ("preprocess", "vision", "prefill")
        stages = {name: (end - start) * 1e3 for name, start, end in zip(names, times, times[1:], strict=False)}
        self._prompt_tokens = len(prompt.ids)
        return FirstToken(self._first, (times[-1] - times[0]) * 1e3, tuple(prompt.ids.tolist()), stages)

    def decode(self, new_tokens: int) -> Decoded:
        """Embedding row, decoder step, likeliest token; from the state that the prefill left."""
        recognizer, sampler = self._recognizer, Sampler(SamplingConfig())
        head = recognizer.model.decoder._head
        screen = None if head is None else head.screen
        candidates: list[int | None] = []
        recognizer.model.decoder.rewind(self._prompt_tokens)
        tokens = [self._first]
        start = time.perf_counter()
        for _ in range(new_tokens - 1):
            tokens.append(sampler.next(recognizer.model.advance(tokens[-1:])))
            if screen is not None:
                candidates.append(screen.candidates)
        return Decoded(tuple(tokens), (time.perf_counter() - start) * 1e3, tuple(candidates))
