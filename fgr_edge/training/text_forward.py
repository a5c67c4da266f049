"""The decoder of a Qwen2.5-VL model over a batch of equally built sequences, on the model's own parameters.

In: embeddings [B, S, C] and positions [3, S] that all rows share. Out: the last hidden states [B, S, C] after the
final norm. With `cache` it continues sequences (one cache per batch). Equal to transformers (see `tests/training`);
written out because the backward pass of torch's fused attention is slow on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Cache = dict[int, tuple[Tensor, Tensor]]


def positions(prefix: int, rows: int, columns: int, total: int) -> Tensor:
    """mrope positions [3, total]: `prefix` text tokens, a picture of `rows` x `columns` tokens, then text."""
    image = torch.stack(
        [
            torch.full((rows * columns,), prefix),
            prefix + torch.arange(rows).repeat_interleave(columns),
            prefix + torch.arange(columns).repeat(rows),
        ]
    )
    after = total - prefix - rows * columns
    text = prefix + max(rows, columns) + torch.arange(after)
    return torch.cat([torch.arange(prefix).expand(3, -1), image, text.expand(3, -1)], dim=1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), norm.variance_epsilon)


def _attention(attn: Any, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int) -> Tensor:
    b, s, _ = x.shape
    d, groups = attn.head_dim, attn.num_key_value_groups
    q = _rotate(attn.q_proj(x).view(b, s, -1, d).transpose(1, 2), cos, sin)  # [B, H, S, D]
    k = _rotate(attn.k_proj(x).view(b, s, -1, d).transpose(1, 2), cos, sin)  # [B, H_kv, S, D]
    v = attn.v_proj(x).view(b, s, -1, d).transpose(1, 2)
    if cache is not None:
        if layer in cache:
            k, v = torch.cat([cache[layer][0], k], 2), torch.cat([cache[layer][1], v], 2)
        cache[layer] = (k, v)
    t = k.shape[2]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul((q * d**-0.5).contiguous(), k.transpose(-1, -2))
    future = torch.ones(s, t, dtype=torch.bool).triu(t - s + 1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return attn.o_proj(torch.matmul(weights, v.contiguous()).transpose(1, 2).reshape(b, s, -1))  # type: ignore[no-any-return]


def hidden_states(text: Any, embeds: Tensor, place: Tensor, cache: Cache | None = None) -> Tensor:
    """Last hidden states [B, S, C] of `embeds` [B, S, C] at positions `place` [3, S]; `text` is the language model."""
    cos, sin = text.rotary_emb(embeds.float(), place[:, None])
    x = embeds
    for number, layer in enumerate(text.layers):
        normed = _norm(x, layer.input_layernorm)
        turn = (cos[:, None].to(normed.dtype), sin[:, None].to(normed.dtype))
        x = x + _attention(layer.self_attn, normed, *turn, cache, number)
        x = x + layer.mlp(_norm(x, layer.post_attention_layernorm))
    return _norm(x, text.norm)
