"""Free text from the model: a thought, a name, or both, in Fine-R1's format `<think>…</think> <answer>…</answer>`.

Knows the answer format and the decoder; not labels, pictures or bundles. Yields text as it is generated; what a
generator returns is the whole of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers.decoders import DecodeStream

from fgr_edge.runtime.head import LazyLogits
from fgr_edge.runtime.label_trie.label_scorer import REASONED, Frame
from fgr_edge.runtime.label_trie.label_scores import log_normalizers
from fgr_edge.runtime.prompt import PromptBuilder
from fgr_edge.runtime.sampling import Sampler

Logits = npt.NDArray[np.float32]
Advance = Callable[[Sequence[int]], LazyLogits]
THINK_END = "</think>"
ANSWER_TAG = "<answer>"
ANSWER_TOKENS = 64  # room for the answer after a thought that used up its budget
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Text:
    """text: all that was generated; tokens: of it; name: the answer in it; probability: of the answer's tokens."""

    text: str
    tokens: int
    name: str | None
    probability: float | None = None


class Thought(NamedTuple):
    """text and tokens so far, the logits after them, and the frame that the answer stands in."""

    text: str
    tokens: int
    logits: Logits
    frame: Frame


class Answerer:
    """Generates text.

    Args:
        prompts: the bundle's tokenizer and wording.
        eos_ids: tokens that end a turn.

    Attributes:
        closing_tokens: what closing a thought and asking for the answer may add to it.
    """

    def __init__(self, prompts: PromptBuilder, eos_ids: Sequence[int]) -> None:
        self._prompts = prompts
        self._eos_ids = frozenset(eos_ids)
        self.closing_tokens = len(prompts.encode_text(f"{THINK_END} <answer></answer>")) + 1

    def name(self, logits: Logits, advance: Advance, sampler: Sampler, room: int) -> Generator[str, None, Text]:
        """Generate a name right after the prompt; its probability is over the vocabulary."""
        chosen: list[float] = []
        text, ids, _ = yield from self._free(logits, advance, sampler, room, chosen=chosen)
        return Text(text, len(ids), text.strip() or None, float(np.exp(sum(chosen))))

    def reason(self, logits: Logits, advance: Advance, sampler: Sampler, room: int) -> Generator[str, None, Text]:
        """Generate thought and answer until the model stops."""
        text, ids, _ = yield from self._free(logits, advance, sampler, room)
        return Text(text, len(ids), _answer_in(text))

    def think(self, logits: Logits, advance: Advance, sampler: Sampler, room: int) -> Generator[str, None, Thought]:
        """Generate a thought. Where it does not end within `room` tokens, the frame closes it."""
        text, ids, logits = yield from self._free(logits, advance, sampler, room, until=THINK_END)
        return Thought(text, len(ids), logits, Frame(_lead_after(text), REASONED.tail))

    def thought_in(self, ids: Sequence[int]) -> tuple[int, Frame]:
        """How many of generated `ids` are the thought, and the frame that the answer after it stands in."""
        stream = DecodeStream(skip_special_tokens=True)
        text = ""
        for count, token in enumerate(ids):
            if token in self._eos_ids:
                return count, Frame(_lead_after(text), REASONED.tail)
            text += stream.step(self._prompts.tokenizer, token) or ""
            if THINK_END in text:
                return count + 1, Frame(_lead_after(text), REASONED.tail)
        return len(ids), Frame(_lead_after(text), REASONED.tail)

    def name_after(self, thought: Thought, advance: Advance, sampler: Sampler) -> Generator[str, None, Text]:
        """Generate the answer to a thought."""
        lead = thought.frame.lead
        logits = advance(self._prompts.encode_text(lead))
        yield lead
        rest, ids, _ = yield from self._free(logits, advance, sampler, ANSWER_TOKENS, until=thought.frame.tail)
        text = thought.text + lead + rest
        return Text(text, thought.tokens + len(ids), _answer_in(text))

    def _free(
        self,
        logits: Logits | LazyLogits,
        advance: Advance,
        sampler: Sampler,
        room: int,
        *,
        until: str | None = None,
        chosen: list[float] | None = None,
    ) -> Generator[str, None, tuple[str, list[int], Logits]]:
        """Generate until a stop token, `until` in the text, or `room` tokens.

        Returns text, ids and the logits after the last id; appends each token's log-probability, the stop token's too,
        to `chosen`.
        """
        stream = DecodeStream(skip_special_tokens=True)
        ids: list[int] = []
        text = ""
        while len(ids) < room:
            if chosen is None:
                token = sampler.next(logits)
            else:
                row = _full(logits)
                token = sampler.next(row)
                chosen.append(float(row[token] - log_normalizers(row[None])[0]))
            if token in self._eos_ids:
                break
            ids.append(token)
            piece = stream.step(self._prompts.tokenizer, token) or ""
            if piece:
                text += piece
                yield piece
            logits = advance([token])
            if until is not None and until in text[-len(piece) - len(until) :]:
                break
        return text, ids, _full(logits)


def _full(logits: Logits | LazyLogits) -> Logits:
    return logits.full() if isinstance(logits, LazyLogits) else logits


def _lead_after(text: str) -> str:
    """What is missing between a thought and the name in its answer."""
    _, end, after = text.partition(THINK_END)
    # The token that ended the thought may hold more: a line break, or the "<" of the answer's tag.
    begun = after.lstrip()
    if begun and ANSWER_TAG.startswith(begun):
        return ANSWER_TAG.removeprefix(begun)
    gap = "" if after[-1:].isspace() else " "
    return f"{'' if end else THINK_END}{gap}{ANSWER_TAG}"


def _answer_in(text: str) -> str | None:
    found = _ANSWER.search(text)
    return (found.group(1).strip() or None) if found else None


def reasoning_in(text: str) -> str:
    """The thought of a generated text, without its tags."""
    return text.split(THINK_END, 1)[0].replace("<think>", "", 1).strip()
