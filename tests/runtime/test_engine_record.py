"""engine.json says which engines fit; what does not fit is an error that says what is there and how to build."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fgr_edge.errors import EngineError
from fgr_edge.runtime.engine_record import (
    ENGINES,
    RECORD,
    EngineFile,
    EngineProfile,
    EngineRecord,
    check_sources,
    find_engines,
    folder_name,
    read_record,
    read_records,
    write_record,
)

ORIN = EngineRecord("tensorrt", "10.3.0", "Orin (nvgpu)", (87,), ("cache-2048",), 2048, {})
RTX = EngineRecord("tensorrt-rtx", "1.7.1.116", "", (86, 89, 120), (), 1024, {})


def stored(bundle: Path, record: EngineRecord, engine: bytes = b"engine") -> EngineRecord:
    folder = bundle / ENGINES / folder_name(record.product, record.product_version, record.gpu_name, record.sms)
    folder.mkdir(parents=True)
    (folder / "decoder.engine").write_bytes(engine)
    profile = EngineProfile("decode", {"inputs_embeds": ((1, 1, 8), (1, 1, 8), (1, 1, 8))})
    sources = {"decoder.onnx": "a" * 64, "decoder.onnx.data": "b" * 64}
    file = EngineFile("decoder.engine", sha256(engine).hexdigest(), len(engine), sources, (profile,))
    written = replace(record, engines={"decoder": file}, folder=folder)
    write_record(folder, written)
    return written


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for record in (ORIN, replace(RTX, verified={"passed": True, "stages": {"files": "passed"}})):
        written = stored(tmp_path, record)
        assert written.folder is not None
        assert read_record(written.folder) == written
        assert written.path("decoder") == written.folder / "decoder.engine"


def test_folders_name_product_generation_gpu_and_version() -> None:
    assert folder_name("tensorrt", "10.3.0", "Orin (nvgpu)", (87,)) == "tensorrt-sm87-orin-nvgpu-10.3.0"
    assert folder_name("tensorrt-rtx", "1.7.1.116", "", (86, 89)) == "tensorrt-rtx-sm86-sm89-1.7.1.116"


def test_tensorrt_engines_fit_their_gpu_and_rtx_engines_their_generations(tmp_path: Path) -> None:
    stored(tmp_path, ORIN)
    stored(tmp_path, RTX)
    assert find_engines(tmp_path, "tensorrt", "10.3.0", "Orin (nvgpu)", 87).cache_length == 2048
    assert find_engines(tmp_path, "tensorrt-rtx", "1.7.1.116", "NVIDIA L4", 89).cache_length == 1024
    for product, version, name, sm in (
        ("tensorrt", "10.3.0", "Another Orin", 87),
        ("tensorrt", "10.13.3", "Orin (nvgpu)", 87),
        ("tensorrt-rtx", "1.7.1.116", "NVIDIA H100", 90),
        ("tensorrt-rtx", "1.8.0", "NVIDIA L4", 89),
    ):
        with pytest.raises(EngineError) as caught:
            find_engines(tmp_path, product, version, name, sm)  # type: ignore[arg-type]
        message = str(caught.value)
        assert f"no engines for {name} (SM{sm}) with {product} {version}" in message
        assert (
            "tensorrt 10.3.0 for Orin (nvgpu) (SM87)" in message and "tensorrt-rtx 1.7.1.116 for SM86, SM89" in message
        )
        assert f"fgr-edge build {tmp_path}" in message


def test_engines_of_one_generation_come_before_those_of_several(tmp_path: Path) -> None:
    stored(tmp_path, RTX)
    own = stored(tmp_path, replace(RTX, sms=(89,)))
    assert find_engines(tmp_path, "tensorrt-rtx", "1.7.1.116", "NVIDIA L4", 89) == own
    assert len(read_records(tmp_path)) == 2


def test_a_bundle_without_engines_says_how_to_build_them(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"it has none. Build them here: fgr-edge build"):
        find_engines(tmp_path, "tensorrt", "10.3.0", "Orin", 87)


def change(values: dict[str, Any], *path: str, to: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = to


DAMAGE = {
    "product": "cuda",
    "sms": "eighty-nine",
    "engines": [],
    "verified": "yes",
    "schema_version": 2,
}


@pytest.mark.parametrize("key", DAMAGE)
def test_a_damaged_record_is_an_error_and_says_what_to_do(tmp_path: Path, key: str) -> None:
    folder = stored(tmp_path, ORIN).folder
    assert folder is not None
    values = json.loads((folder / RECORD).read_text())
    values[key] = DAMAGE[key]
    (folder / RECORD).write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"no record of engines.*remove the folder and build again"):
        read_record(folder)


@pytest.mark.parametrize("name", ["../decoder.engine", "/etc/passwd", "", "..", "a/b.engine"])
def test_an_engine_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = stored(tmp_path, ORIN).folder
    assert folder is not None
    values = json.loads((folder / RECORD).read_text())
    change(values, "engines", "decoder", "file", to=name)
    (folder / RECORD).write_text(json.dumps(values))
    with pytest.raises(EngineError, match="no name in this folder"):
        read_record(folder)


def test_a_missing_or_cut_engine_is_found(tmp_path: Path) -> None:
    folder = stored(tmp_path, ORIN).folder
    assert folder is not None
    (folder / "decoder.engine").write_bytes(b"cut")
    with pytest.raises(EngineError, match="has 3 bytes, expected 6"):
        read_record(folder)
    (folder / "decoder.engine").unlink()
    with pytest.raises(EngineError, match="is missing"):
        find_engines(tmp_path, "tensorrt", "10.3.0", "Orin (nvgpu)", 87)


def test_engines_of_another_export_are_refused(tmp_path: Path) -> None:
    record = stored(tmp_path, ORIN)
    digests = {"decoder.onnx": "a" * 64, "decoder.onnx.data": "b" * 64, "vision.onnx": "c" * 64}
    check_sources(record, digests)
    with pytest.raises(
        EngineError, match=r"built from another decoder\.onnx\.data than the bundle's.*build them again"
    ):
        check_sources(record, {**digests, "decoder.onnx.data": "d" * 64})
    with pytest.raises(EngineError, match=r"another decoder\.onnx than"):
        check_sources(record, {key: value for key, value in digests.items() if key != "decoder.onnx"})


def test_a_graph_without_an_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"engines of decoder, none of head; build them again"):
        stored(tmp_path, ORIN).path("head")
