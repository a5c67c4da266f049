"""Rows of the README tables from documents of `compare_peers.py`: what everybody did, and the promises."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import cell

Rows = Sequence[Sequence[str]]
HEAD = ("decode, tokens/s", "prompt, ms", "picture, ms", "all labels, ms", "peak, MiB", "error", "picture's error")
ANSWER_HEAD = ("all 81 probabilities, ms", "label answer, ms", "labels looked at", "the rest, at most", "error")
OPERATOR_HEAD = ("of 195M", "call, ms", "products, ms", "attention, ms", "others, ms", "weights, GB/s")
BAR_HEAD = ("this runtime", "best peer", "ratio", "wanted", "")


def peer_rows(document: Mapping[str, Any]) -> tuple[Sequence[str], Rows]:
    """Everybody's figures; who takes no part is left to `absent_rows`."""
    rows = []
    for name, row in document["contenders"].items():
        if row["reason"] is None:
            peak = None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20
            rows.append(
                [
                    f"**{name}**" if row["peer"] == "fgr_edge" else name,
                    cell(row["decode_tokens_per_s"]),
                    cell(row["first_token_ms"]["p50"], 0),
                    cell(row["picture_ms"]["p50"], 0),
                    cell(row["labels_ms"]["p50"], 0),
                    cell(peak, 0),
                    cell(row["check"]["error"], 4),
                    cell(row["check"].get("picture_error"), 4),
                ]
            )
    title = f"{document['checkpoint']}, medians of {document['rounds']}"
    return [title, *HEAD], rows


def answer_rows(document: Mapping[str, Any]) -> tuple[Sequence[str], Rows]:
    """Labels after prompts that the model was fitted to; a peer's answer is all probabilities."""
    rows = []
    for name, row in document["contenders"].items():
        if row["reason"] is None and row["labels_ms"]["p50"] is not None:
            best = row["best_label"]
            answer = row["labels_ms"] if best is None else row["best_label_ms"]
            seen = document["labels"] if best is None else statistics.median(best["seen"])
            rows.append(
                [
                    f"**{name}**" if row["peer"] == "fgr_edge" else name,
                    cell(row["labels_ms"]["p50"], 0),
                    cell(answer["p50"], 0),
                    cell(seen, 0),
                    cell(0.0 if best is None else 100 * best["rest"], 1, " %"),
                    cell(row["check"]["error"], 4),
                ]
            )
    return [f"{document['checkpoint']}, medians of {document['rounds']}", *ANSWER_HEAD], rows


def bar_rows(document: Mapping[str, Any]) -> tuple[Sequence[str], Rows]:
    """One row a promise."""
    rows = [
        [
            bar["measure"],
            bar["ours"],
            bar["peer"],
            cell(bar["ratio"], 2, "x"),
            cell(bar["wanted"], 1, "x"),
            "met" if bar["met"] else "missed",
        ]
        for bar in document["bars"]
    ]
    return [document["checkpoint"], *BAR_HEAD], rows


def operator_rows(document: Mapping[str, Any]) -> Rows:
    """Where the time goes (`benchmarks/operators.py`), one row a bundle and kind of call."""
    return [
        [
            f"{name.removeprefix('fgr_edge-')}, {stage}",
            *(cell(row[key], 2) for key in ("call_ms", "products_ms", "attention_ms", "others_ms")),
            cell(row.get("weight_gbps")),
        ]
        for name, stages in document["bundles"].items()
        for stage, row in stages.items()
    ]


def absent_lines(document: Mapping[str, Any]) -> list[str]:
    """What was not measured, and why."""
    lines = []
    for name, row in document["contenders"].items():
        reasons = {"": row["reason"]} if row["reason"] else row["missing"]
        lines += [f"- {name}{what and ', ' + what}: {why}" for what, why in reasons.items()]
    return lines
