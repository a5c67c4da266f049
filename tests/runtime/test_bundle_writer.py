"""A bundle is whole or absent: after an exception, a full disk, a kill, a replacement."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import BundleError, OutputExistsError, StorageError
from fgr_edge.export.weight_file import WeightFile
from fgr_edge.runtime import bundle_folders, bundle_writer
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.bundle_writer import BundleWriter

MANIFEST: dict[str, Any] = {
    "family": "tiny",
    "name": "tiny-1",
    "target": "cpu",
    "dialect": "onnxruntime",
    "precision": {"decoder": "fp32"},
    "decoder": {
        "layers": 1,
        "hidden": 4,
        "kv_heads": 1,
        "head_dim": 4,
        "vocab": 3,
        "rope_theta": 1e6,
        "mrope_section": (1, 1, 0),
        "mrope_interleaved": False,
        "deepstack": 0,
        "max_positions": 64,
        "cache_dtype": "float32",
    },
    "vision": {
        "head_dim": 4,
        "merge_size": 2,
        "rope_theta": 1e4,
        "window_patches": None,
        "learned_positions": None,
        "deepstack": 0,
    },
    "image": {},
    "prompt": {"question": "What is it? é"},
    "generation": {},
    "embedding": {"dtype": "float32", "rows": 3, "columns": 4},
    "provenance": {},
}


def export(output: Path, *, force: bool = False, mark: str = "new") -> Path:
    with BundleWriter(output, force=force) as writer:
        writer.path("embedding.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
        writer.write_json("deep/er/mark.json", mark)
        writer.manifest = MANIFEST
    return output


def mark(output: Path) -> Any:
    return Bundle.open(output, verify="full").json("deep/er/mark.json")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(code: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A process of its own that has `tmp` = folder and the names of this module's imports."""
    head = f"""
import os, signal, sys, time
from pathlib import Path
import numpy as np
from fgr_edge.errors import *
from fgr_edge.export.weight_file import WeightFile
from fgr_edge.runtime import bundle_folders, bundle_writer
from fgr_edge.runtime.bundle_writer import BundleWriter
MANIFEST = {MANIFEST!r}
tmp = Path({str(folder)!r})
"""
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_what_is_written_opens_and_nothing_else_is_left(tmp_path: Path) -> None:
    bundle = Bundle.open(export(tmp_path / "new" / "bundle"), verify="full")
    assert sorted(bundle.manifest["files"]) == ["deep/er/mark.json", "embedding.bin"]
    assert bundle.manifest["schema_version"] == 1
    assert bundle.manifest["prompt"]["question"] == "What is it? é"
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "bundle"]


def test_the_output_is_absent_until_the_block_ends(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle", force=False) as writer:
        assert writer.folder.parent == tmp_path
        assert not (tmp_path / "bundle").exists()
        (writer.folder / "embedding.bin").write_bytes(bytes(48))
        writer.manifest = MANIFEST
    assert (tmp_path / "bundle").exists()


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    for error in (RuntimeError("x"), KeyboardInterrupt(), FileNotFoundError(errno.ENOENT, "no", "photo.jpg")):
        with pytest.raises(type(error)), BundleWriter(tmp_path / "bundle", force=False) as writer:
            writer.write_json("a.json", 1)
            raise error
        assert not list(tmp_path.iterdir())


def test_a_manifest_without_a_key_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no key 'family'"), BundleWriter(tmp_path / "bundle", force=False) as writer:
        writer.manifest = {}
    with pytest.raises(ValueError, match="was not set"), BundleWriter(tmp_path / "bundle", force=False):
        pass
    with pytest.raises(BundleError, match=r"embedding\.bin"), BundleWriter(tmp_path / "b", force=False) as writer:
        writer.manifest = MANIFEST
    assert not list(tmp_path.iterdir())


def test_a_name_that_leaves_the_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside it"), BundleWriter(tmp_path / "bundle", force=False) as writer:
        writer.path("../x")


def test_an_existing_bundle_is_replaced_only_with_force(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    with pytest.raises(OutputExistsError, match="--force"):
        BundleWriter(output, force=False)
    assert mark(output) == "old"
    (output / "engines" / "cuda").mkdir(parents=True)
    (output / "engines" / "cuda" / "a.engine").write_bytes(b"built here")
    assert mark(export(output, force=True)) == "new"
    assert not (output / "engines").exists()
    assert list(tmp_path.iterdir()) == [output]


def test_a_failed_replacement_keeps_the_old_bundle(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    with pytest.raises(RuntimeError), BundleWriter(output, force=True) as writer:
        writer.write_json("a.json", 1)
        raise RuntimeError
    assert mark(output) == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_the_old_bundle_comes_back_if_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = export(tmp_path / "bundle", mark="old")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.EIO, "broken disk")
        return rename(path, target)

    monkeypatch.setattr(bundle_writer, "exchange", lambda one, other: False)  # as on a system without renameat2
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError, match="broken disk"):
        export(output, force=True)
    assert mark(output) == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_force_never_replaces_what_is_no_bundle(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"file")
    fake = tmp_path / "web"
    fake.mkdir()
    (fake / "manifest.json").write_text('{"name": "a web app"}')
    before = snapshot(tmp_path)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"cat\.jpg.*no bundle"):
            BundleWriter(photos, force=force)
        with pytest.raises(OutputExistsError, match="is a file"):
            BundleWriter(tmp_path / "file", force=force)
        with pytest.raises(OutputExistsError, match="no bundle"):
            BundleWriter(fake, force=force)
        with pytest.raises(OutputExistsError):
            BundleWriter("/", force=force)
    assert snapshot(tmp_path) == before


def test_force_keeps_a_bundle_with_a_strangers_files_in_it(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle")
    (output / "photos").mkdir()
    (output / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(OutputExistsError, match=r"photos/cat\.jpg.*move them away"):
        BundleWriter(output, force=True)


def test_a_damaged_bundle_may_be_replaced(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    (output / "embedding.bin").unlink()
    assert mark(export(output, force=True)) == "new"


def test_an_empty_folder_is_replaced_with_force(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(OutputExistsError, match="exists already"):
        BundleWriter(tmp_path / "bundle", force=False)
    assert mark(export(tmp_path / "bundle", force=True)) == "new"


def test_an_output_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    real = export(tmp_path / "disk" / "bundle", mark="old")
    (tmp_path / "link").symlink_to(real)
    export(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert mark(real) == "new"


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with pytest.raises(OutputExistsError), BundleWriter(output, force=False) as writer:
        (writer.folder / "embedding.bin").write_bytes(bytes(48))
        writer.manifest = MANIFEST
        output.mkdir()
        (output / "cat.jpg").write_bytes(b"cat")
    assert snapshot(tmp_path) == {str(output / "cat.jpg"): b"cat"}


def test_a_killed_run_leaves_no_bundle_and_the_next_run_works(tmp_path: Path) -> None:
    process = run(
        """
        with BundleWriter(tmp / "bundle", force=False) as writer:
            weights = WeightFile(writer.folder / "w.data")
            while True:
                weights.append([np.ones(2**16, np.uint8)])
                print("wrote", flush=True)
                time.sleep(0.01)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "wrote\n"
    leftover = tmp_path / f".bundle.partial-{process.pid}"
    assert (leftover / "w.data").stat().st_size > 0
    export(tmp_path / "bundle")  # while the other is at work: it is left alone
    assert leftover.is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    assert leftover.is_dir()
    assert mark(export(tmp_path / "bundle", force=True)) == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]


def test_a_run_killed_between_the_two_renames_gets_its_old_bundle_back(tmp_path: Path) -> None:
    output = export(tmp_path / "bundle", mark="old")
    process = run(
        """
        rename = Path.rename
        def kill(path, target):
            if ".partial-" in path.name:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)
        Path.rename = kill
        bundle_writer.exchange = lambda one, other: False  # as on a system without renameat2
        with BundleWriter(tmp / "bundle", force=True) as writer:
            (writer.folder / "embedding.bin").write_bytes(bytes(48))
            writer.manifest = MANIFEST
        """,
        tmp_path,
    )
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    with pytest.raises(OutputExistsError):
        BundleWriter(output, force=False)
    assert mark(output) == "old"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_run_killed_around_the_swap_leaves_the_old_bundle_or_the_new(tmp_path: Path, step: str) -> None:
    output = export(tmp_path / "bundle", mark="old")
    process = run(
        f"""
        exchange = bundle_writer.exchange
        def kill(one, other):
            if "{step}" == "after" and not exchange(one, other):
                sys.exit(7)
            os.kill(os.getpid(), signal.SIGKILL)
        bundle_writer.exchange = kill
        with BundleWriter(tmp / "bundle", force=True) as writer:
            (writer.folder / "embedding.bin").write_bytes(bytes(48))
            writer.write_json("deep/er/mark.json", "new")
            writer.manifest = MANIFEST
        """,
        tmp_path,
    )
    process.communicate(timeout=20)
    if process.returncode == 7:
        pytest.skip("this file system cannot swap two folders")
    assert process.returncode == -signal.SIGKILL
    assert mark(output) == {"before": "old", "after": "new"}[step]
    with pytest.raises(OutputExistsError):
        BundleWriter(output, force=False)
    assert list(tmp_path.iterdir()) == [output]
    assert mark(output) == {"before": "old", "after": "new"}[step]


def test_a_file_system_that_cannot_swap_is_told_from_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        bundle_folders.exchange(tmp_path / "a", tmp_path / "b")


def test_leftovers_of_an_earlier_process_with_this_pid_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / f".bundle.partial-{os.getpid()}"
    leftover.mkdir()
    (leftover / "w.data").write_bytes(b"x")
    export(tmp_path / "bundle")
    assert not leftover.exists()


def test_leftovers_of_other_outputs_and_of_live_processes_stay(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".other.partial-999999999", ".bundle.partial-x", ".bundle.partial-1")]
    for folder in kept:
        folder.mkdir()
    export(tmp_path / "bundle")
    assert all(folder.is_dir() for folder in kept)


def test_a_file_size_limit_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    process = run(
        """
        try:
            with BundleWriter(tmp / "bundle", force=False) as writer:
                with WeightFile(writer.folder / "w.data") as weights:
                    for _ in range(64):
                        weights.append([np.ones(2**20, np.uint8)])
        except StorageError as error:
            assert isinstance(error, OSError)
            print(error)
            sys.exit(7)
        """,
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_500_000, 3_500_000)),
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 7, output
    assert "File too large after 3.5 MB" in output
    assert "MB free" in output
    assert str(tmp_path / "bundle") in output
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        output = export(disk / "bundle", mark="old")
        with pytest.raises(StorageError, match=r"No space left.*MB free") as caught:  # noqa: SIM117
            with BundleWriter(output, force=True) as writer:
                WeightFile(writer.folder / "w.data").append(np.ones((64, 2**20), np.uint8))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert os.statvfs(disk).f_bavail * 4096 > 1_900_000  # the file is closed: its space is free
        with pytest.raises(StorageError, match="No space left"), BundleWriter(output, force=True) as writer:
            (writer.folder / "w.data").write_bytes(bytes(3 * 2**20))
        assert mark(output) == "old"
        assert list(disk.iterdir()) == [output]
        assert mark(export(output, force=True)) == "new"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_while_the_manifest_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_writer, "sync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        export(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"), BundleWriter(tmp_path / "file" / "bundle", force=False):
        pass


def test_two_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = """
        with BundleWriter(tmp / "bundle", force=True) as writer:
            (writer.folder / "embedding.bin").write_bytes(bytes(48))
            writer.write_json("deep/er/mark.json", "new")
            writer.manifest = MANIFEST
            time.sleep(0.3)
    """
    started = time.perf_counter()
    processes = [run(code, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=20)[0] for process in processes]
    assert time.perf_counter() - started < 20
    assert 0 in [process.returncode for process in processes], outputs
    assert mark(tmp_path / "bundle") == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]
