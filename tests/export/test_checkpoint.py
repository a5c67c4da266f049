"""Checkpoints are read lazily and exactly; a damaged one is refused with what to do about it."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import CheckpointError, MissingExtraError
from fgr_edge.export.checkpoint import Checkpoint, same_values
from fgr_edge.export.lazy_tensor import COMPARE_BYTES
from fgr_edge.export.safetensors_file import open_safetensors

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1}


def write_raw(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> None:
    """A safetensors file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def write_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, stored) in tensors.items():
        assert len(stored) == math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(stored)],
        }
        data += stored
    write_raw(path, header, data)


def f32(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def small(folder: Path) -> Path:
    """A checkpoint with one file: w [2, 3] and s, both float32."""
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    write_tensors(folder / "model.safetensors", {"w": ("F32", (2, 3), f32(0, 1, 2, 3, 4, 5)), "s": ("F32", (), f32(7))})
    return folder


def sharded(folder: Path) -> Path:
    """A checkpoint of two shards and an index: a in the first, b in the second."""
    (folder / "config.json").write_text("{}")
    write_tensors(folder / "model-1.safetensors", {"a": ("F32", (2,), f32(1, 2))})
    write_tensors(folder / "model-2.safetensors", {"b": ("F32", (2,), f32(3, 4))})
    write_index(folder, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(source: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(source)
    return str(caught.value)


def test_a_tensor_is_read_whole_and_by_rows(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(small(tmp_path))
    weight = checkpoint.tensor("w", (2, 3))
    np.testing.assert_array_equal(weight.read(), np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(weight.rows(1, 2), [[3, 4, 5]])
    assert weight.rows(1, 1).shape == (0, 3)
    assert checkpoint.tensor("s", ()).read() == np.float32(7)
    assert checkpoint.config == {"model_type": "tiny"}
    assert list(checkpoint.names()) == ["w", "s"]
    assert "w" in checkpoint
    assert "x" not in checkpoint


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded(tmp_path))
    np.testing.assert_array_equal(checkpoint.tensor("a").read(), [1, 2])
    np.testing.assert_array_equal(checkpoint.tensor("b").read(), [3, 4])


def test_a_shard_may_be_a_link_as_in_the_hub_cache(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    folder = sharded(tmp_path / "snapshot")
    (folder / "model-1.safetensors").rename(tmp_path / "blob")
    (folder / "model-1.safetensors").symlink_to(tmp_path / "blob")
    np.testing.assert_array_equal(Checkpoint.open(folder).tensor("a").read(), [1, 2])


def test_every_bfloat16_value_converts_exactly(tmp_path: Path) -> None:
    bits = np.arange(2**16, dtype="<u2").reshape(256, 256)
    (tmp_path / "config.json").write_text("{}")
    write_tensors(tmp_path / "model.safetensors", {"w": ("BF16", (256, 256), bits.tobytes())})
    weight = Checkpoint.open(tmp_path).tensor("w")
    assert weight.dtype == "bfloat16"
    np.testing.assert_array_equal(weight.raw_rows(3, 5), bits[3:5])
    np.testing.assert_array_equal(weight.read().view(np.uint32), bits.astype(np.uint32) << 16)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(weight.read(), expected)


def test_values_equal_those_of_the_safetensors_package(tmp_path: Path) -> None:
    numpy_format = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "half": rng.standard_normal((5, 7)).astype(np.float16),
        "single": rng.standard_normal((3, 2, 4)).astype(np.float32),
        "whole": rng.integers(-9, 9, (4,)),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "config.json").write_text("{}")
    numpy_format.save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.names()) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensor(name, array.shape).read(), array.astype(np.float32))


def test_reading_rows_of_a_large_tensor_keeps_memory_low(tmp_path: Path) -> None:
    rows, columns = 64 * 1024, 1024  # 256 MiB, sparse on disk
    header = {"w": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, rows * columns * 4]}}
    write_raw(tmp_path / "model.safetensors", header)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(file.seek(0, 2) + rows * columns * 4)
    (tmp_path / "config.json").write_text("{}")
    weight = Checkpoint.open(tmp_path).tensor("w", (rows, columns))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, rows, 1024):
        assert not weight.rows(start, start + 1024).any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


def test_same_values_finds_one_changed_bit_far_from_the_start(tmp_path: Path) -> None:
    count = COMPARE_BYTES // 2 + 8
    data = np.ones(count, "<u2")
    changed = data.copy()
    changed[-1] ^= 1
    (tmp_path / "config.json").write_text("{}")
    tensors = {
        "embedding": ("BF16", (count // 4, 4), data.tobytes()),
        "head": ("BF16", (count // 4, 4), data.tobytes()),
        "other": ("BF16", (count // 4, 4), changed.tobytes()),
        "flat": ("BF16", (count,), data.tobytes()),
        "half": ("F16", (count // 4, 4), data.tobytes()),
    }
    write_tensors(tmp_path / "model.safetensors", tensors)
    checkpoint = Checkpoint.open(tmp_path)
    embedding = checkpoint.tensor("embedding")
    assert same_values(embedding, checkpoint.tensor("head"))
    for name in ("other", "flat", "half"):
        assert not same_values(embedding, checkpoint.tensor(name))


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(small(tmp_path))
    with pytest.raises(CheckpointError, match=r"no tensor 'x'"):
        checkpoint.tensor("x")
    with pytest.raises(CheckpointError, match=r"'w'.*shape \[2, 3\], expected \[3, 2\]"):
        checkpoint.tensor("w", (3, 2))
    with pytest.raises(IndexError, match="1:3"):
        checkpoint.tensor("w").rows(1, 3)


def test_texts_beside_the_weights_are_found_or_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(small(tmp_path))
    assert checkpoint.json_file("generation_config.json") is None
    assert checkpoint.text_file("chat_template.jinja") is None
    assert checkpoint.chat_template() is None
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*save_pretrained"):
        _ = checkpoint.tokenizer_path
    (tmp_path / "tokenizer.json").write_text("{}")
    assert checkpoint.tokenizer_path == tmp_path / "tokenizer.json"
    (tmp_path / "generation_config.json").write_text('{"top_k": 1}')
    assert checkpoint.json_file("generation_config.json") == {"top_k": 1}


def test_the_newest_place_of_the_chat_template_wins(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(small(tmp_path))
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert checkpoint.chat_template() == "d"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "c"}')
    assert checkpoint.chat_template() == "c"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "b"}')
    assert checkpoint.chat_template() == "b"
    (tmp_path / "chat_template.jinja").write_text("a")
    assert checkpoint.chat_template() == "a"


def test_the_digest_follows_config_and_weights(tmp_path: Path) -> None:
    digests = {Checkpoint.open(sharded(tmp_path)).digest(), Checkpoint.open(sharded(tmp_path)).digest()}
    assert len(digests) == 1
    write_tensors(tmp_path / "model-2.safetensors", {"b": ("F32", (2, 1), f32(3, 4.5))})
    digests.add(Checkpoint.open(tmp_path).digest())
    (tmp_path / "config.json").write_text('{"a": 1}')
    digests.add(Checkpoint.open(tmp_path).digest())
    assert len(digests) == 3


def test_a_path_that_is_no_checkpoint_is_explained(tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "absent")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file" in refusal(tmp_path / "model.safetensors")
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty")
    assert "config.json" in message
    assert "tokenizer.json" in message


def test_a_folder_without_safetensors_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "neither model.safetensors nor" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    message = refusal(tmp_path)
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert "of no use without model.safetensors.index.json" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--adapter" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"{", "not JSON"), (b"[]", "a JSON list"), (b"\xff{}", "UTF-8"), (b"[" * 100_000, "not JSON")],
)
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes, expected: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    message = refusal(tmp_path)
    assert "config.json" in message
    assert expected in message


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model-2.safetensors").unlink()
    message = refusal(tmp_path)
    assert "lacks shard model-2.safetensors" in message
    assert "'b'" in message


def test_an_index_naming_a_tensor_that_its_shard_lacks_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    write_index(tmp_path, {"a": "model-1.safetensors", "c": "model-2.safetensors"})
    assert "model-2.safetensors lacks tensor 'c'" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "x/../../y", "..\\x", "", 7])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, name: object) -> None:
    sharded(tmp_path)
    write_index(tmp_path, {"a": name})
    assert "no file below" in refusal(tmp_path)


@pytest.mark.parametrize("weight_map", [None, {}, []])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    sharded(tmp_path)
    write_index(tmp_path, weight_map)
    assert "weight_map" in refusal(tmp_path)


@pytest.mark.parametrize(("cut", "expected"), [(3, "truncated"), (24, "truncated"), (40, "complete"), (-5, "too long")])
def test_a_shard_of_another_size_than_its_header_says_is_refused(tmp_path: Path, cut: int, expected: str) -> None:
    path = small(tmp_path) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut > 0 else data + bytes(-cut))
    message = refusal(tmp_path)
    assert "model.safetensors" in message
    assert expected in message


def test_a_shard_that_shrinks_while_open_is_noticed(tmp_path: Path) -> None:
    path = small(tmp_path) / "model.safetensors"
    weight = Checkpoint.open(tmp_path).tensor("w")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="shorter since"):
        weight.read()


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
    (small(tmp_path) / "model.safetensors").write_bytes(pointer)
    assert "git lfs pull" in refusal(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 10**8 + 1, 2**63, 2**64 - 1, 1000])
def test_an_impossible_header_length_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    write_raw(small(tmp_path) / "model.safetensors", b"{}", length=length)
    message = refusal(tmp_path)
    assert str(length) in message
    assert "header claims" in message


def entry(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\x00\x01garbage", "no JSON"),
        (b"{" + b'"a":[' * 100_000, "no JSON"),
        (b'{"w": {}, "w": {}}', "occurs twice"),
        ([], "no JSON object"),
        ({"w": 3}, "describes tensor 'w'"),
        (entry(dtype="F8_E4M3"), "F8_E4M3"),
        (entry(dtype=["F32"]), "expected one of F64, F32"),
        (entry(shape=[-2]), r"shape [-2]"),
        (entry(shape=[2.0]), "shape [2.0]"),
        (entry(shape=[True, 2]), "shape [True, 2]"),
        (entry(shape=None), "shape None"),
        (entry(data_offsets=[0]), "offsets [0]"),
        (entry(data_offsets=[8, 0]), "takes 8"),
        (entry(shape=[3]), "takes 12"),
        (entry(shape=[2**40, 2**40]), "takes"),
        (entry(data_offsets=[4, 12]), "hole"),
        ({**entry(), "v": entry()["w"]}, "overlap"),
        ({}, "too long"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: object, expected: str) -> None:
    write_raw(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value)
    assert expected in str(caught.value)


def test_no_corrupted_header_byte_escapes_as_another_error(tmp_path: Path) -> None:
    path = small(tmp_path) / "model.safetensors"
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for position in range(8 + int.from_bytes(data[:8], "little")):
        damaged = data.copy()
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            for tensor in open_safetensors(path).tensors.values():
                tensor.read()
        except CheckpointError:
            pass


def test_a_hub_id_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = refusal("nobody/no-such-model")
    assert "no folder nobody/no-such-model" in message
    assert "network" in message


def test_a_hub_id_without_huggingface_hub_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"fgr-edge\[export\]"):
        Checkpoint.open("nobody/no-such-model")
