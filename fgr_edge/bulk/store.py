"""A photograph store: the photographs of a folder or of a list, each once, with their sizes.

In: a folder, searched to its bottom; a text file with one path a line; or a labelled list as `data.labelled` reads it.
Out: names relative to one root, in the source's order. It opens no photograph. A photograph that a text list names and
that is not there stays in the store: whoever labels it says so in its record.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fgr_edge.data.labelled import read_labelled
from fgr_edge.errors import DataError
from fgr_edge.runtime.sources import pictures

log = logging.getLogger(__name__)

EXPECTED = (
    "a folder of photographs, a text file with one path a line, or a list that `fgr-edge eval` reads (.csv, .tsv, "
    ".jsonl, Grocery split)"
)


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph's path from the store's root (absolute where it lies elsewhere), and its size; None if absent."""

    name: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Store:
    """What is to be labelled.

    Attributes:
        root: folder from which names start, absolute.
        photographs: in the source's order, each name once.
    """

    root: Path
    photographs: tuple[Photograph, ...]

    @property
    def size_bytes(self) -> int:
        """Of all photographs that are there."""
        return sum(photograph.size_bytes or 0 for photograph in self.photographs)

    @property
    def sha256(self) -> str:
        """Digest of names, sizes and order in hex; the photographs' contents are digested as they are labelled."""
        digest = hashlib.sha256()
        for photograph in self.photographs:
            digest.update(os.fsencode(photograph.name) + f"\0{photograph.size_bytes}\n".encode())
        return digest.hexdigest()


def read_store(source: Path, *, images: Path | None = None) -> Store:
    """List the photographs of a source.

    Args:
        images: folder from which the paths of a list start; None is the folder of the list.

    Raises:
        DataError: there is no such source, it cannot be read, or none of its photographs is there.
        ImageError: a folder holds no picture.
    """
    if source.is_dir():
        if images is not None:
            raise DataError(f"{source} is a folder, its photographs lie in it: {images} has no use; leave it out")
        root = source.resolve()
        paths: Iterator[Path] = (Path(name) for name, _ in pictures([str(root)]))
    elif source.is_file():
        root = (source.parent if images is None else images).resolve()
        paths = _listed(source, root)
    else:
        raise DataError(f"{source} does not exist; expected {EXPECTED}")
    found = _each_once(source, root, paths)
    if all(photograph.size_bytes is None for photograph in found):
        raise DataError(
            f"{source}: none of its {len(found)} photographs is there, such as {found[0].name!r}; expected paths that "
            f"start from {root}"
            if found
            else f"{source} lists no photograph; expected one path a line"
        )
    return Store(root, found)


def _listed(source: Path, root: Path) -> Iterator[Path]:
    if source.suffix.lower() != ".txt" or (source.parent / "classes.csv").is_file():
        yield from (picture.path for picture in read_labelled(source, root=root))
        return
    try:
        lines = source.read_bytes().decode("utf-8-sig").split("\n")  # not splitlines: it also splits at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read as UTF-8 text ({error}); expected one path a line") from error
    yield from (root / line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _each_once(source: Path, root: Path, paths: Iterator[Path]) -> tuple[Photograph, ...]:
    found: dict[str, Photograph] = {}
    repeated = 0
    for path in paths:
        whole = os.path.normpath(root / path)
        inside = whole.startswith(f"{root}{os.sep}")
        name = Path(whole).relative_to(root).as_posix() if inside else whole
        repeated += name in found
        found.setdefault(name, Photograph(name, _size(Path(whole))))
    if repeated:
        log.warning("%s names %d photographs again: each is labelled once", source, repeated)
    return tuple(found.values())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
