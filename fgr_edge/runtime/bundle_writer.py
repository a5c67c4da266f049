"""Writes a bundle so that it is whole or absent.

In: files, written by the caller into `BundleWriter.folder`, and the manifest without its checksums. Out: the
bundle's folder, renamed into place once everything in it is on the disk. Does not know what the files are.

What a killed process left beside the output is put right at the next start (`bundle_folders`).
"""

from __future__ import annotations

import errno
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
from fgr_edge.runtime.bundle import sha256_of
from fgr_edge.runtime.bundle_folders import (
    clear_leftovers,
    exchange,
    files_below,
    folders_below,
    locked,
    remove,
    sibling,
    sync,
)
from fgr_edge.runtime.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    FileEntry,
    check_manifest,
    is_safe_name,
    sealed,
)

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
            clear_leftovers(self.output)
            self._check_output()
        except OSError as error:
            if isinstance(error, FgrEdgeError):
                raise
            raise self._storage_error(error, 0) from error
        self.folder = sibling(self.output, "partial")

    def __enter__(self) -> BundleWriter:
        self._started = time.perf_counter()
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
            self._lock = locked(self.folder)
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
        files = self._entries()
        manifest = {"schema_version": SCHEMA_VERSION, **self.manifest, "files": files}
        check_manifest(manifest, f"the manifest of {self.output}")
        (self.folder / MANIFEST).write_text(_readable_json(sealed(manifest)), encoding="utf-8")
        for path in (*files_below(self.folder), *folders_below(self.folder), self.folder):
            sync(path)
        self._move_into_place()
        log.info(
            "bundle %s: %d files, %.1f MB, %.1f s",
            self.output,
            len(files),
            sum(entry["size"] for entry in files.values()) / 1e6,
            time.perf_counter() - self._started,
        )

    def _check_output(self) -> None:
        """Refuse an output that must not be written; asked at the beginning, and before the swap."""
        check_output(self.output, force=self._force)

    def _entries(self) -> dict[str, FileEntry]:
        """What the manifest lists."""
        return {path.relative_to(self.folder).as_posix(): file_entry(path) for path in sorted(files_below(self.folder))}

    def _move_into_place(self) -> None:
        self._check_output()  # another process may have been faster
        if not self.output.exists():
            self.folder.rename(self.output)
            sync(self.output.parent)
            return
        try:
            lock = locked(self.output)
        except BlockingIOError as error:
            raise StorageError(
                f"another process is writing {self.output}; expected to be the only one: wait for it, then repeat"
            ) from error
        try:
            self._check_output()  # nobody can be faster from here on
            self._swap()
        finally:
            if lock is not None:
                os.close(lock)

    def _swap(self) -> None:
        if exchange(self.folder, self.output):
            old = self.folder
        else:
            old = sibling(self.output, "replaced")
            self.output.rename(old)
            try:
                self.folder.rename(self.output)
            except BaseException:
                old.rename(self.output)
                raise
        sync(self.output.parent)
        remove(old)

    def _abandon(self, error: BaseException, *, writing: bool) -> None:
        """Remove what was written; raise a `StorageError` where `error` is a failure to write."""
        stats = [path.lstat() for path in files_below(self.folder)]
        written = sum(stat.st_size for stat in stats if stat.st_nlink == 1)  # what is linked lies in the old bundle
        remove(self.folder)
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


def file_entry(path: Path) -> FileEntry:
    """Size and checksum, as the manifest lists them."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


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
    for path in files_below(folder):
        name = path.relative_to(folder)
        if name.as_posix() not in listed and name.parts[0] != _BUILT_HERE and not name.name.startswith("."):
            yield name.as_posix()


def _readable_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
