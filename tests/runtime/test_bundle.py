"""A bundle is read only if it is what its manifest says, and nothing in it leads out of its folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError, LabelError
from fgr_edge.runtime import bundle as bundle_module
from fgr_edge.runtime.bundle import FORGET_ROWS, Bundle, EmbeddingTable
from fgr_edge.runtime.labels import Label, LabelSet
from fgr_edge.runtime.manifest import DecoderPart, RequiredDecoderPart, VisionPart, is_safe_name, sealed
from fgr_edge.runtime.stored_labels import StoredLabels

ROWS, COLUMNS = 5, 4
DTYPES = ("float32", "float16", "bfloat16")
VALUES = (np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS) - 9) / 8  # exact in all three

MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "family": "tiny",
    "name": "tiny-1",
    "target": "cpu",
    "dialect": "onnxruntime",
    "precision": {"decoder": "int8", "vision": "fp32"},
    "decoder": {
        "layers": 2,
        "hidden": COLUMNS,
        "kv_heads": 1,
        "head_dim": 4,
        "vocab": ROWS,
        "rope_theta": 1e6,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": False,
        "deepstack": 0,
        "max_positions": 64,
        "cache_dtype": "float32",
    },
    "vision": {
        "head_dim": 4,
        "merge_size": 2,
        "rope_theta": 1e4,
        "window_patches": None,
        "learned_positions": None,
        "deepstack": 0,
    },
    "image": {},
    "prompt": {},
    "generation": {},
    "embedding": {"dtype": "float32", "rows": ROWS, "columns": COLUMNS},
    "provenance": {},
}


def stored(dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (VALUES.view(np.uint32) >> 16).astype("<u2").tobytes()
    return VALUES.astype(dtype).tobytes()


def write(
    folder: Path,
    change: Callable[[dict[str, Any]], object] = lambda manifest: None,
    files: dict[str, bytes] | None = None,
) -> Path:
    """A bundle of a table, a tokenizer and `files`; `change` edits the manifest before it is sealed."""
    manifest = copy.deepcopy(MANIFEST)
    contents = {"embedding.bin": stored("float32"), "tokenizer.json": b"{}", "sub/deep.bin": b"deep", **(files or {})}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest["files"] = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    return str(caught.value)


def test_a_whole_bundle_opens(tmp_path: Path) -> None:
    bundle = Bundle.open(write(tmp_path), verify="full")
    assert bundle.manifest["name"] == "tiny-1"
    assert bundle.file("sub/deep.bin").read_bytes() == b"deep"
    assert "tokenizer.json" in bundle
    assert "labels.json" not in bundle
    assert bundle.json("tokenizer.json") == {}
    assert bundle.labels() is None


def test_only_listed_files_are_handed_out(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "unlisted.bin").write_bytes(b"x")
    bundle = Bundle.open(tmp_path)
    for name in ("unlisted.bin", "../x", "manifest.json"):
        with pytest.raises(BundleError, match=r"has no file .*embedding\.bin"):
            bundle.file(name)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    def grow(manifest: dict[str, Any]) -> None:
        manifest["new"] = {"x": [1.5, None]}
        manifest["decoder"]["new"] = 1
        manifest["files"]["tokenizer.json"]["new"] = 1

    assert Bundle.open(write(tmp_path, grow)).manifest["decoder"]["layers"] == 2


DIGEST = hashlib.sha256(b"{}").hexdigest()  # of the tokenizer.json that `write` puts in
CLASSES = LabelSet((Label("Royal Gala", "Apple", ("Gala",)), Label("Rødspætte", description="a fish")))


def with_labels(folder: Path, text: str) -> Bundle:
    return Bundle.open(write(folder, files={"labels.json": text.encode()}))


def test_labels_come_back_with_their_token_ids(tmp_path: Path) -> None:
    stored = StoredLabels(CLASSES, {"direct": [[1, 2], [1], [3, 4, 0]], "reason": [[0], [1], [2]]})
    assert with_labels(tmp_path, stored.to_json(DIGEST)).labels() == stored


def test_labels_of_an_older_bundle_are_read(tmp_path: Path) -> None:
    names = ["Royal Gala", "Rødspætte"]
    assert with_labels(tmp_path, json.dumps({"labels": names})).labels() == StoredLabels(LabelSet.from_names(names))


def test_labels_of_another_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LabelError, match=r"labels.json: .*labels of another bundle: .* 000000000000…, .* 44136fa355b3…"
    ):
        with_labels(tmp_path, StoredLabels(CLASSES).to_json("0" * 64)).labels()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["a"], r"this is not \{\"labels\": \[names\]\}"),
        ({"labels": "a"}, "are a str, expected a list"),
        ({"labels": []}, "empty"),
        ({"labels": ["a", "A"]}, "'a' and 'A' are the same name"),
        ({"labels": [{"name": "a", "colour": "red"}]}, "label 1 has the key 'colour'"),
        ({"labels": ["a"], "version": 3}, "version 3 .*update fgr-edge"),
        ({"labels": ["a"], "version": True}, "version True"),
        ({"labels": ["a"], "version": 2}, "another bundle"),
        ({"labels": ["a"], "version": 2, "tokenizer_sha256": DIGEST, "compiled": []}, "'compiled' is a list"),
        ({"direct": [[1]]}, "'direct' are 1 sequences, expected 3"),
        ({"direct": 5}, "'direct' are no list"),
        ({"direct": "abc"}, "'Royal Gala' under 'direct' is a, expected token ids"),
        ({"direct": [[1], [], [2]]}, r"'Gala' under 'direct' is \[\]"),
        ({"direct": [[1], [True], [2]]}, r"'Gala' under 'direct' is \[True\]"),
        ({"direct": [[1], [-1], [2]]}, r"\[-1\]"),
        ({"direct": [[1], [5], [2]]}, "token 5, expected ids below 5"),
    ],
)
def test_labels_that_were_not_exported_like_this_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    value = change
    if isinstance(change, dict) and "labels" not in change:
        value = {**json.loads(StoredLabels(CLASSES).to_json(DIGEST)), "compiled": change}
    with pytest.raises(LabelError, match=rf"labels\.json: .*{words}"):
        with_labels(tmp_path, json.dumps(value)).labels()


def test_labels_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not JSON"):
        with_labels(tmp_path, "[").labels()


def test_arrays_are_read_and_pickles_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", a=VALUES)
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    files = {name: (tmp_path / name).read_bytes() for name in ("plain.npz", "pickled.npz")}
    bundle = Bundle.open(write(tmp_path, files={**files, "text.npz": b"text"}))
    np.testing.assert_array_equal(bundle.arrays("plain.npz")["a"], VALUES)
    for name in ("pickled.npz", "text.npz"):
        with pytest.raises(BundleError, match=rf"{name} is no \.npz file of plain arrays"):
            bundle.arrays(name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_are_gathered_exactly(tmp_path: Path, dtype: str) -> None:
    def retype(manifest: dict[str, Any]) -> None:
        manifest["embedding"]["dtype"] = dtype

    table = Bundle.open(write(tmp_path, retype, {"embedding.bin": stored(dtype)})).embedding()
    ids = np.array([4, 0, 0, 2], dtype=np.int64)
    np.testing.assert_array_equal(table.gather(ids), VALUES[ids])
    out = np.full((4, COLUMNS), np.nan, dtype=np.float32)
    assert table.gather(ids, out) is out
    np.testing.assert_array_equal(out, VALUES[ids])
    assert table.gather(ids[:0]).shape == (0, COLUMNS)
    wide = np.zeros((4, 2 * COLUMNS), dtype=np.float32)
    table.gather(ids, wide[:, COLUMNS:])
    np.testing.assert_array_equal(wide[:, COLUMNS:], VALUES[ids])
    assert not wide[:, :COLUMNS].any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_embeddings_that_were_read_leave_memory(tmp_path: Path) -> None:
    rows, columns = 4096, 256  # 4 MiB
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)

    def resize(manifest: dict[str, Any]) -> None:
        manifest["embedding"] |= {"dtype": "float32", "rows": rows, "columns": columns}
        manifest["decoder"] |= {"vocab": rows, "hidden": columns}

    folder = write(tmp_path, resize, {"embedding.bin": values.tobytes()})
    table = Bundle.open(folder).embedding()
    ids = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(table.gather(ids), values[ids])
    for token in ids[:FORGET_ROWS]:
        np.testing.assert_array_equal(table.gather(np.array([token])), values[[token]])
    area = Path("/proc/self/smaps").read_text().partition(str(folder / "embedding.bin"))[2]
    resident_kb = int(re.search(r"Rss:\s+(\d+)", area)[1])  # type: ignore[index]
    assert resident_kb < 1024


def test_every_bfloat16_value_is_gathered_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(-1, 256)
    table = EmbeddingTable(bits, {"dtype": "bfloat16", "rows": 256, "columns": 256})
    gathered = table.gather(np.arange(256, dtype=np.int64))
    np.testing.assert_array_equal(gathered.view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("token", [-1, ROWS, 2**40])
def test_an_id_outside_the_table_is_refused(tmp_path: Path, token: int) -> None:
    table = Bundle.open(write(tmp_path)).embedding()
    with pytest.raises(BundleError, match=rf"token id {token} is outside the embedding table of {ROWS} rows"):
        table.gather(np.array([0, token], dtype=np.int64))


def test_a_wrong_buffer_is_refused(tmp_path: Path) -> None:
    table = Bundle.open(write(tmp_path)).embedding()
    ids = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match=r"expected int64 \[S\]"):
        table.gather(ids[None])
    with pytest.raises(ValueError, match=r"expected float32 \[2, 4\]"):
        table.gather(ids, np.empty((3, COLUMNS), np.float32))
    with pytest.raises(ValueError, match="float64"):
        table.gather(ids, np.empty((2, COLUMNS), np.float64))


def test_what_is_no_bundle_is_explained(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "it is a file" in refusal(tmp_path / "file")
    assert "it has no manifest.json; make one with `fgr-edge export`" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "looks like a checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"schema_version": NaN}', "NaN"),
        (b'{"schema_version": 1, "manifest_sha256": "", "x": 1e999}', "JSON has not"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1]", "a JSON list"),
        (b'{"schema_version": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}", "manifest_sha256"),
        (b"{}", "no key 'schema_version'"),
        (b'{"schema_version": true}', "true under 'schema_version'"),
        (b'{"schema_version": 1}', "no key 'manifest_sha256'"),
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    message = refusal(tmp_path)
    assert "manifest.json" in message
    assert expected in message


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(2**40)
    assert "too large" in refusal(tmp_path)


def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, lambda manifest: manifest.update(schema_version=7)))
    assert "schema_version 7" in message
    assert "reads up to 1" in message
    assert "upgrade" in message


def test_every_required_key_is_required(tmp_path: Path) -> None:
    write(tmp_path)
    for key in (*MANIFEST, "files"):

        def drop_key(manifest: dict[str, Any], key: str = key) -> None:
            del manifest[key]

        assert f"no key '{key}'" in refusal(write(tmp_path, drop_key))
    for part in ("decoder", "vision", "embedding"):
        for key in MANIFEST[part]:

            def drop_inner(manifest: dict[str, Any], part: str = part, key: str = key) -> None:
                del manifest[part][key]

            assert f"no key '{part}.{key}'" in refusal(write(tmp_path, drop_inner))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("family", 3),
        ("precision", []),
        ("precision.decoder", 8),
        ("decoder.layers", "2"),
        ("decoder.layers", 0),
        ("decoder.layers", True),
        ("decoder.rope_theta", "1e6"),
        ("decoder.rope_theta", False),
        ("decoder.mrope_section", [1, -1]),
        ("decoder.mrope_interleaved", 0),
        ("vision.window_patches", 0),
        ("vision.deepstack", -1),
        ("embedding.rows", 5.0),
        ("embedding.rows", 6),
        ("embedding.columns", 5),
        ("embedding.dtype", "object"),
        ("files", []),
        ("files", {}),
        ("files.tokenizer_json", 3),
        ("files.embedding_bin", {"size": -1, "sha256": "0" * 64}),
        ("files.embedding_bin", {"size": 80, "sha256": "0" * 63 + "G"}),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, path: str, value: object) -> None:
    keys = [key.replace("_json", ".json").replace("_bin", ".bin") for key in path.split(".")]

    def change(manifest: dict[str, Any]) -> None:
        part = manifest
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    message = refusal(write(tmp_path, change))
    assert "manifest.json" in message
    assert keys[-1].partition(".")[0] in message
    assert "expected" in message


def test_the_parts_are_those_that_the_runtime_reads() -> None:
    decoder = pytest.importorskip("fgr_edge.runtime.decoder")
    vision = pytest.importorskip("fgr_edge.runtime.vision")
    assert {field.name for field in dataclasses.fields(decoder.DecoderSpec)} == set(DecoderPart.__annotations__)
    assert {field.name for field in dataclasses.fields(vision.VisionSpec)} == set(VisionPart.__annotations__)
    assert set(MANIFEST["decoder"]) == set(RequiredDecoderPart.__annotations__)
    assert set(MANIFEST["vision"]) == set(VisionPart.__annotations__)


def test_what_older_manifests_do_not_say_may_be_missing_but_not_wrong(tmp_path: Path) -> None:
    assert "tree_attention" not in Bundle.open(write(tmp_path)).manifest["decoder"]
    write(tmp_path, lambda manifest: manifest["decoder"].update(tree_attention=True))
    assert Bundle.open(tmp_path).manifest["decoder"]["tree_attention"] is True
    write(tmp_path, lambda manifest: manifest["decoder"].update(tree_attention=1))
    assert "has 1 under 'decoder.tree_attention', expected a bool" in refusal(tmp_path)


def test_a_missing_file_and_a_wrong_size_are_both_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "sub/deep.bin").write_bytes(b"deeper")
    message = refusal(tmp_path)
    assert "tokenizer.json is missing" in message
    assert "sub/deep.bin has 6 bytes, expected 4" in message


def test_any_changed_byte_of_a_small_bundle_is_caught_at_open(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("embedding.bin", "tokenizer.json", "sub/deep.bin"):
        data = (tmp_path / name).read_bytes()
        for position in range(len(data)):
            (tmp_path / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            assert f"{name} has changed" in refusal(tmp_path)
        (tmp_path / name).write_bytes(data)
    Bundle.open(tmp_path)


def test_any_changed_byte_of_the_manifest_is_caught_or_harmless(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "manifest.json"
    data, meant = path.read_bytes(), Bundle.open(tmp_path).manifest
    with open(path, "r+b", buffering=0) as file:
        for position in range(len(data)):
            file.seek(position)
            file.write(bytes([data[position] ^ (1, 4, 32)[position % 3]]))
            with contextlib.suppress(BundleError):
                assert Bundle.open(tmp_path).manifest == meant
            file.seek(position)
            file.write(data[position : position + 1])


def test_a_hand_edited_number_is_caught(tmp_path: Path) -> None:
    path = write(tmp_path) / "manifest.json"
    path.write_text(path.read_text().replace("1000000.0", "1000001.0"))
    assert "has changed since it was written" in refusal(tmp_path)


def test_a_large_bundle_is_hashed_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "ALWAYS_HASHED_BYTES", 100)
    write(tmp_path, files={"decoder.onnx.data": bytes(1000), "vision.onnx.data": bytes(2000)})
    for name in ("decoder.onnx.data", "vision.onnx.data"):
        (tmp_path / name).write_bytes(b"\1" + (tmp_path / name).read_bytes()[1:])
    bundle = Bundle.open(tmp_path)
    calls: list[tuple[int, int]] = []
    with pytest.raises(BundleError) as caught:
        bundle.verify_checksums(lambda done, total: calls.append((done, total)))
    assert "decoder.onnx.data has changed" in str(caught.value)
    assert "vision.onnx.data has changed" in str(caught.value)
    assert "tokenizer.json" not in str(caught.value)
    assert calls[-1] == (3086, 3086)
    with pytest.raises(BundleError, match="changed"):
        Bundle.open(tmp_path, verify="full")
    (tmp_path / "tokenizer.json").write_bytes(b"[]")
    assert "tokenizer.json has changed" in refusal(tmp_path)  # small files are hashed at every open


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "..\\x",
        "C:x",
        "a\0b",
        "\ud800",
        "manifest.json",
        "MANIFEST.JSON",
    ],
)
def test_a_listed_path_that_is_not_plainly_inside_is_refused(tmp_path: Path, name: str) -> None:
    def list_it(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}

    assert not is_safe_name(name)
    message = refusal(write(tmp_path, list_it))
    assert repr(name) in message
    assert "inside the bundle" in message


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "tokenizer.json").symlink_to("../tokenizer.json")
    assert "outside the bundle" in refusal(folder)


def test_a_linked_folder_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle")
    (folder / "sub").rename(tmp_path / "sub")
    (folder / "sub").symlink_to(tmp_path / "sub")
    assert "outside the bundle" in refusal(folder)


def test_links_within_a_bundle_and_to_a_bundle_are_fine(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle")
    (folder / "sub/deep.bin").rename(folder / "blob")
    (folder / "sub/deep.bin").symlink_to("../blob")
    (tmp_path / "link").symlink_to(folder)
    assert Bundle.open(tmp_path / "link").file("sub/deep.bin").read_bytes() == b"deep"


def test_a_link_to_itself_and_a_pipe_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    os.mkfifo(tmp_path / "tokenizer.json")
    assert "tokenizer.json is no regular file" in refusal(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").symlink_to("tokenizer.json")
    assert "tokenizer.json" in refusal(tmp_path)


def test_reading_bundles_imports_nothing_heavy() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import fgr_edge.runtime.bundle;"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names;"
        "print(json.dumps(sorted(tops)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(result.stdout)) <= {"numpy", "fgr_edge"}
