"""`inspect` says what is inside a bundle, for programs and for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fgr_edge.errors import BundleError
from fgr_edge.runtime.inspection import describe, readable, summary

if TYPE_CHECKING:
    from tests.tiny import TinyModels


def test_sizes_and_memory_are_those_of_the_files_and_the_model(tiny_models: TinyModels) -> None:
    path = tiny_models.bundle("qwen2.5", "int8")
    found = describe(path)
    on_disk = sum(file.stat().st_size for file in path.iterdir() if file.name != "manifest.json")
    assert found["total_bytes"] == on_disk
    assert found["cache_bytes_per_token"] == 2 * 3 * 2 * 16 * 4  # key and value, layers, heads, width, float32
    assert found["labels"] == 0
    assert (found["family"], found["target"], found["precision"]["decoder"]) == ("qwen2_5_vl", "cpu", "int8")
    assert json.loads(json.dumps(found)) == found


def test_a_float16_cache_takes_half(tiny_models: TinyModels) -> None:
    assert describe(tiny_models.bundle("qwen2.5", target="cuda"))["cache_bytes_per_token"] == 2 * 3 * 2 * 16 * 2


def test_the_table_names_model_precision_and_every_file(tiny_models: TinyModels) -> None:
    path = tiny_models.bundle("qwen3", "int8")
    table = summary(path)
    for word in (
        str(path),
        "qwen3",
        "int8",
        "4 layers of 48",
        "none stored",
        "a token",
        "decoder.onnx.data",
        "total",
        "not compared",
    ):
        assert word in table
    starts = {line.index("  ") for line in table.splitlines() if line.startswith("decoder.onnx.data")}
    assert starts == {len("decoder.onnx.data")}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (5_600_000, "5.6 MB"), (3_000_000_000, "3.00 GB")],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert readable(count) == text


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        summary(tmp_path)
