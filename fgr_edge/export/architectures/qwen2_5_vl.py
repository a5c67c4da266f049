"""Qwen2.5-VL, and with it Fine-R1: windowed vision tower with RMSNorm and SwiGLU, decoder with biased qkv.

Source of dims and names: transformers, `models/qwen2_5_vl` (configuration and modeling, version 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fgr_edge.export.architectures.family import DecoderDims, Family, VisionDims, required, rope


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part: nested in transformers 5, flat in the configs on the hub."""
    nested = config.get("text_config")
    return nested if nested is not None else config


def decoder_dims(config: Mapping[str, Any]) -> DecoderDims:
    text = text_config(config)
    rotary = rope(text)
    hidden = int(required(text, "hidden_size", "config.json"))
    heads = int(required(text, "num_attention_heads", "config.json"))
    section = rotary.get("mrope_section", (16, 24, 24))
    return DecoderDims(
        layers=int(required(text, "num_hidden_layers", "config.json")),
        hidden=hidden,
        intermediate=int(required(text, "intermediate_size", "config.json")),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab=int(required(text, "vocab_size", "config.json")),
        rms_eps=float(text.get("rms_norm_eps", 1e-5)),
        rope_theta=float(rotary["rope_theta"]),
        mrope_section=(int(section[0]), int(section[1]), int(section[2])),
        mrope_interleaved=False,
        qkv_bias=True,
        qk_norm=False,
        deepstack=0,
        max_positions=int(text.get("max_position_embeddings", 32768)),
    )


def vision_dims(config: Mapping[str, Any]) -> VisionDims:
    vision = required(config, "vision_config", "config.json")
    return VisionDims(
        depth=int(vision.get("depth", 32)),
        hidden=int(required(vision, "hidden_size", "vision_config")),
        intermediate=int(required(vision, "intermediate_size", "vision_config")),
        heads=int(vision.get("num_heads", 16)),
        patch_size=int(vision.get("patch_size", 14)),
        temporal_patch_size=int(vision.get("temporal_patch_size", 2)),
        merge_size=int(vision.get("spatial_merge_size", 2)),
        channels=int(vision.get("in_channels", vision.get("in_chans", 3))),
        out_hidden=int(required(vision, "out_hidden_size", "vision_config")),
        window_size=int(vision.get("window_size", 112)),
        full_attention_blocks=tuple(int(i) for i in vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
        norm="rms",
        mlp="swiglu",
        patch_bias=False,
        learned_positions=None,
        deepstack_blocks=(),
        rope_theta=float((vision.get("rope_parameters") or {}).get("rope_theta", 10_000.0)),
        norm_eps=1e-6,
    )


DECODER_NAMES = {
    "embedding": "embed_tokens.weight",
    "final_norm": "norm.weight",
    "input_norm": "layers.{i}.input_layernorm.weight",
    "post_norm": "layers.{i}.post_attention_layernorm.weight",
    "q": "layers.{i}.self_attn.q_proj.weight",
    "k": "layers.{i}.self_attn.k_proj.weight",
    "v": "layers.{i}.self_attn.v_proj.weight",
    "q_bias": "layers.{i}.self_attn.q_proj.bias",
    "k_bias": "layers.{i}.self_attn.k_proj.bias",
    "v_bias": "layers.{i}.self_attn.v_proj.bias",
    "q_norm": "layers.{i}.self_attn.q_norm.weight",
    "k_norm": "layers.{i}.self_attn.k_norm.weight",
    "o": "layers.{i}.self_attn.o_proj.weight",
    "gate": "layers.{i}.mlp.gate_proj.weight",
    "up": "layers.{i}.mlp.up_proj.weight",
    "down": "layers.{i}.mlp.down_proj.weight",
}

VISION_NAMES = {
    "patch": "patch_embed.proj.weight",
    "norm1": "blocks.{i}.norm1.weight",
    "norm2": "blocks.{i}.norm2.weight",
    "qkv": "blocks.{i}.attn.qkv.weight",
    "qkv_bias": "blocks.{i}.attn.qkv.bias",
    "proj": "blocks.{i}.attn.proj.weight",
    "proj_bias": "blocks.{i}.attn.proj.bias",
    "gate": "blocks.{i}.mlp.gate_proj.weight",
    "gate_bias": "blocks.{i}.mlp.gate_proj.bias",
    "up": "blocks.{i}.mlp.up_proj.weight",
    "up_bias": "blocks.{i}.mlp.up_proj.bias",
    "down": "blocks.{i}.mlp.down_proj.weight",
    "down_bias": "blocks.{i}.mlp.down_proj.bias",
    "merger_norm": "merger.ln_q.weight",
    "merger_fc1": "merger.mlp.0.weight",
    "merger_fc1_bias": "merger.mlp.0.bias",
    "merger_fc2": "merger.mlp.2.weight",
    "merger_fc2_bias": "merger.mlp.2.bias",
}

# Qwen's ChatML with its default system message, for pictures and text (no tools, no video).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

FAMILY = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    decoder_dims=decoder_dims,
    vision_dims=vision_dims,
    decoder_prefixes=("model.", "model.language_model.", "language_model.model."),
    vision_prefixes=("visual.", "model.visual."),
    decoder_names=DECODER_NAMES,
    vision_names=VISION_NAMES,
    image={
        "min_pixels": 56 * 56,
        "max_pixels": 28 * 28 * 1280,
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
    },
    chat_template=CHAT_TEMPLATE,
    generation={"eos_token": ("<|im_end|>", "<|endoftext|>")},
)
