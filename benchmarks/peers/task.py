"""What every contender is asked: one prompt, one picture, one list of labels, in the same tokens for everybody.

In: a checkpoint's tokenizer, names, sizes. Out: the requests of `worker.py`. The prompt is a list of names cut at the
wanted length; a label is its tokens and the one that ends a turn, as `fgr-edge` scores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.label_names import names
from fgr_edge.runtime.label_trie.label_scorer import DIRECT, compile_frames
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION, DIRECT_TEMPLATE

END_OF_TURN = "<|im_end|>"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class Task:
    """Requests. `digest` tells two tasks apart; it does not depend on where the picture lies.

    Attributes:
        labels: one a prompt; rounds take them in turns.
    """

    ids: list[int]
    decode: dict[str, Any]
    picture: dict[str, Any]
    labels: list[dict[str, Any]]

    @property
    def digest(self) -> str:
        """Of prompts, labels, number of tokens and the words around a picture."""
        text = json.dumps([self.decode, self.labels, self.picture["text"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_task(
    checkpoint: Path,
    picture: Path,
    labels: Sequence[str],
    prompt_tokens: int,
    new_tokens: int,
    prompts: Sequence[list[int]] = (),
) -> Task:
    """The requests for one checkpoint; `prompts`, where there are any, stand for the list of names.

    Raises:
        ValueError: there are not enough names for so long a prompt, or no token that ends a turn.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompts = prompts or [_names_prompt(tokenizer, prompt_tokens)]
    ids = prompts[0]
    end = tokenizer.token_to_id(END_OF_TURN)
    if end is None:
        raise ValueError(f"{checkpoint} has no token {END_OF_TURN}; expected a tokenizer of the Qwen family")

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    rows = compile_frames(LabelSet.from_names(labels), encode, end)[DIRECT.key]
    asked = CHAT.replace("{question}", DIRECT_TEMPLATE.replace("{question}", DEFAULT_QUESTION))
    return Task(
        ids,
        {"do": "decode", "ids": ids, "new_tokens": new_tokens},
        {"do": "picture", "path": str(picture), "text": asked},
        [{"do": "labels", "ids": prompt, "labels": [list(row) for row in rows]} for prompt in prompts],
    )


def _names_prompt(tokenizer: Tokenizer, tokens: int) -> list[int]:
    text = "The classes are: " + ", ".join(names(tokens))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) < tokens:
        raise ValueError(f"{tokens} names are {len(ids)} tokens, expected at least as many; ask for fewer")
    return ids[:tokens]
