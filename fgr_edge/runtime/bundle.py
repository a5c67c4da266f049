"""The contract between export and everything else: a folder, its manifest, checksums, embedding table.

In: the path of a bundle. Out: a checked manifest, paths of the files it lists, the token embeddings, mapped.
Nothing of a bundle is run or unpickled, and no path of it leaves its folder. Does not know engines or models.

A key that this version does not know is allowed and ignored; a newer `schema_version` is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError, LabelError
from fgr_edge.runtime.manifest import (
    EMBEDDING,
    MANIFEST,
    EmbeddingSpec,
    Manifest,
    check_manifest,
    is_safe_name,
    read_manifest,
    sealed,
)
from fgr_edge.runtime.stored_labels import StoredLabels

__all__ = [
    "EMBEDDING",
    "LABELS",
    "MANIFEST",
    "TOKENIZER",
    "Bundle",
    "EmbeddingTable",
    "Manifest",
    "check_manifest",
    "is_safe_name",
    "sealed",
    "sha256_of",
]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

LABELS = "labels.json"
TOKENIZER = "tokenizer.json"
PARITY = "parity.json"
ALWAYS_HASHED_BYTES = 64 * 1024 * 1024
"""Files are hashed at every open, smallest first, while they stay within this total: some 50 ms at most."""

FORGET_ROWS = 64
"""Of embeddings, after which those read so far leave the process's memory: each brings 64 KiB around it."""

_BLOCK_BYTES = 4 * 1024 * 1024
_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; make one with `Bundle.open`.

    Attributes:
        path: the folder.
        manifest: the parsed manifest.json, its required keys checked.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: Literal["sizes", "full"] = "sizes") -> Bundle:
        """Open the bundle in folder `path`.

        "sizes" checks the manifest (it carries its own digest), that every listed file is there, inside the
        folder and of its size, and the checksums of the smallest files up to 64 MiB in total: all of a small
        bundle. "full" checks every checksum, at the speed of the disk.

        Raises:
            BundleError: the folder is no bundle, its schema is newer, or it is not what its manifest says.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder))
        bundle._check_files()
        bundle._check_digests(bundle._listed() if verify == "full" else bundle._always_hashed(), None)
        return bundle

    def __contains__(self, name: object) -> bool:
        """Whether the manifest lists a file of that name."""
        return name in self.manifest["files"]

    def file(self, name: str) -> Path:
        """Path of a listed file; `name in bundle` asks first.

        Raises:
            BundleError: the manifest does not list it.
        """
        if name not in self.manifest["files"]:
            raise BundleError(
                f"bundle {self.path} has no file {name!r}; it lists {', '.join(sorted(self.manifest['files']))}"
            )
        return self.path / name

    def json(self, name: str) -> Any:
        """The value in a listed JSON file.

        Raises:
            BundleError: it is not listed, or not JSON.
        """
        path = self.file(name)
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path} is not JSON ({error}); export the bundle again") from error

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays in a listed .npz file, read without pickle.

        Raises:
            BundleError: it is not listed, or no .npz file of plain arrays.
        """
        path = self.file(name)
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path} is no .npz file of plain arrays ({error}); export again") from error

    def labels(self) -> StoredLabels | None:
        """The classes in labels.json with their token ids; None where the bundle has none.

        Raises:
            BundleError: labels.json is not JSON.
            LabelError: it is not as `StoredLabels.to_json` writes it, or holds the labels of another bundle.
        """
        if LABELS not in self:
            return None
        tokenizer = self.manifest["files"].get(TOKENIZER)
        digest = None if tokenizer is None else tokenizer["sha256"]
        value = self.json(LABELS)
        try:
            return StoredLabels.from_json(value, digest, self.manifest["decoder"]["vocab"])
        except LabelError as error:
            raise LabelError(f"{self.file(LABELS)}: {error}") from error

    def embedding(self) -> EmbeddingTable:
        """The token embeddings, mapped: only the rows that are gathered are read from the disk."""
        spec = self.manifest["embedding"]
        shape = (spec["rows"], spec["columns"])
        return EmbeddingTable(
            np.memmap(self.file(EMBEDDING), dtype=_STORED[spec["dtype"]], mode="r", shape=shape), spec
        )

    def verify_checksums(self, progress: Progress | None = None) -> None:
        """Hash every file and compare.

        Args:
            progress: called with (bytes done, bytes in all) every few megabytes.

        Raises:
            BundleError: naming every file that changed.
        """
        self._check_files()
        self._check_digests(self._listed(), progress)

    def _listed(self) -> list[str]:
        return list(self.manifest["files"])

    def _always_hashed(self) -> list[str]:
        files = self.manifest["files"]
        names, total = [], 0
        for name in sorted(files, key=lambda name: files[name]["size"]):
            total += files[name]["size"]
            if total > ALWAYS_HASHED_BYTES:
                break
            names.append(name)
        return names

    def _check_files(self) -> None:
        """Presence, size and place of every listed file."""
        root = os.path.realpath(self.path)  # unlike Path.resolve, says nothing of links that go round
        wrong = []
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(root):
                raise BundleError(
                    f"{name!r} in bundle {self.path} is a link to {real}, outside the bundle; expected every file "
                    "inside it: copy the bundle again, or export it again"
                )
            try:
                status = path.stat()
            except OSError:
                wrong.append(f"{name} is missing")
                continue
            if not stat.S_ISREG(status.st_mode):
                wrong.append(f"{name} is no regular file")
            elif status.st_size != entry["size"]:
                wrong.append(f"{name} has {status.st_size} bytes, expected {entry['size']}")
        self._refuse(wrong)

    def _check_digests(self, names: Iterable[str], progress: Progress | None) -> None:
        names = list(names)
        files = self.manifest["files"]
        total = sum(files[name]["size"] for name in names)
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        self._refuse(
            [
                f"{name} has changed (its SHA-256 is not the manifest's)"
                for name in names
                if sha256_of(self.path / name, step) != files[name]["sha256"]
            ]
        )

    def _refuse(self, wrong: list[str]) -> None:
        if wrong:
            raise BundleError(
                f"bundle {self.path} is not what its manifest says: {'; '.join(wrong)}. Copy it again from where it "
                "came from, or export it again"
            )


class EmbeddingTable:
    """Rows of the token embedding by token id, converted to float32 as they are gathered.

    Args:
        table: [rows, columns] as stored; bfloat16 as its bits in uint16.
        spec: the manifest's `embedding`.
    """

    def __init__(self, table: npt.NDArray[Any], spec: EmbeddingSpec) -> None:
        self._table = np.asarray(table)  # a plain view: the mapped subclass costs 0.1 ms a look-up
        self._mapping: mmap.mmap | None = getattr(table, "_mmap", None) if hasattr(mmap, "MADV_DONTNEED") else None
        self._since_forgotten = 0
        self._dtype = spec["dtype"]
        self.rows = spec["rows"]
        self.columns = spec["columns"]

    def gather(self, ids: npt.NDArray[np.int64], out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Embeddings of `ids`.

        Args:
            ids: [S] int64, each from 0 to rows - 1.
            out: [S, H] float32 to write into; allocated if None.

        Returns:
            [S, H] float32: `out`, where it was given.

        Raises:
            BundleError: an id is outside the table: the tokens are of another model.
            ValueError: `ids` or `out` has the wrong shape or dtype.
        """
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"ids are {ids.dtype} {list(ids.shape)}, expected int64 [S]")
        shape = (ids.shape[0], self.columns)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        if out.shape != shape or out.dtype != np.float32:
            raise ValueError(f"out is {out.dtype} {list(out.shape)}, expected float32 {list(shape)}")
        if len(ids) == 1:  # between two steps of a decoder no cache is warm: few operations count
            lowest = highest = int(ids[0])
        else:
            lowest, highest = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
        if lowest < 0 or highest >= self.rows:
            raise BundleError(
                f"token id {lowest if lowest < 0 else highest} is outside the embedding table of {self.rows} rows; "
                "expected ids of this bundle's own tokenizer.json"
            )
        if len(ids) > 1:
            self._fetch(ids)
        for start in range(0, len(ids), FORGET_ROWS):
            self._read(ids[start : start + FORGET_ROWS], out[start : start + FORGET_ROWS])
        return out

    def _fetch(self, ids: npt.NDArray[np.int64]) -> None:
        """Ask for all rows at once: what the system took out of memory meanwhile is read from disk side by side, 300
        rows in 2 ms instead of 40 to 150 one after another."""
        if self._mapping is None:
            return
        row_bytes = self._table.strides[0]  # the mapping begins where the table does
        for row in ids.tolist():
            start = row * row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_WILLNEED, start, (row + 1) * row_bytes - start)

    def _read(self, ids: npt.NDArray[np.int64], out: npt.NDArray[np.float32]) -> None:
        rows = self._table[ids] if len(ids) > 1 else self._table[int(ids[0])][None]
        if self._dtype == "bfloat16":
            np.left_shift(rows, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            out[...] = rows
        self._since_forgotten += len(ids)
        if self._since_forgotten >= FORGET_ROWS and self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._since_forgotten = 0


def sha256_of(path: Path, step: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hex; `step` is called with the number of bytes of each block read."""
    digest = hashlib.sha256()
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(view[:count])
            if step is not None:
                step(count)
    return digest.hexdigest()
