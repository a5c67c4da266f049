"""Qwen3-VL: full-attention vision tower with LayerNorm, learned positions and DeepStack; decoder with q/k norms.

Source of dims and names: transformers, `models/qwen3_vl` (configuration and modeling, version 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fgr_edge.export.architectures import qwen2_5_vl
from fgr_edge.export.architectures.family import DecoderDims, Family, VisionDims, required, rope


def decoder_dims(config: Mapping[str, Any]) -> DecoderDims:
    text = required(config, "text_config", "config.json")
    section = rope(text).get("mrope_section", (24, 20, 20))
    vision = required(config, "vision_config", "config.json")
    # Same roles as Qwen2.5-VL's decoder; what differs is stated here.
    base = qwen2_5_vl.decoder_dims(
        {
            **text,
            "head_dim": text.get("head_dim", 128),
            "rope_parameters": {**rope(text), "mrope_section": section},
        }
    )
    return replace(
        base,
        rms_eps=float(text.get("rms_norm_eps", 1e-6)),
        rope_theta=float((text.get("rope_parameters") or text).get("rope_theta", 5_000_000.0)),
        mrope_interleaved=True,
        qkv_bias=bool(text.get("attention_bias", False)),
        qk_norm=True,
        deepstack=len(vision.get("deepstack_visual_indexes", (8, 16, 24))),
    )


def vision_dims(config: Mapping[str, Any]) -> VisionDims:
    vision = required(config, "vision_config", "config.json")
    return VisionDims(
        depth=int(vision.get("depth", 27)),
        hidden=int(required(vision, "hidden_size", "vision_config")),
        intermediate=int(required(vision, "intermediate_size", "vision_config")),
        heads=int(vision.get("num_heads", 16)),
        patch_size=int(vision.get("patch_size", 16)),
        temporal_patch_size=int(vision.get("temporal_patch_size", 2)),
        merge_size=int(vision.get("spatial_merge_size", 2)),
        channels=int(vision.get("in_channels", 3)),
        out_hidden=int(required(vision, "out_hidden_size", "vision_config")),
        window_size=None,
        full_attention_blocks=tuple(range(int(vision.get("depth", 27)))),
        norm="layer",
        mlp="gelu_tanh",
        patch_bias=True,
        learned_positions=int(vision.get("num_position_embeddings", 2304)),
        deepstack_blocks=tuple(int(i) for i in vision.get("deepstack_visual_indexes", (8, 16, 24))),
        rope_theta=float((vision.get("rope_parameters") or {}).get("rope_theta", 10_000.0)),
        norm_eps=1e-6,
    )


VISION_NAMES = {
    "patch": "patch_embed.proj.weight",
    "patch_bias": "patch_embed.proj.bias",
    "positions": "pos_embed.weight",
    "norm1": "blocks.{i}.norm1.weight",
    "norm1_bias": "blocks.{i}.norm1.bias",
    "norm2": "blocks.{i}.norm2.weight",
    "norm2_bias": "blocks.{i}.norm2.bias",
    "qkv": "blocks.{i}.attn.qkv.weight",
    "qkv_bias": "blocks.{i}.attn.qkv.bias",
    "proj": "blocks.{i}.attn.proj.weight",
    "proj_bias": "blocks.{i}.attn.proj.bias",
    "up": "blocks.{i}.mlp.linear_fc1.weight",
    "up_bias": "blocks.{i}.mlp.linear_fc1.bias",
    "down": "blocks.{i}.mlp.linear_fc2.weight",
    "down_bias": "blocks.{i}.mlp.linear_fc2.bias",
    "merger_norm": "merger.norm.weight",
    "merger_norm_bias": "merger.norm.bias",
    "merger_fc1": "merger.linear_fc1.weight",
    "merger_fc1_bias": "merger.linear_fc1.bias",
    "merger_fc2": "merger.linear_fc2.weight",
    "merger_fc2_bias": "merger.linear_fc2.bias",
    "deepstack_norm": "deepstack_merger_list.{i}.norm.weight",
    "deepstack_norm_bias": "deepstack_merger_list.{i}.norm.bias",
    "deepstack_fc1": "deepstack_merger_list.{i}.linear_fc1.weight",
    "deepstack_fc1_bias": "deepstack_merger_list.{i}.linear_fc1.bias",
    "deepstack_fc2": "deepstack_merger_list.{i}.linear_fc2.weight",
    "deepstack_fc2_bias": "deepstack_merger_list.{i}.linear_fc2.bias",
}

# As Qwen2.5-VL's, without a default system message.
CHAT_TEMPLATE = qwen2_5_vl.CHAT_TEMPLATE.replace(
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    "",
)

FAMILY = Family(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    decoder_dims=decoder_dims,
    vision_dims=vision_dims,
    decoder_prefixes=("model.language_model.", "model."),
    vision_prefixes=("model.visual.", "visual."),
    decoder_names=qwen2_5_vl.DECODER_NAMES,
    vision_names=VISION_NAMES,
    image={
        "min_pixels": 65_536,
        "max_pixels": 32 * 32 * 1280,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    },
    chat_template=CHAT_TEMPLATE,
    generation={"eos_token": ("<|im_end|>", "<|endoftext|>")},
)
