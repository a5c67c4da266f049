"""Random-weight checkpoints of real shapes, in Hugging Face layout, written without torch.

In: the name of a shape, a seed, a `tokenizer.json`. Out: a folder with safetensors shards (bfloat16), their
index, `config.json`, `preprocessor_config.json` and the tokenizer; no `generation_config.json` and no chat
template, as in the Fine-R1-3B upload. Tensor names are the hub's (`model.layers.*`, `visual.*`); the 3B shape
also stores the `lm_head` that equals its tied embedding, as that upload does (825 tensors, 8,131,575,808
bytes).

Matrices and biases are normal with standard deviation 0.02, norms are one. One random block of 32 MiB is
repeated over all tensors from an offset that each tensor's name gives: gigabytes are written at the speed of
the disk.

    python benchmarks/random_checkpoint.py OUT --shape qwen2.5-vl-3b --tokenizer TOKENIZER.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

logger = logging.getLogger("random_checkpoint")

BLOCK_VALUES = 16_777_259  # prime, so that no matrix repeats a row of the block; bfloat16, 32 MiB
SHARD_BYTES = 5_000_000_000
STD = 0.02
BF16_ONE = 0x3F80


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a Qwen2.5-VL model.

    Attributes:
        mrope_section: Rotary frequencies for time, height and width; they sum to head_dim / 2.
        stored_head: Whether an `lm_head.weight` is in the file although the embedding is tied.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    mrope_section: tuple[int, int, int]
    tied: bool
    stored_head: bool
    vision_depth: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    full_attention_blocks: tuple[int, ...]
    patch: int = 14
    temporal_patch: int = 2
    merge: int = 2
    window_px: int = 112

    def __post_init__(self) -> None:
        if self.hidden % self.heads or self.vision_hidden % self.vision_heads:
            raise ValueError(f"hidden sizes {self.hidden}, {self.vision_hidden} are no multiples of their head counts")
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(f"mrope_section {self.mrope_section} does not sum to half of head_dim {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


QWEN_3B = Shape(
    hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11008, vocab=151936,
    mrope_section=(16, 24, 24), tied=True, stored_head=True,
    vision_depth=32, vision_hidden=1280, vision_heads=16, vision_intermediate=3420,
    full_attention_blocks=(7, 15, 23, 31),
)  # fmt: skip
QWEN_195M = Shape(
    hidden=768, layers=12, heads=12, kv_heads=2, intermediate=2304, vocab=151936,
    mrope_section=(8, 12, 12), tied=True, stored_head=False,
    vision_depth=8, vision_hidden=384, vision_heads=6, vision_intermediate=1024,
    full_attention_blocks=(1, 3, 5, 7),
)  # fmt: skip
SHAPES = {
    "qwen2.5-vl-3b": QWEN_3B,
    "qwen2.5-vl-195m": QWEN_195M,
    # Seconds instead of minutes, for tests: another head count and window, an untied head.
    "qwen2.5-vl-tiny": replace(
        QWEN_195M, hidden=96, layers=2, heads=6, kv_heads=2, intermediate=160, mrope_section=(2, 3, 3),
        tied=False, vision_depth=2, vision_hidden=64, vision_heads=4, vision_intermediate=96,
        full_attention_blocks=(1,), window_px=56,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be written: its name and its shape, always bfloat16."""

    name: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return 2 * math.prod(self.shape)


def tensors(shape: Shape) -> list[Tensor]:
    """Every tensor of the checkpoint, in the order in which it is stored."""
    rows = [*vision_tensors(shape), *text_tensors(shape)]
    if shape.stored_head or not shape.tied:
        rows.append(("lm_head.weight", (shape.vocab, shape.hidden)))
    return [Tensor(name, dims) for name, dims in rows]


def vision_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the vision tower and its merger."""
    width, ffn, merged = shape.vision_hidden, shape.vision_intermediate, shape.vision_hidden * shape.merge**2
    yield "visual.patch_embed.proj.weight", (width, 3, shape.temporal_patch, shape.patch, shape.patch)
    for block in range(shape.vision_depth):
        prefix = f"visual.blocks.{block}"
        yield f"{prefix}.norm1.weight", (width,)
        yield f"{prefix}.norm2.weight", (width,)
        yield from linear(f"{prefix}.attn.qkv", 3 * width, width)
        yield from linear(f"{prefix}.attn.proj", width, width)
        yield from linear(f"{prefix}.mlp.gate_proj", ffn, width)
        yield from linear(f"{prefix}.mlp.up_proj", ffn, width)
        yield from linear(f"{prefix}.mlp.down_proj", width, ffn)
    yield "visual.merger.ln_q.weight", (width,)
    yield from linear("visual.merger.mlp.0", merged, merged)
    yield from linear("visual.merger.mlp.2", shape.hidden, merged)


def text_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the language model without its head."""
    width, ffn, kv = shape.hidden, shape.intermediate, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, width)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield from linear(f"{prefix}.self_attn.q_proj", width, width)
        yield from linear(f"{prefix}.self_attn.k_proj", kv, width)
        yield from linear(f"{prefix}.self_attn.v_proj", kv, width)
        yield f"{prefix}.self_attn.o_proj.weight", (width, width)
        yield f"{prefix}.mlp.gate_proj.weight", (ffn, width)
        yield f"{prefix}.mlp.up_proj.weight", (ffn, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, ffn)
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)


def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A linear layer with a bias."""
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def config(shape: Shape) -> dict[str, Any]:
    """`config.json` as the hub's Qwen2.5-VL uploads have it: text fields on top, `vision_config` below."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": STD,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 128000,
        "max_window_layers": 70,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": list(shape.mrope_section)},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": shape.vision_depth,
            "hidden_act": "silu",
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.vision_heads,
            "in_chans": 3,
            "out_hidden_size": shape.hidden,
            "patch_size": shape.patch,
            "spatial_patch_size": shape.patch,
            "spatial_merge_size": shape.merge,
            "temporal_patch_size": shape.temporal_patch,
            "window_size": shape.window_px,
            "fullatt_block_indexes": list(shape.full_attention_blocks),
            "tokens_per_second": 2,
        },
    }


def preprocessor_config(shape: Shape) -> dict[str, Any]:
    """`preprocessor_config.json` of the hub's Qwen2.5-VL uploads (CLIP's mean and standard deviation)."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": shape.patch,
        "temporal_patch_size": shape.temporal_patch,
        "merge_size": shape.merge,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 131072,
}


def random_block(seed: int) -> npt.NDArray[np.uint16]:
    """Normal values, standard deviation 0.02, as the bits of bfloat16 (truncated)."""
    values = np.random.default_rng(seed).standard_normal(BLOCK_VALUES, dtype=np.float32) * np.float32(STD)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_values(file: BinaryIO, tensor: Tensor, block: npt.NDArray[np.uint16]) -> None:
    """Writes one tensor: ones for a norm, else the block, repeated, from an offset that its name gives."""
    remaining = tensor.bytes // 2
    if "norm" in tensor.name or "ln_q" in tensor.name:
        file.write(np.full(remaining, BF16_ONE, np.uint16).tobytes())
        return
    # A tied head is the embedding once more.
    source = "model.embed_tokens.weight" if tensor.name == "lm_head.weight" else tensor.name
    offset = zlib.crc32(source.encode()) % BLOCK_VALUES
    while remaining:
        piece = block[offset : offset + remaining]
        file.write(memoryview(piece).cast("B"))
        remaining -= piece.size
        offset = 0


def write_shard(path: Path, rows: list[Tensor], block: npt.NDArray[np.uint16]) -> None:
    """Writes one safetensors file: header length (uint64), JSON header padded to 8 bytes, values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for row in rows:
        header[row.name] = {"dtype": "BF16", "shape": list(row.shape), "data_offsets": [end, end + row.bytes]}
        end += row.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for row in rows:
            write_values(file, row, block)


def shards(rows: list[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Cuts the tensors, in order, into files of at most `shard_bytes`."""
    parts: list[list[Tensor]] = [[]]
    filled = 0
    for row in rows:
        if parts[-1] and filled + row.bytes > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(row)
        filled += row.bytes
    return parts


def write_checkpoint(
    output: Path,
    shape: Shape,
    *,
    tokenizer: Path | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a checkpoint folder.

    Args:
        output: The folder; made if absent. Files of the same names in it are replaced.
        shape: One of `SHAPES`, or another.
        tokenizer: A `tokenizer.json` to copy in; none is written without it.
        seed: Of the random block.
        shard_bytes: Largest file; one file has no index.

    Returns:
        The folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    rows = tensors(shape)
    parts = shards(rows, shard_bytes)
    block = random_block(seed)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_shard(output / name, part, block)
        weight_map |= {row.name: name for row in part}
    total_size = sum(row.bytes for row in rows)
    if len(parts) > 1:
        write_json(
            output / "model.safetensors.index.json",
            {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))},
        )
    write_json(output / "config.json", config(shape))
    write_json(output / "preprocessor_config.json", preprocessor_config(shape))
    if tokenizer is not None:
        shutil.copyfile(tokenizer, output / "tokenizer.json")
        write_json(output / "tokenizer_config.json", TOKENIZER_CONFIG)
    seconds = time.perf_counter() - started
    logger.info("%s: %d tensors, %d bytes, %d file(s), %.1f s", output, len(rows), total_size, len(parts), seconds)
    return output


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes JSON as `save_pretrained` does: two spaces, a newline at the end."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to copy into the folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_checkpoint(arguments.output, SHAPES[arguments.shape], tokenizer=arguments.tokenizer, seed=arguments.seed)


if __name__ == "__main__":
    main()
