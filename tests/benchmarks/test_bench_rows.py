"""A run of `fgr-edge bench` as a row of a README, with what was not measured left open."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.bench_rows import HEAD, bench_rows
from benchmarks.results_table import fill
from fgr_edge.bench.spread import spread

TIMES = spread([10.0, 20.0, 30.0])
DOCUMENT: dict[str, Any] = {
    "benchmark": "fgr-edge bench",
    "bundle": {"name": "nano", "precision": {"vision": "int8", "decoder": "int8", "embedding": "bfloat16"}},
    "noise": {"quiet": True},
    "answers": {"direct": {"answer_ms": TIMES, "stages": {"ttft_ms": spread([9.0])}}, "reason": {"answer_ms": TIMES}},
    "decode": [{"tokens_per_s": spread([100.0]), "roofline_share": spread([0.81])}],
    "cold_start": {"cached": {"first_answer_ms": spread([312.4])}},
    "memory": {"peak_bytes": {"direct": 107_000_000}},
    "machine": {"cpu": "A", "cores": 2, "memory_bytes": 2**30, "python": "3.11", "packages": {"onnxruntime": "1"}},
}


def test_a_row_has_a_cell_for_every_column() -> None:
    (row,) = bench_rows({"bench_nano": DOCUMENT, "latency_nano": {}})
    assert row == ("nano int8", "20.0 (29.8 of 3)", "20.0", "9.0", "100.0", "81 %", "312", "107")
    assert len(row) == len(HEAD)


def test_what_was_not_measured_is_a_dash_and_a_noisy_machine_is_named() -> None:
    document = copy.deepcopy(DOCUMENT)
    document |= {"answers": {}, "decode": [], "cold_start": {"cached": None}, "memory": {"peak_bytes": {}}}
    document["noise"]["quiet"] = False
    (row,) = bench_rows({"bench_nano": document})
    assert row == ("nano int8 (noisy machine)", *"-------")


def test_a_run_without_peers_does_not_name_its_machine_twice() -> None:
    peers = copy.deepcopy(DOCUMENT)
    peers["machine"]["packages"]["torch"] = "2"
    text = "<!-- results:machine -->\n<!-- /results:machine -->\n"
    found = fill(text, {"bench_nano": DOCUMENT, "other": peers})
    assert found.count("A, 2 cores") == 1 and "torch 2" in found
