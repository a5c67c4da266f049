"""What the footprint benchmark counts, and the bar on a device's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.footprint import (
    ENVIRONMENTS,
    OURS,
    RESOLVED,
    ROOT,
    RUNTIME_BAR_BYTES,
    build_wheel,
    disk_bytes,
    goes_with,
    main,
    measure,
    packages_in,
    summarize,
)
from benchmarks.footprint_rows import FOOTPRINT_HEAD, footprint_rows, goes_with_rows


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
        RESOLVED: {"bytes": 100_000_000},
        OURS: {"bytes": 300_000_000},
        "peer": {"bytes": 600_000_000},
        "no wheel": {"bytes": None},
    }
    document = summarize(rows, 500_000)
    assert (document["wheel"]["met"], document["runtime"]["met"]) == (True, False)
    assert [row["ratio"] for row in document["environments"].values()] == [0.333, 1.0, 2.0, None]
    assert summarize({}, 500_000)["runtime"]["met"] is None


def test_a_device_list_is_all_that_pip_brings_beside_the_wheel() -> None:
    (ours, resolved) = (next(one for one in ENVIRONMENTS if one.name == name) for name in (OURS, RESOLVED))
    wheel = Path("/wheels/fgr_edge-1-py3-none-any.whl")
    asked = ours.pip_arguments(wheel, from_source=False)
    assert asked == ["--no-deps", "-r", str(ROOT / "requirements" / "device-cpu.txt"), str(wheel)]
    assert Path(asked[2]).is_file()
    assert resolved.pip_arguments(wheel, from_source=False) == [f"fgr-edge[cpu] @ {wheel.as_uri()}"]
    peer = replace(ENVIRONMENTS[-1], requirements=("peer",))
    assert peer.pip_arguments(wheel, from_source=False) == ["--only-binary", ":all:", "peer"]
    assert peer.pip_arguments(wheel, from_source=True) == ["peer"]


def test_rows_show_bytes_without_bytecode_and_what_goes_of_the_resolved_environment() -> None:
    entry = {"bytes": 200_000_000, "bytecode_bytes": 50_000_000, "packages": {}, "note": None}
    absent: dict[str, Any] = {"bytes": None, "packages": {}, "note": "no wheel for this platform"}
    found: dict[str, Any] = {OURS: {**entry, "goes_with": {}}, RESOLVED: {**entry, "goes_with": {"tokens": 45_400_000}}}
    document = summarize({**found, "peer": absent}, 500_000)
    rows = footprint_rows(document)
    assert {len(row) for row in rows} == {len(FOOTPRINT_HEAD)}
    assert [row[:4] for row in rows] == [
        [OURS, "200.0", "150.0", "1.00x"],
        [RESOLVED, "200.0", "150.0", "1.00x"],
        ["peer", "-", "-", "-"],
        ["fgr-edge's wheel", "0.50", "-", "-"],
    ]
    assert goes_with_rows(document)[1] == [["tokens", "45.4"]]
    assert goes_with_rows(None) == ([], [])


@pytest.mark.slow  # downloads 60 MB
def test_a_device_fits_under_the_bar_and_its_commands_run(
    nano_bundle: Callable[..., Path], nano_labels: Path, birds: Callable[[int], list[Path]], tmp_path: Path
) -> None:
    from fgr_edge.data.aviary import SPECIES

    (ours,) = (one for one in ENVIRONMENTS if one.name == OURS)
    folder = tmp_path / "environment"
    try:
        entry = measure(ours, build_wheel(tmp_path), folder, from_source=False)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        if "from versions: none" in f"{error} {getattr(error, 'stderr', '')}":  # what pip says without a network
            pytest.skip("no registry can be reached")
        raise
    assert 100_000_000 < entry["bytes"] <= RUNTIME_BAR_BYTES, entry["packages"]
    bundle = shutil.copytree(nano_bundle("int8", nano_labels), tmp_path / "bundle")
    drawn = birds(len(SPECIES))
    photographs = tmp_path / "photographs"
    for species, bird in zip(SPECIES, drawn, strict=True):
        (photographs / species.name).mkdir(parents=True)
        shutil.copy(bird, photographs / species.name)

    def asked(verb: str, *arguments: object) -> str:
        command = [str(folder / "bin" / "fgr-edge"), verb, str(bundle), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    for mode in ("direct", "reason"):
        assert SPECIES[0].name in asked("recognize", drawn[0], "--mode", mode)
    asked("calibrate-labels", photographs)
    asked("bench", "-r", 1, "-n", 2)
    asked("tune", "--rounds", 1)


def test_an_unknown_environment_is_refused_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "fgr-edge[gpu]"])
    assert ENVIRONMENTS[0].name in capsys.readouterr().err
