"""Writes the files of a report into one folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fgr_edge.errors import StorageError

log = logging.getLogger(__name__)


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write texts by file name into `folder`, which is made where it is not there; older files are replaced.

    Raises:
        StorageError: writing failed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder}: the report cannot be written ({error}); expected a folder with room") from error
    log.info("report in %s", folder)
    return [folder / name for name in files]
