"""The report of a Jetson: on a machine that is none, and on files and outputs in the format that Jetsons give.

The samples are written after recorded ones of an Orin NX with JetPack 6.2 and a Thor with JetPack 7.0; no Jetson was
at hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import jetson_report
from tools.jetson_report import PROBES, UNKNOWN, block, report

SCRIPT = Path(jetson_report.__file__)
ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
        "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    ),
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}',
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1984000\n",
    "proc/meminfo": "MemTotal:  16008388 kB\nMemFree:  1 kB\nMemAvailable:  13107200 kB\nSwapTotal:  8004192 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 1000 0 5\n/dev/zram1 partition 1000 0 5\n",
    "proc/mounts": "proc /proc proc rw 0 0\n/dev/nvme0n1p1 / ext4 rw,relatime 0 0\n",
}
DPKG = """#!/bin/sh
for last; do :; done
case "$last" in
    nvidia-jetpack) echo "nvidia-jetpack 6.2+b77 installed";;
    libnvinfer10) echo "libnvinfer10 10.3.0.30-1+cuda12.5 installed";;
    *) exit 1;;
esac
"""
NVPMODEL = "#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 0\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Only these commands are found."""

    def only(**scripts: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(text)
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def test_an_orin_is_described_by_its_files_and_tools(tmp_path: Path, commands: Callable[..., None]) -> None:
    commands(dpkg_query=DPKG, nvpmodel=NVPMODEL)
    found = report(tree(tmp_path / "root", ORIN), None)
    assert found["board"] == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert (found["JetPack"], found["L4T"]) == ("6.2+b77", "36.4.3")
    assert found["system"].startswith("Ubuntu 22.04.5 LTS, ")
    assert found["CUDA"] == "12.6.11"
    assert found["TensorRT"].startswith("10.3.0.30-1+cuda12.5, ")
    assert found["power mode"] == "MAXN_SUPER (0)"
    assert found["GPU clock"] == "918 MHz, held"
    assert found["CPU clock"] == "729 MHz, free between 729 and 1984 MHz"
    assert found["memory clock"] == UNKNOWN  # for root
    assert found["memory"] == "15.3 GiB, 12.5 available; swap 7.6 GiB, 2 of its parts zram"
    assert found["storage"] == "/dev/nvme0n1p1 (ext4)"
    assert found["container"] == "no"


def test_without_the_metapackage_jetpack_follows_from_the_release(
    tmp_path: Path, commands: Callable[..., None]
) -> None:
    commands()
    for revision, jetpack in (("R36 (release), REVISION: 4.0", "6.1"), ("R38 (release), REVISION: 2.0", "7.0")):
        files = {"etc/nv_tegra_release": f"# {revision}, GCID: 1\n", ".dockerenv": ""}
        found = report(tree(tmp_path / "root", files), None)
        assert found["JetPack"] == f"{jetpack} (by L4T)" and found["container"] == "yes"
    newer = tree(tmp_path / "root", {"etc/nv_tegra_release": "# R99 (release), REVISION: 1.0\n"})
    assert report(newer, None)["JetPack"] == UNKNOWN


def test_an_empty_machine_gives_a_whole_block(tmp_path: Path, commands: Callable[..., None]) -> None:
    commands()
    found = report(tmp_path / "nothing", None)
    text = block(found)
    assert text.startswith("```text\n") and text.endswith("\n```")
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["board", "JetPack", "L4T"]
    assert sum(value == UNKNOWN for value in found.values()) >= 8
    assert len(found) == len(PROBES) + 1


def test_damaged_files_and_failing_tools_are_unknown(tmp_path: Path, commands: Callable[..., None]) -> None:
    commands(nvpmodel="#!/bin/sh\necho broken >&2; exit 255\n", dpkg_query="#!/bin/sh\nprintf '\\377\\376 x'\n")
    files = {name: "\0\x01 not what it should be" for name in ORIN}
    found = report(tree(tmp_path / "root", files), None)
    assert {found[name] for name in ("JetPack", "CUDA", "power mode", "GPU clock", "memory")} == {UNKNOWN}


def test_the_script_runs_here_by_itself_and_exits_0(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), "--json", "--root", str(tmp_path)], capture_output=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["verify"] == "no bundle was given"


def test_what_is_no_bundle_is_told_and_its_path_is_not(tmp_path: Path) -> None:
    bundle = tmp_path / "secret-user" / "bundle"
    found = report(tmp_path, bundle)
    assert found["verify"].startswith("did not run: ") and "secret-user" not in found["verify"]
    assert found["engines"] == "none"


def test_engines_are_listed_with_their_verification(tmp_path: Path) -> None:
    for name, verified in (("tensorrt-sm87-orin-10.3.0", {"passed": True}), ("tensorrt-rtx-sm86-1.7", None)):
        folder = tmp_path / "engines" / name
        folder.mkdir(parents=True)
        (folder / "engine.json").write_text(json.dumps({"verified": verified}))
    assert jetson_report.engines(tmp_path) == (
        "tensorrt-rtx-sm86-1.7 (not verified), tensorrt-sm87-orin-10.3.0 (verified)"
    )
