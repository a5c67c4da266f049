"""A bundle that is added to is the old one or the new one at any moment."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fgr_edge.errors import BundleError, StorageError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from tests.runtime.test_bundle_writer import export, mark, snapshot


def amend(output: Path, value: object) -> None:
    with BundleAmendment(output) as amendment:
        amendment.write_json("confidence.json", value)


def test_an_amended_bundle_has_its_old_files_and_the_new_one(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    before = Bundle.open(output).manifest
    inode = (output / "embedding.bin").stat().st_ino
    amend(output, 1)
    bundle = Bundle.open(output, verify="full")
    assert sorted(bundle.manifest["files"]) == ["confidence.json", "deep/er/mark.json", "embedding.bin"]
    assert bundle.json("confidence.json") == 1 and mark(output) == "old"
    assert {**before, "files": 0, "manifest_sha256": 0} == {**bundle.manifest, "files": 0, "manifest_sha256": 0}
    assert (output / "embedding.bin").stat().st_ino == inode  # linked, not copied
    assert list(tmp_path.iterdir()) == [output]


def test_a_file_is_replaced_and_removed_without_touching_what_a_reader_has_open(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    with open(output / "deep/er/mark.json", encoding="utf-8") as reader:
        with BundleAmendment(output) as amendment:
            amendment.write_json("deep/er/mark.json", "longer than before")
        assert json.load(reader) == "old"
    assert mark(output) == "longer than before"
    with BundleAmendment(output) as amendment:
        amendment.remove("deep/er/mark.json")
        amendment.remove("not there")
    assert sorted(Bundle.open(output, verify="full").manifest["files"]) == ["embedding.bin"]
    assert not (output / "deep/er/mark.json").exists()


def test_what_no_manifest_lists_stays(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle")
    (output / "engines" / "cuda").mkdir(parents=True)
    (output / "engines" / "cuda" / "a.engine").write_bytes(b"built here")
    (output / "notes.txt").write_text("mine")
    (output / "link").symlink_to("notes.txt")
    amend(output, 1)
    assert (output / "engines" / "cuda" / "a.engine").read_bytes() == b"built here"
    assert (output / "link").is_symlink() and (output / "link").read_text() == "mine"
    assert "notes.txt" not in Bundle.open(output).manifest["files"]


def test_an_exception_changes_nothing(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle")
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError), BundleAmendment(output) as amendment:
        amendment.write_json("confidence.json", 1)
        amendment.path("embedding.bin").write_bytes(b"x")
        raise RuntimeError
    with pytest.raises(StorageError, match="No space left"), BundleAmendment(output) as amendment:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert snapshot(tmp_path) == before


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    output = export(tmp_path / "bundle", mark="old")
    monkeypatch.setattr(os, "link", no_links)
    amend(output, 1)
    assert Bundle.open(output, verify="full").json("confidence.json") == 1
    assert mark(output) == "old"


def test_the_slower_of_two_that_amend_is_told(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle")
    with pytest.raises(StorageError, match="another process changed"), BundleAmendment(output) as slow:
        slow.write_json("confidence.json", "slow")
        code = (
            "import sys; from fgr_edge.runtime.bundle_amendment import BundleAmendment\n"
            "with BundleAmendment(sys.argv[1]) as quick: quick.write_json('confidence.json', 'quick')"
        )
        subprocess.run([sys.executable, "-c", code, str(output)], check=True, capture_output=True, timeout=20)
    assert Bundle.open(output, verify="full").json("confidence.json") == "quick"
    assert list(tmp_path.iterdir()) == [output]


def test_only_a_bundle_can_be_amended(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in (tmp_path / "photos", tmp_path / "absent"):
        with pytest.raises(BundleError, match="no bundle"):
            BundleAmendment(path)
    assert list(tmp_path.iterdir()) == [tmp_path / "photos"]


@pytest.mark.parametrize("step", ["shutil.copytree", "Path.unlink", "Path.write_text", "sync", "exchange", "remove"])
def test_a_kill_at_any_step_leaves_the_old_bundle_or_the_new_one(tmp_path: Path, step: str) -> None:
    output = export(tmp_path / "bundle", mark="old")
    code = f"""
        import os, shutil, signal, sys
        from pathlib import Path
        from fgr_edge.runtime import bundle_amendment, bundle_writer
        def kill(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        with bundle_amendment.BundleAmendment(sys.argv[1]) as ready:
            ready.write_json("first.json", 1)
        owner, _, name = "{step}".rpartition(".")
        setattr({{"shutil": shutil, "Path": Path, "": bundle_writer}}[owner], name, kill)
        with bundle_amendment.BundleAmendment(sys.argv[1]) as amendment:
            amendment.write_json("deep/er/mark.json", "new")
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(output)], timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert mark(output) == ("new" if step == "remove" else "old")
    amend(output, "next")  # clears what is left
    assert Bundle.open(output, verify="full").json("confidence.json") == "next"
    assert list(tmp_path.iterdir()) == [output]
