"""The random checkpoints are what transformers itself would have written."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.random_checkpoint import QWEN_3B, SHAPES, config, shards, tensors, write_checkpoint

TINY = SHAPES["qwen2.5-vl-tiny"]


def hub_names(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the header of a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: tuple(row["shape"]) for name, row in header.items() if name != "__metadata__"}


def test_the_3b_shape_is_the_fine_r1_upload_to_the_byte() -> None:
    rows = tensors(QWEN_3B)
    assert len(rows) == 825
    assert sum(row.bytes for row in rows) == 8_131_575_808
    assert len(shards(rows, 5_000_000_000)) == 2


def test_the_195m_shape_has_the_language_model_it_is_named_for() -> None:
    rows = tensors(SHAPES["qwen2.5-vl-195m"])
    parameters = sum(math.prod(row.shape) for row in rows if not row.name.startswith("visual."))
    assert parameters == pytest.approx(195e6, rel=0.02)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_names_and_shapes_are_those_of_the_transformers_model(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shape = SHAPES[name]
    (tmp_path / "config.json").write_text(json.dumps(config(shape)))
    with torch.device("meta"):
        model = transformers.Qwen2_5_VLForConditionalGeneration(transformers.AutoConfig.from_pretrained(tmp_path))
    expected = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tuple(value.shape)
        for key, value in model.state_dict().items()
    }
    if shape.tied and not shape.stored_head:
        del expected["lm_head.weight"]
    assert {row.name: row.shape for row in tensors(shape)} == expected


def test_the_names_are_those_that_save_pretrained_writes_and_from_pretrained_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    written = write_checkpoint(tmp_path / "written", TINY)
    model, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        written, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    model.save_pretrained(tmp_path / "saved")
    assert hub_names(tmp_path / "saved" / "model.safetensors") == hub_names(written / "model.safetensors")
    model.requires_grad_(False)
    weight = model.model.language_model.layers[0].mlp.gate_proj.weight.float()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.model.language_model.norm.weight.float().min()) == 1.0


def test_a_stored_tied_head_equals_the_embedding_and_shards_carry_an_index(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    shape = replace(TINY, tied=True, stored_head=True)
    folder = write_checkpoint(tmp_path / "c", shape, shard_bytes=40_000_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {row.name for row in tensors(shape)}
    assert index["metadata"]["total_size"] == sum(row.bytes for row in tensors(shape))

    def read(name: str):  # type: ignore[no-untyped-def]
        with safetensors.safe_open(folder / index["weight_map"][name], "pt") as file:
            return file.get_tensor(name)

    assert read("lm_head.weight").equal(read("model.embed_tokens.weight"))


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        (write_checkpoint(tmp_path / name, TINY, seed=seed) / "model.safetensors").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_the_tokenizer_is_copied_and_no_chat_template_is_there(qwen_tokenizer: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", TINY, tokenizer=qwen_tokenizer)
    assert (folder / "tokenizer.json").read_bytes() == qwen_tokenizer.read_bytes()
    names = {path.name for path in folder.iterdir()}
    assert not names & {"generation_config.json", "chat_template.json", "chat_template.jinja"}
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
