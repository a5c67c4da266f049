"""Accuracy of a checkpoint on pictures, in torch: direct answers held to the class names, and free reasoning.

Pictures go through the checkpoint's own image processor. Greedy throughout, with a KV cache.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION
from fgr_edge.training.answer_table import answer_table
from fgr_edge.training.text_forward import Cache, hidden_states, positions
from fgr_edge.training.vision_forward import encode_patches
from fgr_edge.training.wording import asked

BATCH = 64
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of right answers, 0..1; `coarse` is None where there are no coarse classes."""

    fine: float
    coarse: float | None
    answered: float  # share of answers that are a class name at all


class Examiner:
    """Asks a model about pictures."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor

    def direct(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[str]:
        """The class name of every picture, decoded greedily within `names`."""
        table = answer_table(self.tokenizer, names)
        answers = [""] * len(images)
        for rows, cache, logits, place in self._prefilled(images, reason=False):
            alive = torch.ones(len(rows), len(names), dtype=torch.bool)
            for t in range(table.shape[1]):
                allowed = torch.zeros(len(rows), logits.shape[1])
                tokens = table[:, t].clamp(min=0).expand(len(rows), -1)
                allowed.scatter_add_(1, tokens, (alive & (table[:, t] >= 0)).float())
                done = allowed.sum(1) == 0
                token = logits.masked_fill(allowed == 0, float("-inf")).argmax(1)
                alive &= (table[:, t] == token[:, None]) | done[:, None]
                if bool((alive.sum(1) <= 1).all()):
                    break
                logits, place = self._next(token, place, cache)
            for row, choice in zip(rows, alive.int().argmax(1).tolist(), strict=True):
                answers[row] = names[choice]
        return answers

    def reason(self, images: Sequence[Image.Image], max_new_tokens: int = 120) -> list[str]:
        """The whole answer to the reasoning question of every picture, decoded freely."""
        answers = [""] * len(images)
        end = self.tokenizer.eos_token_id
        for rows, cache, logits, place in self._prefilled(images, reason=True):
            produced = []
            stopped = torch.zeros(len(rows), dtype=torch.bool)
            for _ in range(max_new_tokens):
                token = logits.argmax(1).masked_fill(stopped, end)
                produced.append(token)
                stopped |= token == end
                if bool(stopped.all()):
                    break
                logits, place = self._next(token, place, cache)
            for row, ids in zip(rows, torch.stack(produced, 1).tolist(), strict=True):
                answers[row] = self.tokenizer.decode(ids, skip_special_tokens=True)
        return answers

    @torch.no_grad()
    def _prefilled(self, images: Sequence[Image.Image], reason: bool) -> Any:
        """Batches of equal grids: rows, cache, logits [B, V] of the first answer token, next position [3, 1]."""
        groups: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
        for row, image in enumerate(images):
            got = self.processor(images=[image.convert("RGB")], return_tensors="pt")
            _, height, width = got["image_grid_thw"][0].tolist()
            # Both frames of a still picture are equal; patches are (channel, frame, pixels).
            patches = got["pixel_values"].view(height * width, 3, 2, -1)[:, :, 0].reshape(height * width, -1)
            groups[height, width].append((row, patches))
        for (height, width), members in groups.items():
            for first in range(0, len(members), BATCH):
                part = members[first : first + BATCH]
                cache: Cache = {}
                patches = torch.stack([p for _, p in part])
                logits, place = self._prefill(patches, height, width, reason, cache)
                yield [row for row, _ in part], cache, logits, place

    def _prefill(self, patches: Tensor, height: int, width: int, reason: bool, cache: Cache) -> tuple[Tensor, Tensor]:
        text = self.model.model.language_model
        tokens, _ = encode_patches(self.model.model.visual, patches, height, width)
        front = "<|im_start|>user\n<|vision_start|>"
        back = f"<|vision_end|>{asked(DEFAULT_QUESTION, reason)}<|im_end|>\n<|im_start|>assistant\n"
        before, after = (
            torch.tensor(self.tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (front, back)
        )
        b = len(tokens)
        embeds = torch.cat(
            [text.embed_tokens(before).expand(b, -1, -1), tokens, text.embed_tokens(after).expand(b, -1, -1)], 1
        )
        place = positions(len(before), height // 2, width // 2, embeds.shape[1])
        hidden = hidden_states(text, embeds, place, cache)
        return self.model.lm_head(hidden[:, -1]), place[:, -1:] + 1

    @torch.no_grad()
    def _next(self, token: Tensor, place: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
        text = self.model.model.language_model
        hidden = hidden_states(text, text.embed_tokens(token)[:, None], place, cache)
        return self.model.lm_head(hidden[:, -1]), place + 1


def named_answer(text: str) -> str:
    """What stands between `<answer>` and `</answer>`; the empty string when nothing does."""
    found = ANSWER.search(text)
    return found.group(1).strip() if found else ""


def score(
    answers: Sequence[str], labels: Sequence[int], names: Sequence[str], coarse_of: Sequence[int] | None = None
) -> Score:
    """Compare answers with class ids."""
    number = {name: i for i, name in enumerate(names)}
    got = [number.get(a, -1) for a in answers]
    fine = sum(g == y for g, y in zip(got, labels, strict=True)) / len(labels)
    coarse = None
    if coarse_of is not None:
        coarse = sum(g >= 0 and coarse_of[g] == coarse_of[y] for g, y in zip(got, labels, strict=True)) / len(labels)
    return Score(fine, coarse, sum(g >= 0 for g in got) / len(got))
