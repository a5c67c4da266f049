"""From the prompt's logits to an answer: a name directly, or a thought and then a name.

Knows the answer format (`<think>…</think> <answer>…</answer>`, Fine-R1) and the decoder; not pictures, not bundles.
Yields text as it is generated; the generator's return value is the `Answer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers.decoders import DecodeStream

from fgr_edge.runtime.labels import LabelTrie
from fgr_edge.runtime.prompt import PromptBuilder
from fgr_edge.runtime.sampling import Sampler

Logits = npt.NDArray[np.float32]
Extend = Callable[[Sequence[int]], Logits]
THINK_END = "</think>"
ANSWER_TOKENS = 64  # room for the answer after a thought that used up its budget
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """text: all that was generated; label: index into the labels, where there are any; name: the answer as text."""

    text: str
    tokens: int
    name: str | None
    label: int | None
    probability: float | None


class Answerer:
    """Decodes answers for one list of labels (or none).

    Args:
        prompts: the bundle's tokenizer and wording.
        eos_ids: tokens that end a turn; the first closes a label.
        labels: class names to choose among; empty for free answers.

    Attributes:
        closing_tokens: what an answer may add to a thought that used up its room.
    """

    def __init__(self, prompts: PromptBuilder, eos_ids: Sequence[int], labels: Sequence[str]) -> None:
        self._prompts = prompts
        self._eos_ids = frozenset(eos_ids)
        self._labels = labels
        self._closing = next(iter(eos_ids))
        self._tries: dict[str, LabelTrie] = {}
        longest = max((len(prompts.encode_text(label)) for label in labels), default=ANSWER_TOKENS)
        self.closing_tokens = longest + len(prompts.encode_text(f"{THINK_END} <answer></answer>")) + 1

    def direct(
        self, logits: Logits, extend: Extend, sampler: Sampler, max_new_tokens: int
    ) -> Generator[str, None, Answer]:
        """Name the picture right after the prompt."""
        if self._labels:
            return (yield from self._choose(logits, extend, "", "", generated=0, before=""))
        chosen: list[float] = []
        text, ids, _ = yield from self._free(logits, extend, sampler, max_new_tokens, chosen=chosen)
        return Answer(text, len(ids), text.strip() or None, None, float(np.exp(sum(chosen))))

    def reason(
        self, logits: Logits, extend: Extend, sampler: Sampler, max_new_tokens: int, think_budget: int | None
    ) -> Generator[str, None, Answer]:
        """Think, then name. At `think_budget` tokens the thought is closed and the answer asked for."""
        room = max_new_tokens if think_budget is None else min(think_budget, max_new_tokens)
        free = not self._labels and think_budget is None
        until = None if free else THINK_END
        text, ids, logits = yield from self._free(logits, extend, sampler, room, until=until)
        if free:
            return Answer(text, len(ids), _answer_in(text), None, None)
        lead = "" if THINK_END in text else THINK_END
        lead += "<answer>" if (text + lead)[-1:].isspace() else " <answer>"
        if self._labels:
            return (yield from self._choose(logits, extend, lead, "</answer>", generated=len(ids), before=text))
        logits = extend(self._prompts.encode_text(lead))
        yield lead
        rest, more, _ = yield from self._free(logits, extend, sampler, ANSWER_TOKENS, until="</answer>")
        text += lead + rest
        return Answer(text, len(ids) + len(more), _answer_in(text), None, None)

    def _choose(
        self, logits: Logits, extend: Extend, lead: str, tail: str, *, generated: int, before: str
    ) -> Generator[str, None, Answer]:
        """Decode greedily among `lead + label + tail` of every label."""
        if lead not in self._tries:
            closing = () if tail else (self._closing,)
            encode = self._prompts.encode_text
            self._tries[lead] = LabelTrie([[*encode(lead + label + tail), *closing] for label in self._labels])
        choice = self._tries[lead].greedy(logits, extend)
        name = self._labels[choice.label]
        piece = lead + name + tail
        yield piece
        return Answer(before + piece, generated + len(choice.tokens), name, choice.label, choice.probability)

    def _free(
        self,
        logits: Logits,
        extend: Extend,
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
            token = sampler.next(logits)
            if chosen is not None:
                chosen.append(_log_softmax(logits, token))
            if token in self._eos_ids:
                break
            ids.append(token)
            piece = stream.step(self._prompts.tokenizer, token) or ""
            if piece:
                text += piece
                yield piece
            logits = extend([token])
            if until is not None and until in text[-len(piece) - len(until) :]:
                break
        return text, ids, logits


def _log_softmax(logits: Logits, token: int) -> float:
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum(dtype=np.float64)))


def _answer_in(text: str) -> str | None:
    found = _ANSWER.search(text)
    return (found.group(1).strip() or None) if found else None


def reasoning_in(text: str) -> str:
    """The thought of a generated text, without its tags."""
    return text.split(THINK_END, 1)[0].replace("<think>", "", 1).strip()
