"""Chat prompt to token ids: special tokens come from the template only, never from what a user wrote.

In: a template with `{image}` and `{question}`, a tokenizer, a question, the number of picture tokens. Out: token ids
and where the picture stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from fgr_edge.errors import BundleError
from fgr_edge.runtime.freed_memory import give_back_freed_memory

Mode = Literal["direct", "reason"]
_SLOT = re.compile(r"(\{image\}|\{question\})")


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """The manifest's `prompt` part.

    Attributes:
        template: the chat rendered around one picture and one question, with `{image}` and `{question}` in it.
        direct: wording that asks for the name alone, with `{question}` in it.
        reason: wording that asks for reasoning first, with `{question}` in it.
        question: asked when the caller gives none.
        image_token: repeated once for every picture token.
    """

    template: str
    direct: str
    reason: str
    question: str
    image_token: str

    def __post_init__(self) -> None:
        for name, slots in (
            ("template", ("{image}", "{question}")),
            ("direct", ("{question}",)),
            ("reason", ("{question}",)),
        ):
            text = getattr(self, name)
            for slot in slots:
                if text.count(slot) != 1:
                    raise BundleError(
                        f"prompt {name!r} must hold {slot} once, found it {text.count(slot)} times: {text!r}"
                    )


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids [S] int64, with the picture at image_start : image_start + image_tokens."""

    ids: npt.NDArray[np.int64]
    image_start: int
    image_tokens: int

    @property
    def text_ids(self) -> list[int]:
        """The ids without the picture's."""
        before, after = self.ids[: self.image_start], self.ids[self.image_start + self.image_tokens :]
        found: list[int] = np.concatenate([before, after]).tolist()
        return found

    def told_apart(self, picture: int) -> npt.NDArray[np.int64]:
        """The ids, with -`picture` in place of the picture's: see `known_prefix`."""
        ids = self.ids.copy()
        ids[self.image_start : self.image_start + self.image_tokens] = -picture
        return ids


class PromptBuilder:
    """Turns questions into token ids and token ids into text.

    Args:
        tokenizer_path: tokenizer.json of the bundle.
        spec: the bundle's wording.
    """

    def __init__(self, tokenizer_path: Path, spec: PromptSpec) -> None:
        self.spec = spec
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # tokenizers raises no narrower class
            raise BundleError(f"{tokenizer_path} is no tokenizer ({error}); export the bundle again") from error
        give_back_freed_memory()
        image_id = self.tokenizer.token_to_id(spec.image_token)
        if image_id is None:
            raise BundleError(
                f"tokenizer.json has no token {spec.image_token!r}, which the prompt repeats for the picture"
            )
        self._image_id = image_id
        self._parts = _SLOT.split(spec.template)
        # The question asked last, encoded: a camera asks the same one of every picture.
        self._asked: str | None = None
        self._around = (np.empty(0, np.int64), np.empty(0, np.int64))

    def build(self, question: str | None, mode: Mode, image_tokens: int) -> Prompt:
        """Encode the chat around `question` (None asks the bundle's own) for a picture of `image_tokens` tokens."""
        wording = self.spec.direct if mode == "direct" else self.spec.reason
        return self.build_asked(
            wording.replace("{question}", self.spec.question if question is None else question), image_tokens
        )

    def build_asked(self, asked: str, image_tokens: int) -> Prompt:
        """Encode the chat around a whole user message, for a picture of `image_tokens` tokens."""
        if asked != self._asked:
            self._asked, self._around = asked, self._encode(asked)
        before, after = self._around
        picture = np.full(image_tokens, self._image_id, np.int64)
        return Prompt(np.concatenate([before, picture, after]), len(before), image_tokens)

    def _encode(self, asked: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids before and after the picture."""
        ids: list[int] = []
        start = 0
        for part in self._parts:
            if part == "{image}":
                start = len(ids)
            elif part == "{question}":
                ids += self.encode_text(asked)
            elif part:
                self.tokenizer.encode_special_tokens = False
                ids += self.tokenizer.encode(part, add_special_tokens=False).ids
        around = np.asarray(ids, np.int64)
        return around[:start], around[start:]

    def encode_text(self, text: str) -> list[int]:
        """Encode what a user wrote: `<|im_end|>` in it is nine characters, not the end of the turn."""
        self.tokenizer.encode_special_tokens = True
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def token_id(self, token: str) -> int | None:
        found: int | None = self.tokenizer.token_to_id(token)
        return found
