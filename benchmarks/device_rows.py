"""What one machine does, as rows of text for README files.

In: the documents of `preprocessing.py`, `memory_plan.py`, `rtx_3b.py`, `export_3b.py`, `awq_3b.py` and `decode_3b.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import cell, gibibytes, megabytes

Rows = list[list[str]]
Object = Mapping[str, Any]

PICTURE_HEAD = ("picture, size used", "transformers, ms", "decode or conversion, ms", "exact, ms", "fast, ms")
PLAN_HEAD = ("peak of a process, MB", "predicted", "measured", "quotient")
RTX_3B_HEAD = ("3B shape", "weights, GB", "engines, GB", "peak, GB", "its own, GB", "predicted, GB")
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


def plan_rows(document: Object | None) -> Rows:
    """What `inspect --plan` predicts, and what processes took."""
    return [
        [row["what"], megabytes(row["predicted_bytes"]), megabytes(row["measured_bytes"]), cell(row["ratio"], 2)]
        for row in (document or {"rows": ()})["rows"]
    ]


def rtx_3b_rows(document: Object | None) -> Rows:
    """Engines of TensorRT-RTX, one row a precision and number of profiles."""

    def gb(size: int | None) -> str:
        return cell(None if size is None else size / 1e9)

    rows = []
    for row in (document or {"rows": ()})["rows"]:
        engines = row["engine_bytes"]
        built = "ended, too little memory" if engines is None else gb(sum(engines.values()))
        profiles = "one profile" if row["profiles"] == "one" else "two profiles"
        sizes = (gb(row[name]) for name in ("peak_bytes", "own_bytes", "predicted_bytes"))
        note = f" ({row['note']})" if row.get("note") else ""
        rows.append([f"{row['precision']}, {profiles}{note}", gb(sum(row["weight_bytes"].values())), built, *sizes])
    return rows


def export_3b_rows(document: Object) -> Rows:
    """Export and answer of the 3B-shaped checkpoint."""
    exported, answered = document["export"], document["answer"]
    return [
        ["checkpoint, bundle", f"{exported['checkpoint_bytes'] / 1e9:.2f} GB, {exported['bundle_bytes'] / 1e9:.2f} GB"],
        ["export", f"{exported['export_s']:.0f} s"],
        ["export, peak resident memory", gibibytes(exported["peak_bytes"])],
        ["open the bundle", f"{answered['open_ms'] / 1e3:.1f} s"],
        [f"first token ({answered['prompt_tokens']} tokens of prompt)", f"{answered['ttft_ms'] / 1e3:.1f} s"],
        *_answer_rows(answered),
    ]


def awq_3b_rows(document: Object) -> Rows:
    """int4 with AWQ of the 3B-shaped checkpoint, stage by stage."""
    found = document["calibration"]
    return [
        ["pictures, tokens read", f"{found['pictures']}, {found['read_tokens']:,}"],
        *([stage, f"{seconds:.0f} s"] for stage, seconds in found["seconds"].items()),
        ["in all", f"{found['total_s'] / 60:.1f} min"],
        ["peak resident memory", gibibytes(found["peak_bytes"])],
        ["bundle", f"{found['bundle_bytes'] / 1e9:.2f} GB"],
        *_answer_rows(document["answer"]),
    ]


def _answer_rows(answered: Object) -> Rows:
    return [
        ["decode", f"{answered['decode_tokens_per_s']:.1f} tokens/s"],
        ["answer, peak resident memory", gibibytes(answered["peak_bytes"])],
    ]


def decode_3b_rows(document: Object | None) -> Rows:
    """One row a figure."""
    if document is None:
        return []
    decode, huge, start = document["decode"], document["decode_huge_pages"], document["starts"]["cold"][0]
    opened = (cell(document["starts"][kind][0]["steps"]["opened"]["ms"] / 1e3) for kind in ("cold", "warm"))
    return [
        ["decode, tokens/s (weights on huge pages)", _both(decode, huge, "tokens_per_s", 1.0, 1)],
        ["read bandwidth meanwhile, GB/s", _bandwidths(decode, huge)],
        ["of the read bandwidth", _both(decode, huge, "roofline_share", 100.0, 0, " %")],
        *_fast_rows(decode),
        ["first token, s", cell(decode["ttft_ms"] / 1e3)],
        ["peak resident memory, GB", cell(start["peak_bytes"] / 1e9, 2)],
        ["open, files not in memory / in memory, s", " / ".join(opened)],
        ["read from disk up to the first token, GB", cell(start["steps"]["first token"]["disk_bytes"] / 1e9, 2)],
    ]


def _both(decode: Object, huge: Object, name: str, factor: float, digits: int, unit: str = "") -> str:
    plain, moved = (one[name]["p50"] if isinstance(one[name], Mapping) else one[name] for one in (decode, huge))
    return f"{cell(factor * plain, digits)}{unit} ({cell(factor * moved, digits)}{unit})"


def _bandwidths(decode: Object, huge: Object) -> str:
    return " ".join(
        text.format(cell(one["read_bandwidth_gbps"]["p50"])) for text, one in (("{}", decode), ("({})", huge))
    )


def _fast_rows(decode: Object) -> Rows:
    """Where the machine had more bandwidth for a while."""
    fast = decode["high_bandwidth"]
    if fast["tokens_per_s"] is None:
        return []
    share, rate = fast["roofline_share"], fast["read_bandwidth_gbps"]["p50"]
    tokens = cell(fast["tokens_per_s"])
    return [[f"in the {share['n']} slices at {cell(rate)} GB/s", f"{tokens} tokens/s, {cell(100 * share['p50'], 0)} %"]]
