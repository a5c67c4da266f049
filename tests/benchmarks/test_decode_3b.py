"""What the 3B benchmark says of memory and starts is what the kernel says."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.decode_3b import disk_bytes, high_water_bytes, judged, put_out_of_cache, resident, sizes
from fgr_edge.runtime.bundle import Bundle


def test_mapped_pages_and_own_pages_are_told_apart(tmp_path: Path) -> None:
    size = 32 * 2**20
    (tmp_path / "file").write_bytes(bytes(size))
    before = resident()
    own = bytearray(b"1" * size)
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[i] for i in range(0, size, 4096)) == 0
        after = resident()
    assert after["own_bytes"] - before["own_bytes"] == pytest.approx(size, rel=0.1)
    assert after["mapped_bytes"] - before["mapped_bytes"] == pytest.approx(size, rel=0.1)
    assert high_water_bytes() >= sum(after.values()) * 0.95
    assert disk_bytes() >= 0
    del own


def test_weights_and_cache_are_counted_once(nano_bundle: Callable[..., Path]) -> None:
    bundle = Bundle.open(nano_bundle("int8"))
    found = sizes(bundle, 256)
    decoder = bundle.manifest["decoder"]
    assert found["graphs"] == sum((bundle.path / f"{name}.onnx.data").stat().st_size for name in ("vision", "decoder"))
    assert found["cache"] == 256 * 2 * 4 * decoder["layers"] * decoder["kv_heads"] * decoder["head_dim"]
    put_out_of_cache(bundle.path)  # changes nothing
    Bundle.open(bundle.path, verify="full")


def test_the_highest_peak_counts_and_the_first_cold_read() -> None:
    step = {"first token": {"disk_bytes": 240}}
    runs = {"cold": [{"peak_bytes": 300, "steps": step}], "warm": [{"peak_bytes": 330, "steps": step}]}
    found = judged({"graphs": 200, "embedding": 80, "cache": 20}, runs)
    assert found["of_weights_and_cache"] == 1.1
    assert found["of_weights_read_and_cache"] == 1.5
    assert found["cold_reads_of_graphs"] == 1.2
