"""Adds files to a bundle that is there, so that the old bundle or the new one is there at any moment, never half.

In: a bundle, and files written by the caller. Out: the bundle with them, under a new manifest. Files that stay are hard
links in a folder beside it (copies, where the file system has no links), so nothing large is written or hashed. Files
that no manifest lists, such as engines built on this device, stay too.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fgr_edge.errors import StorageError
from fgr_edge.runtime.bundle_writer import BundleWriter, file_entry
from fgr_edge.runtime.manifest import MANIFEST, FileEntry, Manifest, read_manifest


class BundleAmendment(BundleWriter):
    """A bundle being amended; use it in a `with` statement, as `BundleWriter`.

        with BundleAmendment(folder) as amendment:
            amendment.write_json("confidence.json", document)

    Readers that have the bundle open keep the old files. Leaving the block by an exception changes nothing.

    Args:
        bundle: its folder.

    Raises:
        BundleError: the folder is no bundle.
        StorageError: the disk is full or not writable, or another process changed the bundle meanwhile.
    """

    def __init__(self, bundle: str | Path) -> None:
        self._old: Manifest | None = None
        self._changed: dict[str, bool] = {}  # name: whether it is there afterwards
        super().__init__(bundle, force=True)

    def __enter__(self) -> BundleAmendment:
        super().__enter__()
        try:
            old = self._old = read_manifest(self.output)
            self.manifest = {key: old[key] for key in old if key not in ("files", "manifest_sha256")}  # type: ignore[literal-required]
            shutil.copytree(
                self.output,
                self.folder,
                symlinks=True,
                ignore=self._without_manifest,
                copy_function=_link_or_copy,
                dirs_exist_ok=True,
            )
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def path(self, name: str) -> Path:
        """Where to write the file that the manifest will list as `name`; an old one of that name is left behind."""
        path = super().path(name)
        path.unlink(missing_ok=True)  # writing through a link would change the old bundle
        self._changed[name] = True
        return path

    def remove(self, name: str) -> None:
        """Leave a listed file out of the new bundle; nothing where there is none."""
        if self._old is not None and name in self._old["files"]:
            self.path(name)
            self._changed[name] = False

    def _check_output(self) -> None:
        now = read_manifest(self.output)
        if self._old is not None and now["manifest_sha256"] != self._old["manifest_sha256"]:
            raise StorageError(
                f"another process changed the bundle {self.output} meanwhile; its changes are kept, these are not: "
                "repeat the command"
            )

    def _entries(self) -> dict[str, FileEntry]:
        assert self._old is not None
        kept = {name: entry for name, entry in self._old["files"].items() if name not in self._changed}
        new = {name: file_entry(self.folder / name) for name, there in self._changed.items() if there}
        return dict(sorted({**kept, **new}.items()))

    def _without_manifest(self, folder: str, names: list[str]) -> set[str]:
        return {MANIFEST} if Path(folder) == self.output else set()


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
