"""Answers as token tables, and the exact next-token targets that a distribution over classes implies.

A table is [C, L] int64: the tokens of each class's answer, ended by the end token, then -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def answer_table(tokenizer: Any, answers: Sequence[str]) -> Tensor:
    """Tokens of every answer, ended by the tokenizer's end token."""
    rows = [[*tokenizer(a, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for a in answers]
    length = max(map(len, rows))
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def next_token_targets(table: Tensor, classes: Tensor, chosen: Tensor, vocabulary: int) -> Tensor:
    """Distribution of each next token along one answer, given how likely each class is.

    Args:
        table: [C, L] answers.
        classes: [B, C] probability of each class.
        chosen: [B] the class whose answer is followed; its probability must not be zero.
        vocabulary: size V.

    Returns:
        [B, L, V]: at step t the probability of each token given the chosen answer's first t tokens; 0 after its end.
    """
    b, (c, length) = len(chosen), table.shape
    followed = table[chosen]  # [B, L]
    alive = torch.ones(b, c, dtype=torch.bool)
    targets = torch.zeros(b, length, vocabulary)
    for t in range(length):
        weights = classes * alive
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-9)
        step = targets[:, t]
        step.scatter_add_(1, table[:, t].clamp(min=0).expand(b, c), weights * (table[:, t] >= 0))
        step *= (followed[:, t : t + 1] >= 0).float()
        alive &= table[:, t] == followed[:, t : t + 1]
    return targets
