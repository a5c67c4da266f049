"""What one step of fine-tuning minimises: answers in both modes, and the vision warm-up's losses to stay in place.

In: rows of photographs and drawings. Out: one loss. Views, mixtures and questions are drawn from torch's global
generator, which the trainer saves and restores. Targets are distributions: a class is as likely as the teacher and the
truth say, and each answer token as likely as the classes that still fit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fgr_edge.runtime.prompt_text import DEFAULT_QUESTION
from fgr_edge.training.answer_table import answer_table, next_token_targets
from fgr_edge.training.material import Material, attribute_table
from fgr_edge.training.recipe import Recipe
from fgr_edge.training.teacher import Teacher
from fgr_edge.training.text_forward import hidden_states, positions
from fgr_edge.training.vision import Heads, draw_batch, warm_up_loss
from fgr_edge.training.vision_forward import encode
from fgr_edge.training.vocabulary import special_ids
from fgr_edge.training.wording import Answers, asked, bird_answers, grocery_answers


class Asker:
    """Questions and answers of one data set as token ids."""

    def __init__(self, tokenizer: Any, answers: Answers, default_share: float) -> None:
        self.default_share = default_share
        self.tables = {False: answer_table(tokenizer, answers.direct), True: answer_table(tokenizer, answers.reason)}
        others = [q for q in answers.questions if q != DEFAULT_QUESTION]
        self.prompts: dict[bool, list[list[int]]] = {}
        for reason in (False, True):
            texts = [
                f"<|vision_end|>{asked(q, reason)}<|im_end|>\n<|im_start|>assistant\n"
                for q in (DEFAULT_QUESTION, *others)
            ]
            self.prompts[reason] = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]

    def draw(self, reason: bool) -> list[int]:
        """One question, often the default one; ids from after the picture to before the answer."""
        prompts = self.prompts[reason]
        if float(torch.rand(1)) < self.default_share:
            return prompts[0]
        return prompts[1 + int(torch.randint(len(prompts) - 1, (1,)))]


class Objective:
    """The loss over one batch."""

    def __init__(
        self, recipe: Recipe, model: Any, heads: Heads, material: Material, teacher: Teacher, tokenizer: Any
    ) -> None:
        self.recipe, self.model, self.heads, self.material, self.teacher = recipe, model, heads, material, teacher
        self.frozen = True
        share = recipe.sft.default_question_share
        self.photo_asker = Asker(tokenizer, grocery_answers(material.classes), share)
        self.bird_asker = Asker(tokenizer, bird_answers(), share)
        self.before = torch.tensor(
            tokenizer("<|im_start|>user\n<|vision_start|>", add_special_tokens=False)["input_ids"]
        )
        self.pad = special_ids(tokenizer)["<|endoftext|>"]
        self.table, _ = attribute_table()
        self.coarse = F.one_hot(torch.tensor(material.classes.coarse_of), len(material.classes.coarse)).float()

    def loss(self, rows: Tensor, birds: Tensor) -> Tensor:
        """Loss over photographs `rows` and drawings `birds`."""
        r, m, rng = self.recipe, self.material, torch.default_generator
        batch = draw_batch(r, m, self.teacher, rows, birds, rng)
        n = len(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.set_grad_enabled(not self.frozen):
                tokens, tapped = encode(self.model.model.visual, batch.pixels, tap=r.teacher.tap_block)
            t = r.teacher
            blend = t.soft_labels * (batch.soft / t.temperature).softmax(-1) + t.hard_labels * batch.hard
            blend = blend / blend.sum(1, keepdim=True)
            species = F.one_hot(batch.species, len(self.table)).float()
            loss = sum(
                weight * (n * self._answers(tokens[:n], blend, self.photo_asker, reason)
                          + len(birds) * self._answers(tokens[n:], species, self.bird_asker, reason)) / (n + len(birds))
                for reason, weight in ((False, 1.0), (True, r.sft.reason_weight))
            )  # fmt: skip
            assert isinstance(loss, Tensor)
            if not self.frozen and tapped is not None:
                # The vision warm-up's losses keep the tower from drifting.
                stay = warm_up_loss(self.heads, tokens, tapped, batch, self.coarse, self.table, t)
                loss = loss + r.sft.teacher_weight * stay
        return loss

    def _answers(self, tokens: Tensor, classes: Tensor, asker: Asker, reason: bool) -> Tensor:
        """Cross-entropy of answers, summed over an answer's tokens and averaged over the batch."""
        b, m, _ = tokens.shape
        if b == 0:
            return tokens.sum()
        table = asker.tables[reason]
        chosen = torch.multinomial(classes, 1).squeeze(1)
        prompts = [asker.draw(reason) for _ in range(b)]
        lengths = (table[chosen] >= 0).sum(1)
        after = torch.full((b, max(len(p) + int(k) for p, k in zip(prompts, lengths, strict=True))), self.pad)
        starts = torch.tensor([len(p) for p in prompts])
        for row, (prompt, k) in enumerate(zip(prompts, lengths, strict=True)):
            after[row, : len(prompt)] = torch.tensor(prompt)
            after[row, len(prompt) : len(prompt) + int(k)] = table[chosen[row], : int(k)]
        text = self.model.model.language_model
        front = text.embed_tokens(self.before.expand(b, -1)).to(tokens.dtype)
        embeds = torch.cat([front, tokens, text.embed_tokens(after).to(tokens.dtype)], 1)
        side = round(m**0.5)
        place = positions(len(self.before), side, side, embeds.shape[1])
        hidden = hidden_states(text, embeds, place)[:, len(self.before) + m :]
        # The state that predicts answer token t stands at start - 1 + t; past the end it has no weight.
        at = (starts[:, None] - 1 + torch.arange(table.shape[1])).clamp(max=hidden.shape[1] - 1)
        picked = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2]))
        log_p = self.model.lm_head(picked).float().log_softmax(-1)
        targets = next_token_targets(table, classes, chosen, log_p.shape[-1])
        loss: Tensor = -(targets * log_p).sum((1, 2)).mean()
        return loss
