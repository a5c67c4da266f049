"""Where time goes: every node is counted once, and a step is given what the runtime gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from benchmarks.operators import Profiled, decoder_inputs, stage
from benchmarks.peers.rows import operator_rows
from fgr_edge.runtime.bundle import Bundle


def test_the_kinds_of_operators_add_up_to_all_of_them() -> None:
    operators = {
        "MatMulNBits": {"nodes": 5, "ms": 4.0},
        "Gemm": {"nodes": 1, "ms": 1.0},
        "GroupQueryAttention": {"nodes": 2, "ms": 2.0},
        "Mul": {"nodes": 2, "ms": 0.5},
    }
    found = stage([9.0, 8.0, 30.0], operators)
    assert (found["call_ms"], found["products_ms"], found["attention_ms"], found["others_ms"]) == (9.0, 5.0, 2.0, 0.5)
    row = operator_rows({"bundles": {"fgr_edge-int8": {"token": found | {"weight_gbps": 36.2}}}})[0]
    assert row == ["int8, token", "9.00", "5.00", "2.00", "0.50", "36.2"]


def test_a_step_after_others_runs_and_its_nodes_are_timed(nano_bundle: Callable[..., Path]) -> None:
    profiled = Profiled(Bundle.open(nano_bundle()).file("decoder.onnx"), 1)
    inputs = decoder_inputs(profiled.session, 7, 1)
    assert inputs["total_sequence_length"] == 8 and inputs["past_key.0"].shape[2] == 256
    before = np.array(inputs["past_key.0"])
    assert len(profiled.calls(inputs, 2)) == 2
    changed = np.flatnonzero((inputs["past_key.0"] != before).any(axis=(0, 1, 3)))
    np.testing.assert_array_equal(changed, [7])  # the cache is written in place, one slot
    operators = profiled.operators()
    layers = sum(name.startswith("past_key.") for name in inputs)
    assert operators["GroupQueryAttention"]["nodes"] == layers
