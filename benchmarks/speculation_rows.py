"""The documents of `speculation.py` and `prefill_chunks.py` as rows of text, for the terminal and for README files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import cell
from fgr_edge.runtime.guessing.pace import ROWS

Rows = list[list[str]]
Object = Mapping[str, Any]

TEXT_HEAD = (
    "rows of a call, branches",
    "earlier texts known: tokens a step",
    "drafted rows a step",
    "held, %",
    "from nothing: tokens a step",
    "drafted rows a step",
    "held, %",
    "guessing, ms a step",
)
BUNDLE_HEAD = ("bundle, pictures: variant", "tokens/s", "tokens a call", "texts that differ", "near ties", "load")
ROWS_HEAD = ("bundle", "one token, ms", *(f"{rows} tokens" for rows in ROWS))
CHUNK_HEAD = (
    "bundle: prompt",
    "chunk, tokens",
    "prefill, ms",
    "peak beyond weights and cache, MB",
    "largest difference",
)


def text_rows(document: Object) -> Rows:
    """One row a configuration; none where no texts were given."""
    rows = []
    for row in (document["texts"] or {"of": ()})["of"]:
        cells = [f"{row['rows']}, {row['branches']}"]
        for protocol in ("earlier", "online"):
            one = row[protocol]
            cells += [cell(one["tokens_per_step"], 2), cell(one["drafted_rows_per_step"]), _percent(one["acceptance"])]
        rows.append([*cells, cell(row["online"]["guessing_us_per_step"] / 1e3, 2)])
    return rows


def bundle_rows(document: Object) -> Rows:
    """One row a bundle, set of pictures and variant."""
    load = cell(document["machine"]["load_average_1m"])
    return [
        [
            f"{entry['bundle']}, {entry['pictures']}: {name}",
            f"{cell(one['tokens_per_s'], 0)} ({cell(one['of_plain'], 2)}x)",
            cell(one["tokens_per_call"], 2),
            f"{one['texts_that_differ']} of {entry['texts']}",
            str(one["near_ties"]),
            load,
        ]
        for entry in document["bundles"]
        for name, one in entry["variants"].items()
    ]


def cost_rows(document: Object) -> Rows:
    """One row a bundle: calls of several tokens as multiples of one."""
    return [
        [one["bundle"], cell(one["ms"]["1"], 2), *(cell(one["of_one"][str(rows)], 2, "x") for rows in ROWS)]
        for one in document["rows"]
    ]


def chunk_rows(documents: Sequence[Object]) -> Rows:
    """One row a bundle, length of prompt and length of chunk."""
    return [
        [
            f"{document['bundle']}: {entry['prompt_tokens']}",
            "all" if one["chunk_tokens"] is None else str(one["chunk_tokens"]),
            f"{cell(one['prefill_ms'])} ({cell(one['of_whole'], 2)}x)",
            cell(None if one["working_bytes"] is None else one["working_bytes"] / 1e6),
            "-" if one["difference"] is None else f"{one['difference']:.0e}",
        ]
        for document in documents
        for entry in document["prompts"]
        for one in entry["chunks"]
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"
