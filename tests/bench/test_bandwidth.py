"""Bandwidth is measured, and what a machine says of itself can be written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fgr_edge.bench.bandwidth import ReadBandwidth
from fgr_edge.bench.machine import describe_machine, jetson, last_level_cache_bytes


def test_bandwidth_is_that_of_memory() -> None:
    assert 0.05 < ReadBandwidth(threads=1, array_bytes=1 << 28).gbps(seconds=0.1) < 1000


def test_bandwidth_refuses_no_threads() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1"):
        ReadBandwidth(threads=0)


def test_the_machine_is_described_in_json_without_its_name() -> None:
    import socket

    text = json.dumps(describe_machine())
    found = json.loads(text)
    assert found["cores"] >= 1 and found["memory_bytes"] > 1 << 28 and found["packages"]["numpy"]
    assert socket.gethostname() not in text


def test_shared_caches_are_counted_once(tmp_path: Path) -> None:
    for cpu, level, shared in ((0, 2, "0"), (1, 2, "1"), (0, 3, "0-1"), (1, 3, "0-1"), (2, 3, "2")):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{level}"
        folder.mkdir(parents=True)
        for name, text in (("level", str(level)), ("size", f"{1024 * level}K"), ("shared_cpu_list", shared)):
            (folder / name).write_text(text + "\n")
    assert last_level_cache_bytes(tmp_path) == 2 * 3 * 1024 * 1024
    assert last_level_cache_bytes(tmp_path / "nothing") is None


def test_a_jetson_tells_its_release_and_power_mode(tmp_path: Path) -> None:
    assert jetson(tmp_path) is None
    for name, text in (
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64"),
        ("var/lib/nvpmodel/status", "pmode:0002 fmode:quiet"),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text + "\n")
    assert jetson(tmp_path) == {"linux": "36.3.0", "power_mode": "2"}
