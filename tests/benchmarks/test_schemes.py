"""The table of schemes: what it reads of a bundle, and how it is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results_table import TABLES
from benchmarks.schemes import bundles, size_of
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model


def test_sizes_follow_the_bits_of_a_scheme(nano_checkpoint: Path, tmp_path: Path) -> None:
    model = open_model(Checkpoint.open(nano_checkpoint))
    paths = bundles(model, ["fp16", "int8", "int4-128"], tmp_path)
    sizes = {name: size_of(path, name, model) for name, path in paths.items()}
    found = [size["bytes_per_weight"] for size in sizes.values()]
    assert 2 <= found[0] < 2.02 and 1.03 <= found[1] < 1.06 and 0.53 <= found[2] < 0.56
    assert sizes["fp16"]["bytes_per_token"] == 2 * sizes["fp16"]["decoder_bytes"]
    assert sizes["int8"]["bytes_per_token"] == sizes["int8"]["decoder_bytes"]


def test_the_table_has_a_row_for_every_scheme_of_every_checkpoint() -> None:
    row = {
        "bytes_per_weight": 0.531,
        "decode_tokens_per_s": 200.0,
        "decode_ratio": 4.0,
        "roofline_share": 0.8,
        "stages_ms": {"vision": {"p50": 12.34}, "prefill": {"p50": 5.0}},
    }
    documents: dict[str, dict[str, Any]] = {
        "schemes_nano": {"checkpoint": "nano", "schemes": {"fp32": row, "int4-128": row}},
        "latency_nano": {"checkpoint": "nano"},
    }
    lines = TABLES["schemes"](documents).splitlines()
    assert len(lines) == 4
    assert lines[3] == "| nano: int4-128 | 0.53 | 200.0 (4.00x) | 80 % | 12.3 | 5.0 |"
    assert TABLES["schemes"]({}) == "not measured yet"
