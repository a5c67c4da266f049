"""What a result document says about the machine is there, and measured."""

from __future__ import annotations

import json

from benchmarks.machine import describe_machine


def test_the_description_is_json_and_says_what_the_number_was_measured_on() -> None:
    document = json.loads(json.dumps(describe_machine()))
    assert document["cores"] >= 1
    assert document["memory_bytes"] > 1 << 28
    assert document["packages"]["numpy"]
    assert document["noise_percent"] >= 0
    assert "/home" not in document["command"]
