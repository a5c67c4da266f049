"""What a user named on the command line, as pictures: files, folders of files, or one picture on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from fgr_edge.errors import ImageError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))


def pictures(arguments: Iterable[str]) -> Iterator[tuple[str, Path | bytes]]:
    """Yield (name, picture) for every argument, in order; the files of a folder in order of their paths.

    Raises:
        ImageError: a folder holds no picture.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield "stdin", sys.stdin.buffer.read()
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise ImageError(
                    f"folder {path} holds no picture; expected files ending in {', '.join(sorted(SUFFIXES))}"
                )
            for file in found:
                yield str(file), file
        else:
            yield argument, path
