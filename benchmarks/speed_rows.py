"""How fast runs were, as heads and rows of text for README files.

In: the documents of `latency.py`, `schemes.py`, `products.py`, `cold_start.py` and `gpu.py`. Out: a head and rows; no
rows where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import cell

Rows = list[list[str]]
Object = Mapping[str, Any]
PRODUCT_HEAD = ("weights", "rows", "ours, ms", "ONNX Runtime's, ms", "times as fast", "ours, GB/s", "theirs", "memory")
ATTENTION_HEAD = (
    "attention", "ours, ms", "ONNX Runtime's, ms", "times as fast", "ours, G multiply-adds/s", "theirs"
)  # fmt: skip
GPU_HEAD = ("section", "parity", "tokens/s", "of the bandwidth", "TTFT, ms", "vision, ms")
SCHEME_HEAD = ("scheme of all layers", "bytes / weight", "decode, tokens/s", "of the read bandwidth", "vision, ms",
               "prefill, ms")  # fmt: skip


def latency_rows(documents: Sequence[Object]) -> tuple[Sequence[str], Rows]:
    """Decode speed, first token and share of the roofline of each checkpoint, one column a peer."""
    names = list(dict.fromkeys(name for document in documents for name in document["peers"]))
    rows = []
    for document in documents:
        peers = [document["peers"].get(name) for name in names]
        title = document["checkpoint"]
        rows.append(
            [f"{title}: decode, tokens/s", *(_times(peer, "decode_tokens_per_s", "decode_ratio") for peer in peers)]
        )
        rows.append([f"{title}: first token, ms", *(_first_token(peer) for peer in peers)])
        rows.append([f"{title}: of the read bandwidth", *(_share(peer) for peer in peers)])
    return ["", *names], rows


def scheme_speed_rows(documents: Sequence[Object]) -> Rows:
    """What each scheme takes of memory and of time."""
    return [
        [
            f"{document['checkpoint']}: {name}",
            cell(row["bytes_per_weight"], 2),
            _times(row, "decode_tokens_per_s", "decode_ratio"),
            _share(row),
            cell(row["stages_ms"]["vision"]["p50"]),
            cell(row["stages_ms"]["prefill"]["p50"]),
        ]
        for document in documents
        for name, row in document["schemes"].items()
    ]


def product_rows(document: Object | None) -> Rows:
    """Our products beside ONNX Runtime's; GB/s where weights come from memory, beside what it gives."""
    if document is None:
        return []
    rows = []
    for row in document["results"]:
        ours, theirs = row["ms"]["fgr-edge"], row["ms"]["onnxruntime"]
        gbps = row.get("gbps", {})
        rates = [
            cell(rate, 0) for rate in (gbps.get("fgr-edge"), gbps.get("onnxruntime"), row.get("read_bandwidth_gbps"))
        ]
        name = f"{row['scheme']}, {'from memory' if row['weights'] == 'memory' else 'in the cache'}"
        rows.append([name, str(row["rows"]), cell(ours, 3), cell(theirs, 3), cell(row["ratio"], 2, "x"), *rates])
    return rows


def attention_rows(document: Object | None) -> Rows:
    """Our attention beside ONNX Runtime's."""
    if document is None:
        return []
    return [
        [
            row["work"],
            *(cell(row["ms"][side], 3) for side in ("fgr-edge", "onnxruntime")),
            cell(row["ratio"], 2, "x"),
            *(cell(row["g_multiply_adds_per_s"][side], 0) for side in ("fgr-edge", "onnxruntime")),
        ]
        for row in document["results"]
    ]


def cold_start_rows(document: Object | None) -> tuple[Sequence[str], Rows]:
    """Process start to first answer, and imports."""
    if document is None:
        return [], []
    rows = [
        [
            name,
            cell(run["first_answer_ms"]["p50"], 0),
            cell(run["first_answer_ms"]["p95"], 0),
            cell(run["ratio"], 2, "x"),
        ]
        for name, run in document["contenders"].items()
    ]
    imported = cell(document["imports"]["fgr_edge_beyond_numpy_ms"])
    rows.append(["`import fgr_edge`, beyond numpy", imported, "-", "-"])
    return [f"{document['checkpoint']}: process start to answer", "ms p50", "ms p95", "of transformers"], rows


def gpu_rows(documents: Sequence[Object]) -> Rows:
    """Every section that ran on a GPU."""
    return [
        [f"{document['card']}: {title}", *_gpu_cells(section)]
        for document in documents
        if document["device"] == "cuda"
        for title, section in document["sections"].items()
        if title != "card"
    ]


def _gpu_cells(section: Object) -> list[str]:
    steps = section["steps"]
    step = steps["latency"] if steps.get("latency", {}).get("ok") else {}
    parity = {True: "right", False: "wrong", None: "-"}[steps.get("verify", {}).get("ok")]
    times = (step.get(name, {}).get("p50") for name in ("ttft_ms", "vision_ms"))
    return [
        parity if section["status"] == "done" else f"{parity} ({section['status']})",
        cell(step.get("tokens_per_s")),
        _share(step or None),
        *(cell(value) for value in times),
    ]


def _times(peer: Object | None, key: str, ratio_key: str) -> str:
    if peer is None or peer[key] is None:
        return "-"
    return f"{cell(peer[key])} ({cell(peer[ratio_key], 2)}x)"


def _first_token(peer: Object | None) -> str:
    if peer is None or peer["ttft_ms"]["p50"] is None:
        return "-"
    return f"{cell(peer['ttft_ms']['p50'])} ({cell(peer['ttft_ratio'], 2)}x)"


def _share(peer: Object | None) -> str:
    share = None if peer is None else peer.get("roofline_share")
    return "-" if share is None else f"{100 * share:.0f} %"
