"""The document of `footprint.py` as rows of text, for README files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.footprint import RESOLVED
from benchmarks.report import cell, megabytes

Rows = list[list[str]]
Object = Mapping[str, Any]

FOOTPRINT_HEAD = ("environment", "MB", "without bytecode", "of ours", "the largest in it, MB")


def footprint_rows(document: Object | None) -> Rows:
    """What installations take on the disk, and what is largest in them."""
    if document is None:
        return []
    rows = [
        [
            name,
            megabytes(entry["bytes"]),
            megabytes(_without_bytecode(entry)),
            cell(entry["ratio"], 2, "x"),
            entry["note"] or _largest(entry["packages"]),
        ]
        for name, entry in document["environments"].items()
    ]
    rows.append(["fgr-edge's wheel", cell(document["wheel"]["bytes"] / 1e6, 2), "-", "-", "no models"])
    return rows


def goes_with_rows(document: Object | None) -> tuple[list[str], Rows]:
    """Head and rows: what would leave with each dependency of ours, where pip resolves them."""
    found = (document or {"environments": {}})["environments"].get(RESOLVED)
    if found is None:
        return [], []
    head = [f"with this dependency of {RESOLVED}", "would go, MB"]
    return head, [[dependency, megabytes(size)] for dependency, size in found["goes_with"].items()]


def _without_bytecode(entry: Object) -> int | None:
    return None if entry["bytes"] is None else entry["bytes"] - entry["bytecode_bytes"]


def _largest(packages: Mapping[str, Object]) -> str:
    return ", ".join(f"{name} {megabytes(entry['bytes'])}" for name, entry in list(packages.items())[:5])
