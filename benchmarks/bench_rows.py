"""Documents of `fgr-edge bench -o json` (`results/bench_*.json`) as rows of one table, for README files.

A run on a machine that was not quiet is marked, not left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import cell

Object = Mapping[str, Any]
HEAD = (
    *("bundle", "direct answer, ms: p50 (p99 of n)", "with reasoning, ms", "first token, ms", "decode, tokens/s"),
    *("of the read bandwidth", "process start to answer, ms", "peak, MB"),
)


def bench_rows(documents: Mapping[str, Object]) -> list[Sequence[str]]:
    """One row a document, in the order of their files' names."""
    return [_row(document) for name, document in sorted(documents.items()) if name.startswith("bench_")]


def _row(document: Object) -> Sequence[str]:
    bundle, answers = document["bundle"], document["answers"]
    parts = {kind for part, kind in bundle["precision"].items() if part != "embedding"}
    direct, reason = (answers.get(mode) for mode in ("direct", "reason"))
    decode = document["decode"][0] if document["decode"] else None
    cached = document["cold_start"]["cached"]
    share = decode["roofline_share"] if decode else None
    return (
        f"{bundle['name']} {'/'.join(sorted(parts))}{'' if document['noise']['quiet'] else ' (noisy machine)'}",
        _tail(direct["answer_ms"]) if direct else "-",
        cell(reason["answer_ms"]["p50"]) if reason else "-",
        cell(direct["stages"]["ttft_ms"]["p50"]) if direct else "-",
        cell(decode["tokens_per_s"]["p50"]) if decode else "-",
        cell(100 * share["p50"], 0, " %") if share else "-",
        cell(cached["first_answer_ms"]["p50"], 0) if cached else "-",
        _megabytes(document["memory"]["peak_bytes"].get("direct")),
    )


def _tail(times: Object) -> str:
    return f"{cell(times['p50'])} ({cell(times['p99'])} of {times['n']})"


def _megabytes(count: int | None) -> str:
    return cell(None if count is None else count / 1e6, 0)
