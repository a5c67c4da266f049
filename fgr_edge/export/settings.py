"""What a bundle needs besides weights: image numbers, stop tokens and the host's view of both graphs.

Each comes from the checkpoint where it says something, from the family's row where it is silent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from fgr_edge.errors import CheckpointError, FgrEdgeError
from fgr_edge.export.architectures import DecoderDims, Family, VisionDims
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.runtime.decoder import DecoderSpec
from fgr_edge.runtime.image import ImageConfig
from fgr_edge.runtime.manifest import WidthsPart
from fgr_edge.runtime.vision import VisionSpec


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a value of the wrong kind raises into a `CheckpointError` that names the file."""
    try:
        yield
    except FgrEdgeError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds a value of the wrong kind ({error}); expected what transformers saves with the model"
        ) from error


def image_config(
    checkpoint: Checkpoint, family: Family, dims: VisionDims, image_size: tuple[int, int] | None
) -> ImageConfig:
    """Preprocessing numbers; `image_size` (width, height) caps the pixels of a resized picture."""
    stored = checkpoint.json_file("preprocessor_config.json") or {}
    with reading(checkpoint.path / "preprocessor_config.json"):
        size = stored.get("size") or {}
        min_pixels = stored.get("min_pixels") or size.get("shortest_edge") or family.image["min_pixels"]
        max_pixels = stored.get("max_pixels") or size.get("longest_edge") or family.image["max_pixels"]
        config = ImageConfig(
            patch_size=dims.patch_size,
            merge_size=dims.merge_size,
            temporal_patch_size=dims.temporal_patch_size,
            min_pixels=int(min_pixels),
            max_pixels=int(max_pixels),
            mean=_three(stored.get("image_mean") or family.image["mean"]),
            std=_three(stored.get("image_std") or family.image["std"]),
            rescale_factor=float(stored.get("rescale_factor", 1 / 255)),
        )
    if image_size is None:
        return config
    pixels = math.prod(image_size)
    return replace(config, min_pixels=min(config.min_pixels, pixels), max_pixels=pixels)


def generation(checkpoint: Checkpoint, family: Family, tokenizer: Tokenizer) -> dict[str, Any]:
    """Stop tokens and repetition penalty, as the manifest's `generation`.

    Raises:
        CheckpointError: neither generation_config.json nor the tokenizer tells how a turn ends.
    """
    stored = checkpoint.json_file("generation_config.json") or {}
    eos = stored.get("eos_token_id")
    ids = list(eos) if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(type(i) is int for i in ids):
        raise CheckpointError(
            f"{checkpoint.path}/generation_config.json has eos_token_id {eos!r}; expected a token id or a list of them"
        )
    if not ids:
        ids = [i for token in family.generation["eos_token"] if (i := tokenizer.token_to_id(token)) is not None]
    if not ids:
        expected = " or ".join(family.generation["eos_token"])
        raise CheckpointError(
            f"{checkpoint.path}: no stop token; expected eos_token_id in generation_config.json, "
            f"or {expected} in the tokenizer"
        )
    with reading(checkpoint.path / "generation_config.json"):
        return {"eos_token_ids": ids, "repetition_penalty": float(stored.get("repetition_penalty") or 1.0)}


def decoder_spec(dims: DecoderDims, cache_dtype: str, *, tree_attention: bool) -> DecoderSpec:
    return DecoderSpec(
        layers=dims.layers,
        hidden=dims.hidden,
        kv_heads=dims.kv_heads,
        head_dim=dims.head_dim,
        vocab=dims.vocab,
        rope_theta=dims.rope_theta,
        mrope_section=dims.mrope_section,
        mrope_interleaved=dims.mrope_interleaved,
        deepstack=dims.deepstack,
        max_positions=dims.max_positions,
        cache_dtype=cache_dtype,
        tree_attention=tree_attention,
    )


def vision_spec(dims: VisionDims) -> VisionSpec:
    return VisionSpec(
        head_dim=dims.head_dim,
        merge_size=dims.merge_size,
        rope_theta=dims.rope_theta,
        window_patches=None if dims.window_size is None else dims.window_size // dims.patch_size,
        learned_positions=dims.learned_positions,
        deepstack=len(dims.deepstack_blocks),
    )


def widths(decoder: DecoderDims, vision: VisionDims) -> WidthsPart:
    """What the memory plan needs besides."""
    return {
        "heads": decoder.heads,
        "intermediate": decoder.intermediate,
        "vision_depth": vision.depth,
        "vision_hidden": vision.hidden,
        "vision_heads": vision.heads,
        "vision_intermediate": vision.intermediate,
    }


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
