"""A Qwen2.5-VL checkpoint as two GGUF files, for llama.cpp: the decoder with its vocabulary, and the vision tower.

In: a checkpoint in Hugging Face layout, a type of weights. Out: OUTPUT/decoder-TYPE.gguf and OUTPUT/vision-TYPE.gguf.
Matrices become Q8_0 or Q4_0 (blocks of 32, a float16 scale each: llama.cpp has no other block size for these), F16 or
F32; norms, biases and the patch embedding stay float. The vision tower is Q8_0 where the decoder is Q4_0, as on our
side. Runs in the environment of llama_cpp.py, which has the `gguf` package; no torch.

    python -m benchmarks.peers.gguf_checkpoint CHECKPOINT OUTPUT --type Q8_0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import quantize

from benchmarks.peers.text_checkpoint import Stored, stored_tensors

TYPES = ("F32", "F16", "Q8_0", "Q4_0")
VISION_TYPE = {"F32": "F32", "F16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q8_0"}
BLOCK = 32
Floats = npt.NDArray[np.float32]


def values(row: Stored) -> Floats:
    """A bfloat16 tensor as float32.

    Raises:
        ValueError: it is stored as something else.
    """
    if row.dtype != "BF16":
        raise ValueError(f"{row.name} is {row.dtype}, expected BF16; write the checkpoint with random_checkpoint.py")
    raw = np.fromfile(row.path, np.uint16, row.bytes // 2, offset=row.offset)
    return (raw.astype(np.uint32) << 16).view(np.float32).reshape(row.shape)


def add(writer: gguf.GGUFWriter, name: str, tensor: Floats, kind: str) -> None:
    """Store one tensor; what cannot be cut into blocks is float16, vectors are float32."""
    if tensor.ndim == 1:
        kind = "F32"
    elif tensor.ndim > 2 or (kind.startswith("Q") and tensor.shape[-1] % BLOCK):
        kind = "F32" if kind == "F32" else "F16"
    if kind in ("F32", "F16"):
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32 if kind == "F32" else np.float16))
    else:
        stored = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(np.ascontiguousarray(tensor), stored), raw_dtype=stored)


def file_type(kind: str) -> int:
    """How the format calls files whose matrices are mostly of a kind."""
    return int(getattr(gguf.LlamaFileType, f"MOSTLY_{kind}", gguf.LlamaFileType.ALL_F32))


def write_decoder(checkpoint: Path, path: Path, kind: str) -> None:
    """The text model: architecture `qwen2vl`, which takes pictures as embeddings."""
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_sections([*config["rope_scaling"]["mrope_section"], 0])
    writer.add_file_type(file_type(kind))
    add_vocabulary(writer, checkpoint, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, config["num_hidden_layers"])
    tied = config["tie_word_embeddings"]
    for row in stored_tensors(checkpoint):
        if row.name.startswith("visual.") or (row.name == "lm_head.weight" and tied):
            continue
        add(writer, renamed(names, row.name), values(row), kind)
    finish(writer)


def add_vocabulary(writer: gguf.GGUFWriter, checkpoint: Path, config: dict[str, Any]) -> None:
    """Tokens and merges of tokenizer.json, padded to the rows of the embedding."""
    document = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    size = config["vocab_size"]
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for token, index in document["model"]["vocab"].items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for row in document["added_tokens"]:
        tokens[row["id"]] = row["content"]
        kinds[row["id"]] = gguf.TokenType.CONTROL if row["special"] else gguf.TokenType.USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in document["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


def write_vision(checkpoint: Path, path: Path, kind: str) -> None:
    """The vision tower and its merger: llama.cpp's `mmproj` file."""
    config = json.loads((checkpoint / "config.json").read_text())
    vision, picture = config["vision_config"], json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(file_type(kind))
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN25VL)
    writer.add_vision_projection_dim(config["hidden_size"])
    writer.add_vision_image_size(560)  # what the warm-up draws; pictures keep their own size
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_image_mean(picture["image_mean"])
    writer.add_vision_image_std(picture["image_std"])
    writer.add_vision_use_silu(True)
    writer.add_vision_n_wa_pattern(vision["fullatt_block_indexes"][0] + 1)
    writer.add_vision_attention_layernorm_eps(config["rms_norm_eps"])
    # The merger's matrices are numbered, too: 0 and 2, which the map knows if there are as many blocks.
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, max(3, vision["depth"]))
    for row in stored_tensors(checkpoint):
        if row.name.startswith("visual."):
            for name, tensor in vision_pieces(row):
                add(writer, name if name.startswith("v.") else renamed(names, name), tensor, kind)
    finish(writer)


def vision_pieces(row: Stored) -> Iterator[tuple[str, Floats]]:
    """Query, key and value apart; the patch embedding's two frames apart, as llama.cpp wants them."""
    tensor = values(row)
    if ".qkv." in row.name:
        for letter, part in zip("qkv", np.split(tensor, 3), strict=True):
            yield row.name.replace("qkv", letter), part
    elif "patch_embed" in row.name:
        yield "v.patch_embd.weight", tensor[:, :, 0]
        yield "v.patch_embd.weight.1", tensor[:, :, 1]
    else:
        yield row.name, tensor


def renamed(names: gguf.TensorNameMap, name: str) -> str:
    """GGUF's name of a tensor.

    Raises:
        ValueError: it has none.
    """
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ValueError(f"GGUF has no name for {name}; install the gguf version that setup_llama_cpp.sh pins")
    return found


def finish(writer: gguf.GGUFWriter) -> None:
    """Write everything out."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(checkpoint: Path, output: Path, kind: str) -> tuple[Path, Path]:
    """Both files, unless they are there."""
    output.mkdir(parents=True, exist_ok=True)
    decoder, vision = output / f"decoder-{kind}.gguf", output / f"vision-{VISION_TYPE[kind]}.gguf"
    if not decoder.exists():
        write_decoder(checkpoint, decoder, kind)
    if not vision.exists():
        write_vision(checkpoint, vision, VISION_TYPE[kind])
    return decoder, vision


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--type", choices=TYPES, required=True)
    options = parser.parse_args()
    for path in write_gguf(options.checkpoint, options.output, options.type):
        print(path)


if __name__ == "__main__":
    main()
