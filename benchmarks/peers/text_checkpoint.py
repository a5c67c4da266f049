"""The text decoder of a Qwen2.5-VL checkpoint as a Qwen2 checkpoint of its own: what text-only tools can read.

In: a checkpoint in Hugging Face layout. Out: a folder with the same bytes under Qwen2's names, `config.json`, the
tokenizer. Without pictures the three rotary axes of Qwen2.5-VL count alike, so that the model is Qwen2 to the last
bit. The stored head of a tied model is left out. Needs the standard library alone: it runs in every environment.

    python -m benchmarks.peers.text_checkpoint CHECKPOINT OUTPUT
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
COPIED = (
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "max_window_layers", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "rope_theta", "sliding_window", "use_sliding_window",
    "tie_word_embeddings", "torch_dtype", "use_cache", "vocab_size",
)  # fmt: skip
PIECE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a safetensors file: `bytes` of it from `offset`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    bytes: int


def stored_tensors(checkpoint: Path) -> Iterator[Stored]:
    """Every tensor of a folder, file by file."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, row in header.items():
            if name != "__metadata__":
                start, end = row["data_offsets"]
                yield Stored(name, row["dtype"], tuple(row["shape"]), path, 8 + length + start, end - start)


def text_tensors(checkpoint: Path) -> list[Stored]:
    """Those of the decoder; a head only where it is not the embedding."""
    tied = json.loads((checkpoint / "config.json").read_text())["tie_word_embeddings"]
    return [
        row
        for row in stored_tensors(checkpoint)
        if row.name.startswith("model.") or (row.name == "lm_head.weight" and not tied)
    ]


def text_config(checkpoint: Path) -> dict[str, Any]:
    """`config.json` of the Qwen2 model."""
    config = json.loads((checkpoint / "config.json").read_text())
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **{key: config[key] for key in COPIED}}


def write_text_checkpoint(checkpoint: Path, output: Path) -> Path:
    """Write the folder, unless it is there.

    Raises:
        FileNotFoundError: no config.json in the checkpoint.
    """
    if (output / "config.json").exists():
        return output
    config = text_config(checkpoint)
    output.mkdir(parents=True, exist_ok=True)
    _write(text_tensors(checkpoint), output / "model.safetensors")
    for name in TOKENIZER_FILES:
        shutil.copyfile(checkpoint / name, output / name)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return output


def _write(rows: list[Stored], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for row in rows:
        header[row.name] = {"dtype": row.dtype, "shape": list(row.shape), "data_offsets": [end, end + row.bytes]}
        end += row.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for row in rows:
            for piece in _pieces(row):
                file.write(piece)


def _pieces(row: Stored) -> Iterator[bytes]:
    with row.path.open("rb") as file:
        file.seek(row.offset)
        left = row.bytes
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise EOFError(f"{row.path} ends inside {row.name}; expected {left} bytes more: copy the file again")
            left -= len(piece)
            yield piece


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    print(write_text_checkpoint(options.checkpoint, options.output))


if __name__ == "__main__":
    main()
