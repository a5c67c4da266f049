"""Writes a bundle so that it is whole or absent.

In: files, written by the caller into `BundleWriter.folder`, and the manifest without its checksums. Out: the
bundle's folder, renamed into place once everything in it is on the disk. Does not know what the files are.

Names beside the output NAME, on the same file system:
    .NAME.partial-<pid>     being written by process <pid>
    .NAME.replaced-<pid>    the bundle that --force replaces, for the moment between two renames
What a killed process left under them is found at the next start: the first is removed, the second is put back
if the output is absent. A process holds a lock (flock) on its folders, which the kernel drops when it dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fgr_edge.errors import FgrEdgeError, OutputExistsError, StorageError
from fgr_edge.export.weight_file import WeightFile
from fgr_edge.runtime.bundle import sha256_of
from fgr_edge.runtime.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    FileEntry,
    check_manifest,
    is_safe_name,
    sealed,
)

__all__ = ["BundleWriter", "WeightFile", "check_output"]

log = logging.getLogger(__name__)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_BUILT_HERE = "engines"  # made from the bundle by `fgr-edge build`, so listed in no manifest


class BundleWriter:
    """A bundle being written; use it in a `with` statement.

        with BundleWriter(output, force=force) as writer:
            ...                                    # write files below writer.folder
            writer.manifest = {...}                # all keys but schema_version, files and the digest

    Leaving the block checks the manifest, hashes the files, writes manifest.json and renames the folder.
    Leaving it by an exception removes everything that was written.

    Args:
        output: the bundle's folder; its parents are created.
        force: whether a bundle that is there already may be replaced.

    Attributes:
        output: the bundle's folder, resolved.
        folder: where to write; exists inside the block only.
        manifest: to be set before the block ends.

    Raises:
        OutputExistsError: from the constructor, before any work: the output exists and `force` is not set, or
            it is something else than a bundle, whatever `force` says.
        StorageError: the disk is full or not writable. Nothing half-written is left.
        BundleError: from leaving the block: the manifest lacks a key.
    """

    def __init__(self, output: str | Path, *, force: bool) -> None:
        self.output = Path(os.path.realpath(output))
        self.manifest: Mapping[str, Any] | None = None
        self._force = force
        self._lock: int | None = None
        self._started = 0.0
        try:
            _clear_leftovers(self.output)
            check_output(self.output, force=force)
        except OSError as error:
            if isinstance(error, FgrEdgeError):
                raise
            raise self._storage_error(error, 0) from error
        self.folder = _sibling(self.output, "partial")

    def __enter__(self) -> BundleWriter:
        self._started = time.perf_counter()
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
            self._lock = _locked(self.folder)
        except OSError as error:
            raise self._storage_error(error, 0) from error
        return self

    def path(self, name: str) -> Path:
        """Where to write the file that the manifest will list as `name`; its folder is created.

        Raises:
            ValueError: `name` leaves the bundle, or is the manifest's.
        """
        if not is_safe_name(name):
            raise ValueError(f"{name!r} cannot be a file of a bundle; expected a relative path inside it")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: object) -> Path:
        """Write `value` as the JSON file `name`, in UTF-8, readable."""
        path = self.path(name)
        path.write_text(_readable_json(value), encoding="utf-8")
        return path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._abandon(failure, writing=True)
            raise
        else:
            if error is not None:
                self._abandon(error, writing=False)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _finish(self) -> None:
        if self.manifest is None:
            raise ValueError("BundleWriter.manifest was not set; a bundle has one")
        files: dict[str, FileEntry] = {
            path.relative_to(self.folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(_files_below(self.folder))
        }
        manifest = {"schema_version": SCHEMA_VERSION, **self.manifest, "files": files}
        check_manifest(manifest, f"the manifest of {self.output}")
        (self.folder / MANIFEST).write_text(_readable_json(sealed(manifest)), encoding="utf-8")
        for path in (*_files_below(self.folder), *_folders_below(self.folder), self.folder):
            _sync(path)
        self._move_into_place()
        log.info(
            "bundle %s: %d files, %.1f MB, %.1f s",
            self.output,
            len(files),
            sum(entry["size"] for entry in files.values()) / 1e6,
            time.perf_counter() - self._started,
        )

    def _move_into_place(self) -> None:
        check_output(self.output, force=self._force)  # another process may have been faster
        if not self.output.exists():
            self.folder.rename(self.output)
            _sync(self.output.parent)
            return
        aside = _sibling(self.output, "replaced")
        lock = _locked(self.output)
        try:
            self.output.rename(aside)
            try:
                self.folder.rename(self.output)
            except BaseException:
                aside.rename(self.output)
                raise
            _sync(self.output.parent)
            _remove(aside)
        finally:
            if lock is not None:
                os.close(lock)

    def _abandon(self, error: BaseException, *, writing: bool) -> None:
        """Remove what was written; raise a `StorageError` where `error` is a failure to write."""
        written = sum(path.stat().st_size for path in _files_below(self.folder))
        _remove(self.folder)
        if not isinstance(error, OSError) or isinstance(error, FgrEdgeError):
            return
        if writing or self._is_ours(error):
            raise self._storage_error(error, written) from error

    def _is_ours(self, error: OSError) -> bool:
        """Whether writing the bundle failed, and not, say, reading a photograph."""
        return error.errno in _DISK_ERRORS or any(
            isinstance(name, str) and Path(name).is_relative_to(self.folder)
            for name in (error.filename, error.filename2)
        )

    def _storage_error(self, error: OSError, written: int) -> StorageError:
        place = next(folder for folder in self.output.parents if folder.exists())
        free = shutil.disk_usage(place).free
        return StorageError(
            f"cannot write the bundle {self.output}: {error.strerror or error} after {written / 1e6:.1f} MB; {place} "
            f"has {free / 1e6:.1f} MB free now that the partial bundle is removed. Free some space, or write to "
            "another disk"
        )


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that is there already, unless it is a bundle (or an empty folder) and `force` is set.

    Raises:
        OutputExistsError: says what is there.
    """
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise OutputExistsError(f"{output} is a file; expected the name of a new folder for the bundle")
    names = {entry.name for entry in output.iterdir()}
    if names and not _is_bundle(output):
        raise OutputExistsError(
            f"{output} is a folder with {len(names)} entries ({', '.join(sorted(names)[:3])}) and no bundle; it is not "
            "replaced, with or without --force: name a new folder"
        )
    if not force:
        raise OutputExistsError(f"{output} exists already; give --force to replace it, or name another folder")
    strangers = sorted(_unlisted(output)) if names else []
    if strangers:
        raise OutputExistsError(
            f"the bundle {output} also holds files that no export put there ({', '.join(strangers[:3])}); they would "
            "be lost with it: move them away, then repeat with --force"
        )


def _manifest_files(folder: Path) -> dict[str, Any] | None:
    """The file table of a bundle of any version, even a damaged one; None if `folder` is no bundle."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema_version"), int):
        return None
    files = manifest.get("files")
    return files if isinstance(files, dict) else None


def _is_bundle(folder: Path) -> bool:
    return _manifest_files(folder) is not None


def _unlisted(folder: Path) -> Iterator[str]:
    listed = {MANIFEST, *(_manifest_files(folder) or {})}
    for path in _files_below(folder):
        name = path.relative_to(folder)
        if name.as_posix() not in listed and name.parts[0] != _BUILT_HERE and not name.name.startswith("."):
            yield name.as_posix()


def _sibling(output: Path, role: str, pid: int | None = None) -> Path:
    return output.with_name(f".{output.name}.{role}-{os.getpid() if pid is None else pid}")


def _clear_leftovers(output: Path) -> None:
    """Put right what a killed process left beside `output`."""
    if not output.name or not output.parent.is_dir():
        return
    for role in ("replaced", "partial"):
        prefix = _sibling(output, role).name.rpartition("-")[0] + "-"
        for path in output.parent.iterdir():
            pid = path.name[len(prefix) :]
            if not path.name.startswith(prefix) or not pid.isdecimal() or not path.is_dir():
                continue
            if not _is_abandoned(path, int(pid)):
                log.warning("leaving %s alone: process %s may still be writing it", path, pid)
            elif role == "replaced" and not os.path.lexists(output):
                log.warning("an earlier run was killed while it replaced %s: the old bundle is put back", output)
                path.rename(output)
            else:
                log.warning("removing %s, left by a run that was killed", path)
                _remove(path)


def _is_abandoned(folder: Path, pid: int) -> bool:
    """Whether the process that made `folder` is gone.

    The lock alone would do, but for the moment between mkdir and flock; the pid alone would do, but in
    containers every run may have the same one.
    """
    try:
        descriptor = _locked(folder)
    except BlockingIOError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock on `folder`; None where the file system has no locks.

    Raises:
        BlockingIOError: another process (or writer) holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path) -> None:
    """Remove `folder`; failing is only logged: the bundle is in place, or another error is under way."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot remove %s (%s): remove it by hand", folder, error)


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def _folders_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_dir())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _readable_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
