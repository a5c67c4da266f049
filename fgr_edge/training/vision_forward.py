"""The vision tower of a Qwen2.5-VL model over a batch of equal pictures, on the tower's own parameters.

In: pixels [B, 3, H, W], normalised, H and W multiples of 28. Out: merged tokens [B, H/28 * W/28, C] in row order, and
on request the patches after one block. Transformers walks picture by picture and window by window; here a batch goes
through at once, which is several times faster on a CPU. The values are equal (see `tests/training`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

NORM_EPS = 1e-6  # written out in transformers' vision tower, not in its configuration


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each patch of one grid goes: window order, window lengths, and the way back."""

    window_index: Tensor  # [M] merged token -> position in window order
    inverse: Tensor  # [M]
    window_lengths: tuple[int, ...]  # patches per window
    cos: Tensor  # [N, head_dim]
    sin: Tensor  # [N, head_dim]


@lru_cache(maxsize=64)
def _indices(height: int, width: int, merge: int, window: int, patch: int) -> tuple[Tensor, tuple[int, ...], Tensor]:
    grid = torch.tensor([[1, height, width]])
    index, bounds = get_vision_window_index(grid, merge, window, patch)
    lengths = tuple(int(n) for n in (bounds[1:] - bounds[:-1]))
    return index, lengths, get_vision_position_ids(grid, merge)


def layout(visual: Any, height: int, width: int) -> Layout:
    """Index tables for a grid of `height` x `width` patches."""
    c = visual.config
    index, lengths, positions = _indices(height, width, c.spatial_merge_size, c.window_size, c.patch_size)
    unit = c.spatial_merge_size**2
    cos, sin = visual.rotary_pos_emb(torch.zeros(1), positions)
    order = (index[:, None] * unit + torch.arange(unit)).flatten()
    return Layout(index, torch.argsort(index), lengths, cos[order], sin[order])


def patchify(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Pixels [B, 3, H, W] to patches [B, N, 3 * patch * patch] in merge-block order."""
    b, c, h, w = pixels.shape
    mh, mw = h // (patch * merge), w // (patch * merge)
    x = pixels.reshape(b, c, mh, merge, patch, mw, merge, patch)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, mh * mw * merge * merge, c * patch * patch)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # x: [B, heads, N, D]
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # Written out: on a CPU the backward pass of torch's fused attention takes ten times longer in bfloat16.
    q, k, v = (q * q.shape[-1] ** -0.5).contiguous(), k.contiguous(), v.contiguous()
    return torch.matmul(torch.matmul(q, k.transpose(-1, -2)).softmax(-1), v)


def _attention(attn: Any, x: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...]) -> Tensor:
    b, n, _ = x.shape
    q, k, v = attn.qkv(x).view(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    cos, sin = cos.to(q.dtype), sin.to(q.dtype)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    sizes = list(lengths)
    parts = zip(torch.split(q, sizes, 2), torch.split(k, sizes, 2), torch.split(v, sizes, 2), strict=True)
    out = torch.cat([_attend(*part) for part in parts], dim=2)
    return attn.proj(out.transpose(1, 2).reshape(b, n, -1))  # type: ignore[no-any-return]


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight.to(x.dtype), NORM_EPS)


def encode(visual: nn.Module, pixels: Tensor, *, tap: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Merged tokens [B, M, C] of `pixels` [B, 3, H, W]; with `tap` also the patches [B, N, D] after that block.

    The tapped patches are in row order of merge blocks (each block's four patches together), as `patchify` gives them.
    """
    c: Any = visual.config
    height, width = pixels.shape[2] // c.patch_size, pixels.shape[3] // c.patch_size
    patches = patchify(pixels, c.patch_size, c.spatial_merge_size)
    return encode_patches(visual, patches, height, width, tap=tap)


def encode_patches(
    visual: nn.Module, patches: Tensor, height: int, width: int, *, tap: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Like `encode`, from patches [B, height * width, 588] as `patchify` gives them."""
    tower: Any = visual
    plan = layout(tower, height, width)
    unit = tower.config.spatial_merge_size**2
    # Both frames of a still picture are equal: the temporal axis of the convolution can be summed.
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)
    x = F.linear(patches, weight)
    b, n, dim = x.shape
    x = x.view(b, n // unit, unit, dim)[:, plan.window_index].reshape(b, n, dim)
    tapped = None
    for number, block in enumerate(tower.blocks):
        lengths = (n,) if number in tower.config.fullatt_block_indexes else plan.window_lengths
        x = x + _attention(block.attn, _norm(x, block.norm1), plan.cos, plan.sin, lengths)
        x = x + block.mlp(_norm(x, block.norm2))
        if number == tap:
            tapped = x.view(b, n // unit, unit, dim)[:, plan.inverse].reshape(b, n, dim)
    merged = tower.merger.mlp(_norm(x, tower.merger.ln_q).reshape(b, n // unit, unit * dim))
    return merged[:, plan.inverse], tapped
