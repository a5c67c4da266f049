"""What a model family is: its dimensions and the names of its weights, as data.

In: the parsed `config.json` of a checkpoint. Out: `DecoderDims`, `VisionDims` and tables of tensor names that the
graph builders read. A family file fills these in; nothing outside `architectures/` asks which family it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fgr_edge.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class DecoderDims:
    """Sizes of a decoder-only language model with grouped-query attention and SwiGLU."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rms_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    mrope_interleaved: bool
    qkv_bias: bool
    qk_norm: bool
    deepstack: int
    max_positions: int

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise CheckpointError(
                f"{self.heads} attention heads cannot share {self.kv_heads} key/value heads evenly; "
                "check num_attention_heads and num_key_value_heads in config.json"
            )
        if sum(self.mrope_section) * 2 != self.head_dim:
            raise CheckpointError(
                f"mrope_section {list(self.mrope_section)} adds up to {sum(self.mrope_section)}, expected "
                f"head_dim / 2 = {self.head_dim // 2}; check rope_parameters (or rope_scaling) in config.json"
            )


@dataclass(frozen=True, slots=True)
class VisionDims:
    """Sizes of a patch-based vision transformer that merges `merge_size` x `merge_size` patches into one token."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    channels: int
    out_hidden: int
    window_size: int | None
    full_attention_blocks: tuple[int, ...]
    norm: Literal["rms", "layer"]
    mlp: Literal["swiglu", "gelu_tanh"]
    patch_bias: bool
    learned_positions: int | None
    deepstack_blocks: tuple[int, ...]
    rope_theta: float
    norm_eps: float

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 4:
            raise CheckpointError(
                f"vision width {self.hidden} over {self.heads} heads gives no head width divisible by 4, which "
                "two-dimensional rotary positions need; check vision_config in config.json"
            )
        if self.window_size is not None and self.window_size % (self.patch_size * self.merge_size):
            raise CheckpointError(
                f"vision window of {self.window_size} pixels is no multiple of patch {self.patch_size} x merge "
                f"{self.merge_size}; check vision_config in config.json"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def patch_inputs(self) -> int:
        """Numbers in one flattened patch: channels x frames x patch x patch."""
        return self.channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table of supported architectures.

    Attributes:
        name: the family's name in manifests.
        model_types: values of `model_type` in config.json that belong to it.
        decoder_dims: reads `DecoderDims` from the parsed config.json.
        vision_dims: reads `VisionDims` from the parsed config.json.
        decoder_prefixes: where the language model may start in tensor names; the first that fits is used.
        vision_prefixes: the same for the vision tower.
        decoder_names: role -> tensor name below the prefix, `{i}` being the layer.
        vision_names: role -> tensor name below the prefix, `{i}` being the block.
        image: preprocessing numbers used where preprocessor_config.json is silent.
        chat_template: rendered where the checkpoint brings none (Jinja, transformers' message format).
        generation: used where generation_config.json is absent.
    """

    name: str
    model_types: tuple[str, ...]
    decoder_dims: Callable[[Mapping[str, Any]], DecoderDims]
    vision_dims: Callable[[Mapping[str, Any]], VisionDims]
    decoder_prefixes: tuple[str, ...]
    vision_prefixes: tuple[str, ...]
    decoder_names: Mapping[str, str]
    vision_names: Mapping[str, str]
    image: Mapping[str, Any]
    chat_template: str
    generation: Mapping[str, Any]


def required(config: Mapping[str, Any], key: str, where: str) -> Any:
    """Return `config[key]`, or say which file lacks it."""
    if key not in config:
        raise CheckpointError(
            f"{where} has no {key!r}; expected the config.json that transformers saves with the model"
        )
    return config[key]


def rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rotary parameters of a text config: `rope_parameters` (transformers 5) or `rope_scaling` plus `rope_theta`."""
    merged = dict(config.get("rope_scaling") or {})
    merged.update(config.get("rope_parameters") or {})
    merged.setdefault("rope_theta", config.get("rope_theta", 1_000_000.0))
    kind = merged.get("rope_type", merged.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"rotary type {kind!r} is not supported; expected 'default' or 'mrope'")
    return merged
