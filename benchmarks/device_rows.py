"""The documents of `preprocessing.py` and `decode_3b.py` as rows of text, for README files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import cell

Rows = list[list[str]]
Object = Mapping[str, Any]

PICTURE_HEAD = ("picture, size used", "transformers, ms", "decode or conversion, ms", "exact, ms", "fast, ms")
DECODE_3B_HEAD = ("3B shape, int4", "")


def picture_rows(document: Object | None) -> Rows:
    """One row a picture and a size: milliseconds, and in brackets of transformers'."""
    rows = []
    for source, sizes in (document or {"sources": {}})["sources"].items():
        for name, row in sizes.items():
            ms, of = row["ms"], row["of_transformers"]
            size = row["size_px"]
            first = next(way for way in ms if way in ("decode", "conversion"))
            rows.append(
                [
                    f"{source}, {size['width']} x {size['height']} ({name})",
                    cell(ms["transformers"]["p50"]),
                    cell(ms[first]["p50"]),
                    *(f"{cell(ms[way]['p50'])} ({cell(of[way], 2)}x)" for way in ("fgr-edge", "fast")),
                ]
            )
    return rows


def decode_3b_rows(document: Object | None) -> Rows:
    """One row a figure."""
    if document is None:
        return []
    decode, start = document["decode"], document["starts"]["cold"][0]
    share, best = 100 * decode["roofline_share"]["p50"], 100 * decode["roofline_share_best"]
    opened = (cell(document["starts"][kind][0]["steps"]["opened"]["ms"] / 1e3) for kind in ("cold", "warm"))
    return [
        ["decode, tokens/s", cell(decode["tokens_per_s"])],
        ["of the read bandwidth, median (best round)", f"{share:.0f} % ({best:.0f} %)"],
        ["first token, s", cell(decode["ttft_ms"] / 1e3)],
        ["peak resident memory, GB", cell(start["peak_bytes"] / 1e9, 2)],
        ["open, files not in memory / in memory, s", " / ".join(opened)],
        ["read from disk up to the first token, GB", cell(start["steps"]["first token"]["disk_bytes"] / 1e9, 2)],
    ]
