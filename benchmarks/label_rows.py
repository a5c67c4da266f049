"""The documents of `label_scores.py` as rows of text, for README files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.report import cell

Object = Mapping[str, Any]

HEAD = (
    *("labels", "sure", "visited", "read, ms", "best-first, ms", "all, ms", "all / prefill"),
    *("passes / best-first", "passes / all"),
)

PREFILLED = ("last_row", "all_rows", "after_prompt")


def label_rows(documents: Iterable[Object], wanted: Callable[[Object], bool]) -> list[list[str]]:
    """One row a bundle and list of labels, of those that are wanted."""
    rows = []
    for document in documents:
        on = f", on {document['pictures']}" if document.get("pictures") else ""
        for row in filter(wanted, document["rows"]):
            ms, ratios = row["ways_ms"], row["ratios"]
            rows.append(
                [
                    f"{row['bundle']}: {row['labels']:,}"
                    + ("" if row["title"].isdecimal() else f" ({row['title']})")
                    + on,
                    cell(row.get("best_share", {}).get("p50"), 2),
                    f"{cell(row['best_nodes']['p50'], 0)} of {row['inner_nodes']:,}",
                    cell(row["read_ms"]["p50"]),
                    f"{cell(ms['best']['p50'])} ({cell(ratios['best_of_read'], 2)}x)",
                    cell(ms["full"]["p50"]) if "full" in ms else "-",
                    " / ".join(cell(ratios.get(f"full_of_prefill_{rows}"), 2) for rows in PREFILLED),
                    " / ".join(cell(ratios[f"{way}_of_best"], 0, "x") for way in ("cached", "whole")),
                    " / ".join(cell(ratios[f"{way}_of_full"], 0, "x") for way in ("cached", "whole")),
                ]
            )
    return rows


def in_short(row: Object) -> bool:
    """Whether a row is of those that the README shows."""
    return row["bundle"] == "nano-fp32" and row["labels"] in (81, 1000, 10_000)
