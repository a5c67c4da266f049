"""What the footprint benchmark counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.footprint import ENVIRONMENTS, OURS, disk_bytes, goes_with, main, packages_in, summarize


def distribution(site: Path, name: str, size: int, *requires: str) -> None:
    """An installed distribution of one file and its metadata."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_bytes(b"#" * size)
    lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {requirement}" for requirement in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    (info / "RECORD").write_text(f"{name}.py,,\n{name}-1.0.dist-info/METADATA,,\n{name}.pyc,,\n")


def test_a_file_with_two_names_is_counted_once_in_whole_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    once = disk_bytes(tmp_path.rglob("*"))
    os.link(tmp_path / "a", tmp_path / "b")
    assert disk_bytes(tmp_path.rglob("*")) == once
    assert once >= 5000 and once % 512 == 0


def test_a_distribution_has_the_files_of_its_record_that_are_there(tmp_path: Path) -> None:
    distribution(tmp_path, "small", 10)
    distribution(tmp_path, "large", 100_000)
    found = packages_in(tmp_path)
    assert list(found) == ["large", "small"]
    assert found["large"] == {
        "version": "1.0",
        "bytes": disk_bytes([tmp_path / "large.py", tmp_path / "large-1.0.dist-info" / "METADATA"]),
    }


def test_with_a_dependency_goes_what_nobody_else_needs(tmp_path: Path) -> None:
    distribution(tmp_path, "fgr_edge", 10, "tokens", "images", "engine; extra == 'cpu'", "absent; extra == 'other'")
    distribution(tmp_path, "tokens", 10, "hub", "shared")
    distribution(tmp_path, "hub", 100_000, "shared; python_version < '3'")
    distribution(tmp_path, "images", 10, "shared")
    distribution(tmp_path, "shared", 50_000)
    distribution(tmp_path, "engine", 10)
    sizes = {name: entry["bytes"] for name, entry in packages_in(tmp_path).items()}
    assert goes_with(tmp_path, "fgr-edge", ("cpu",)) == {
        "tokens": sizes["tokens"] + sizes["hub"],
        "engine": sizes["engine"],
        "images": sizes["images"],
    }


def test_a_bar_is_met_or_missed_and_what_is_unknown_is_null() -> None:
    rows: dict[str, dict[str, Any]] = {
        OURS: {"bytes": 300_000_000},
        "peer": {"bytes": 600_000_000},
        "no wheel": {"bytes": None},
    }
    document = summarize(rows, 500_000)
    assert (document["wheel"]["met"], document["runtime"]["met"]) == (True, False)
    assert [row["ratio"] for row in document["environments"].values()] == [1.0, 2.0, None]
    assert summarize({}, 500_000)["runtime"]["met"] is None


def test_an_unknown_environment_is_refused_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "fgr-edge[gpu]"])
    assert ENVIRONMENTS[0].name in capsys.readouterr().err
