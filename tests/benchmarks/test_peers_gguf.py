"""The GGUF files hold the checkpoint's weights under llama.cpp's names. Skipped where the `gguf` package is absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")

import gguf

from benchmarks.peers.gguf_checkpoint import values, write_gguf
from benchmarks.peers.text_checkpoint import stored_tensors
from benchmarks.random_checkpoint import SHAPES, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("gguf") / "tiny", SHAPES["qwen2.5-vl-tiny"])
    added = [{"id": 3, "content": "<|im_end|>", "special": True}]
    model = {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    return folder


def test_every_weight_is_there_to_within_its_rounding(checkpoint: Path, tmp_path: Path) -> None:
    decoder, _ = write_gguf(checkpoint, tmp_path, "Q8_0")
    stored = {row.name: row for row in gguf.GGUFReader(decoder).tensors}
    before = {row.name: row for row in stored_tensors(checkpoint) if not row.name.startswith("visual.")}
    assert len(stored) == len(before)
    for old, new in (
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("lm_head.weight", "output.weight"),
    ):
        expected = values(before[old])
        found = gguf.quants.dequantize(stored[new].data, stored[new].tensor_type).reshape(expected.shape)
        assert np.abs(found - expected).max() < np.abs(expected).max() / 127


def test_query_key_and_value_of_the_vision_tower_are_apart(checkpoint: Path, tmp_path: Path) -> None:
    _, vision = write_gguf(checkpoint, tmp_path, "F32")
    stored = {row.name: row for row in gguf.GGUFReader(vision).tensors}
    whole = next(values(row) for row in stored_tensors(checkpoint) if row.name == "visual.blocks.0.attn.qkv.weight")
    width = whole.shape[1]
    for i, letter in enumerate("qkv"):
        part = stored[f"v.blk.0.attn_{letter}.weight"].data.reshape(width, width)
        np.testing.assert_array_equal(part, whole[i * width : (i + 1) * width])
    assert {"v.patch_embd.weight", "v.patch_embd.weight.1", "mm.0.weight", "mm.2.bias"} <= set(stored)


def test_the_vocabulary_is_padded_to_the_rows_of_the_embedding(checkpoint: Path, tmp_path: Path) -> None:
    decoder, _ = write_gguf(checkpoint, tmp_path, "F16")
    fields = gguf.GGUFReader(decoder).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == SHAPES["qwen2.5-vl-tiny"].vocab
    assert tokens[2:5] == ["ab", "<|im_end|>", "[PAD4]"]
    assert fields["qwen2vl.rope.dimension_sections"].contents() == [2, 3, 3, 0]
