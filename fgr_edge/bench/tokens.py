"""Prefill and decode of exact numbers of tokens on a recognizer's own decoder: llama-bench's pp and tg.

In: an open recognizer, a picture, counts. Out: milliseconds. It looks into the recognizer instead of opening a decoder
of its own: what is timed is what answers. Stop tokens stop nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fgr_edge.runtime.bundle import TOKENIZER, Bundle
from fgr_edge.runtime.image import ImageConfig, load_image
from fgr_edge.runtime.pictures.resize import target_size
from fgr_edge.runtime.prompt import PromptBuilder, PromptSpec
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.sampling import Sampler, SamplingConfig
from fgr_edge.runtime.specs import read_spec


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """token_ms: of each; full_head_tokens: that a screen could not tell, None without one."""

    context_start_tokens: int
    token_ms: tuple[float, ...]
    full_head_tokens: int | None


def prompt_tokens(bundle: Bundle, picture: Path) -> int:
    """Of the picture's prompt in reason mode; opens no graph.

    Raises:
        ImageError: the picture cannot be opened.
    """
    manifest = bundle.manifest
    image, numbers = load_image(picture), read_spec(ImageConfig, manifest["image"], "image")
    side_px = numbers.patch_size * numbers.merge_size
    height, width = target_size(image.height, image.width, numbers)
    prompts = PromptBuilder(bundle.file(TOKENIZER), read_spec(PromptSpec, manifest["prompt"], "prompt"))
    return len(prompts.build(None, "reason", (height // side_px) * (width // side_px)).ids)


class TokenRunner:
    """Times one recognizer, which nobody else uses meanwhile."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._prompt_tokens = self._first = 0

    def prefill_ms(self, tokens: int) -> float:
        """Read so many tokens of text, the same each time, into an empty cache, up to the last one's logits."""
        recognizer = self._recognizer
        ids = np.random.default_rng(tokens).integers(0, recognizer.bundle.manifest["decoder"]["vocab"], tokens)
        start = time.perf_counter()
        embeds = recognizer.model.embedding.gather(ids)
        recognizer.model.decoder.prefill(embeds, np.tile(np.arange(tokens), (3, 1)), max_new_tokens=0)
        return (time.perf_counter() - start) * 1e3

    def read(self, picture: Path, room: int) -> None:
        """Read the picture's prompt in reason mode, with room for so many tokens after it."""
        recognizer = self._recognizer
        embeds = recognizer.see(picture)
        prompt = recognizer.model.prompts.build(None, "reason", len(embeds.tokens))
        self._first = int(recognizer.model.prefill(prompt, embeds, room).argmax())
        self._prompt_tokens = len(prompt.ids)

    def generate(self, tokens: int) -> DecodeRun:
        """After the prompt read last, so many times: append the last token, choose the likeliest next."""
        recognizer, sampler = self._recognizer, Sampler(SamplingConfig())
        head = recognizer.model.decoder._head
        screen = None if head is None else head.screen
        recognizer.model.decoder.rewind(self._prompt_tokens)
        token, full = self._first, 0
        times = [time.perf_counter()]
        for _ in range(tokens):
            token = sampler.next(recognizer.model.advance([token]))
            times.append(time.perf_counter())
            full += screen is not None and screen.candidates is None
        spans = tuple((end - start) * 1e3 for start, end in pairwise(times))
        return DecodeRun(self._prompt_tokens, spans, None if screen is None else full)

    def decode(self, picture: Path, tokens: int) -> DecodeRun:
        """Read a picture, then generate; what is timed is the generation."""
        self.read(picture, tokens)
        return self.generate(tokens)
