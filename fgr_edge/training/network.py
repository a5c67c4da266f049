"""The nano network: a Qwen2.5-VL configuration made from the recipe's few numbers, and a fresh model of it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from fgr_edge.training.recipe import NetworkRecipe


def build_config(recipe: NetworkRecipe, vocabulary: int, ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """Configuration of the model; `ids` are the ids of the special tokens by their text."""
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": recipe.rope_theta,
            "mrope_section": list(recipe.mrope_section),
        },
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision: dict[str, Any] = {
        "depth": recipe.vision_layers,
        "hidden_size": recipe.vision_hidden,
        "intermediate_size": recipe.vision_intermediate,
        "num_heads": recipe.vision_heads,
        "out_hidden_size": recipe.hidden,
        "fullatt_block_indexes": list(recipe.vision_full_attention),
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def build_model(config: Qwen2_5_VLConfig, seed: int) -> Any:
    """A fresh model with random weights from `seed`, float32."""
    torch.manual_seed(seed)
    model: Any = Qwen2_5_VLForConditionalGeneration(config)
    return model.float()
