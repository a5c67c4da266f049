"""Tiny random checkpoints, saved as transformers saves them, and their reference outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

IMAGE_ID, VISION_START_ID, VISION_END_ID, EOS_ID = 5, 3, 4, 2
VOCAB = 320


def qwen2_5_vl(
    *, heads: int = 4, kv_heads: int = 2, window: int = 112, tied: bool = True, seed: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """Random Qwen2.5-VL: 3 decoder layers of width 16 * heads, 4 vision blocks with full attention in 1 and 3."""
    hidden = 16 * heads
    config = Qwen2_5_VLConfig(
        text_config=dict(
            hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=3, num_attention_heads=heads,
            num_key_value_heads=kv_heads, vocab_size=VOCAB, rms_norm_eps=1e-6, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3]),
            tie_word_embeddings=tied, bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=0,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=84, num_heads=3, patch_size=14, window_size=window,
            out_hidden_size=hidden, fullatt_block_indexes=[1, 3],
        ),
        tie_word_embeddings=tied, image_token_id=IMAGE_ID, vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
    )  # fmt: skip
    return _random(Qwen2_5_VLForConditionalGeneration, config, seed)


def qwen3_vl(*, tied: bool = True, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Random Qwen3-VL: 4 decoder layers, 4 vision blocks, DeepStack after blocks 0 and 2."""
    config = Qwen3VLConfig(
        text_config=dict(
            hidden_size=48, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, vocab_size=VOCAB, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", rope_theta=5e6, mrope_section=[3, 3, 2]),
            tie_word_embeddings=tied, bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=0,
        ),
        vision_config=dict(
            depth=4, hidden_size=48, intermediate_size=84, num_heads=3, patch_size=16, out_hidden_size=48,
            num_position_embeddings=64, deepstack_visual_indexes=[0, 2],
        ),
        tie_word_embeddings=tied, image_token_id=IMAGE_ID, vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
    )  # fmt: skip
    return _random(Qwen3VLForConditionalGeneration, config, seed)


def _random(kind: Any, config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = kind(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases that are not one and zero, so that a swap shows
                parameter.copy_(
                    torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name and "bias" not in name else 0.0)
                )
            else:
                parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter[0].numel() ** 0.5))
    return model


@dataclass(frozen=True)
class Reference:
    """transformers' answers for one picture grid and a prompt around it."""

    ids: np.ndarray  # [S] int64
    grid: tuple[int, int]  # patches
    pixels: np.ndarray  # [N, P] float32
    image_embeds: np.ndarray  # [M, H]
    logits: np.ndarray  # [S, V]
    greedy: list[int]  # 64 new tokens


def reference(model: Any, grid: tuple[int, int], *, before: int = 5, after: int = 7, seed: int = 0) -> Reference:
    """Run transformers in float32 on random pixels of `grid` patches, without and with its cache."""
    rng = np.random.default_rng(seed)
    vision = model.config.vision_config
    merge = vision.spatial_merge_size
    tokens = grid[0] * grid[1] // merge**2
    pixels = rng.standard_normal((grid[0] * grid[1], 3 * vision.temporal_patch_size * vision.patch_size**2), np.float32)
    text = rng.integers(6, VOCAB, before + after)
    ids = np.concatenate(
        [text[:before], [VISION_START_ID], np.full(tokens, IMAGE_ID), [VISION_END_ID], text[before:]]
    ).astype(np.int64)
    grid_thw = torch.tensor([[1, *grid]])
    inputs = dict(
        input_ids=torch.from_numpy(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values=torch.from_numpy(pixels),
        image_grid_thw=grid_thw,
        mm_token_type_ids=torch.from_numpy((ids == IMAGE_ID).astype(np.int32))[None],
    )
    with torch.inference_mode():
        embeds = model.model.visual(torch.from_numpy(pixels), grid_thw=grid_thw).pooler_output
        logits = model(**inputs).logits[0]
        greedy = model.generate(
            **inputs, max_new_tokens=64, min_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, len(ids) :]
    return Reference(ids, grid, pixels, embeds.numpy(), logits.numpy(), greedy.tolist())


SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: ids 0 to 5 are `SPECIAL`, then the 256 bytes; any text is as long as its UTF-8."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def save(model: Any, folder: Path, **options: Any) -> Path:
    """Save model and tokenizer as transformers does; returns the folder."""
    model.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return folder
