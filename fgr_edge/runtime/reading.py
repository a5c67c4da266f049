"""A picture and a message become a `Context`: everything up to the first logits, and then the text that follows them.

In: a `Model`, requests. Out: contexts, with room in the cache for the answer. Knows how long answers may get, and
what was read before; nothing of labels but the room that they take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fgr_edge.runtime.answer import ANSWER_TOKENS
from fgr_edge.runtime.context import Context
from fgr_edge.runtime.guessing.speculation import MOST_ROWS, Speculation
from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.image import ImageInput, Patches
from fgr_edge.runtime.label_trie.label_scorer import LabelScorer
from fgr_edge.runtime.model import Model
from fgr_edge.runtime.pictures.last_picture import LastPicture
from fgr_edge.runtime.prompt import Mode, Prompt
from fgr_edge.runtime.request import Request
from fgr_edge.runtime.sampling import Sampler, SamplingConfig
from fgr_edge.runtime.vision import ImageEmbeds

DIRECT_TOKENS = 64  # generated at most for a name, where no labels bound it
REASON_TOKENS = 1024  # and for a thought; Fine-R1's own take 540 on average


@dataclass(slots=True)
class Reader:
    """Reads one picture after another with one model.

    Attributes:
        model: open.
        picture: the last one.
        speculation: guesses texts; None where nothing is guessed.
        closing_tokens: that close a thought.
    """

    model: Model
    picture: LastPicture
    speculation: Speculation | None
    closing_tokens: int

    def read(self, image: ImageInput | ImageEmbeds, request: Request, scorer: LabelScorer | None = None) -> Context:
        """Everything up to the first logits; leaves room in the cache for what follows, the labels among it.

        Raises:
            ImageError: the picture cannot be used.
        """
        start = time.perf_counter()
        patches = None if isinstance(image, ImageEmbeds) else self.model.patches(image)
        preprocessed = time.perf_counter()
        embeds = image if isinstance(image, ImageEmbeds) else self._seen(patches)
        seen = time.perf_counter()
        prompt = self._prompt(request, embeds)
        closing = self.closing_tokens + (ANSWER_TOKENS if scorer is None else scorer.longest)
        beside = MOST_ROWS if self._speculates(request.mode) else 0
        branches = max(0 if scorer is None else scorer.branches, beside)
        left = self.model.decoder.most_tokens(branches) - len(prompt.ids) - closing
        sampling = request.sampling or self._default_sampling(request, left)
        number = self.picture.take(patches, embeds)
        logits = self.model.prefill(prompt, embeds, sampling.max_new_tokens + closing, branches, picture=number)
        room = min(sampling.max_new_tokens, request.think_budget or sampling.max_new_tokens)
        times = (start, preprocessed, seen, time.perf_counter())
        return Context(request.mode, patches, prompt, embeds, logits, Sampler(sampling, prompt.ids), room, times)

    @contextmanager
    def writing(self, context: Context) -> Iterator[Callable[[Sequence[int]], LazyLogits]]:
        """What appends tokens of a text after the prompt; afterwards the cache holds the text."""
        speculation = self.speculation
        if speculation is None or not self._speculates(context.mode):
            yield self.model.advance
            return
        speculation.begin(context.prompt.text_ids)
        yield speculation.advance
        speculation.end()

    def _seen(self, patches: Patches | None) -> ImageEmbeds:
        assert patches is not None
        known = self.picture.embeds_of(patches)
        return self.model.vision.encode(patches) if known is None else known

    def _prompt(self, request: Request, embeds: ImageEmbeds) -> Prompt:
        if request.wording is None:
            return self.model.prompts.build(request.question, request.mode, embeds.count)
        return self.model.prompts.build_asked(request.wording, embeds.count)

    def _default_sampling(self, request: Request, left: int) -> SamplingConfig:
        """Greedy, with the checkpoint's repetition penalty and as much room as the mode needs and is left."""
        wanted = request.max_new_tokens or (DIRECT_TOKENS if request.mode == "direct" else REASON_TOKENS)
        penalty = self.model.repetition_penalty
        return SamplingConfig(max_new_tokens=max(1, min(wanted, left)), repetition_penalty=penalty)

    def _speculates(self, mode: Mode) -> bool:
        """A name alone is too short to be worth guessing."""
        return self.speculation is not None and mode == "reason"
