"""A data set as a folder per class: `root/Royal Gala/photo.jpg`.

In: the root folder. Out: paths and class names, in an order that does not depend on the file system. It opens no
photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fgr_edge.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class FolderDataset:
    """Class names, and each photograph with the number of its class."""

    names: tuple[str, ...]
    photographs: tuple[tuple[Path, int], ...]


def read_folders(root: Path, *, per_class: int | None = None) -> FolderDataset:
    """Read a folder per class; a class is named as its folder, with spaces for `_`. Hidden entries are left out.

    Args:
        root: folder of folders.
        per_class: at most so many photographs of each class, the first by name.

    Raises:
        DataError: there is no such folder, it holds no class folder, or a class has no photograph.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one folder per class in it")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"{root} holds no folder: expected one folder per class with its photographs")
    rows: list[tuple[Path, int]] = []
    for number, folder in enumerate(folders):
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            raise DataError(f"{folder} holds no photograph ({', '.join(SUFFIXES)})")
        rows += [(path, number) for path in found[:per_class]]
    return FolderDataset(tuple(f.name.replace("_", " ") for f in folders), tuple(rows))
