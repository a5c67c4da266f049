"""What this runtime promises beside other engines, and whether a run kept it.

In: rows by name, as `compare_peers.py` writes them. Out: one line a promise: whose figure, the best peer's, the ratio
(above 1 is better for this runtime), the ratio that is wanted. Decoding is compared at equal bits and block size;
pictures, labels and memory with every peer of the same bits or, for what few peers can do, with every peer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Rows = Mapping[str, Row]
DECODE_WANTED = {8: 1.2, 4: 1.1}
PICTURE_WANTED, LABELS_WANTED, MEMORY_WANTED = 1.5, 10.0, 1.0
MAIN_BLOCK = 128  # of what `fgr-edge export` writes


def bars(rows: Rows) -> list[dict[str, Any]]:
    """Every promise that the run can judge."""
    here = {name: row for name, row in rows.items() if row["reason"] is None}
    ours = {name: row for name, row in here.items() if row["peer"] == "fgr_edge"}
    peers = {name: row for name, row in here.items() if row["peer"] != "fgr_edge"}
    found = []
    for name, row in ours.items():
        bits = row["bits"]
        same = {key: peer for key, peer in peers.items() if (peer["bits"], peer["block"]) == (bits, row["block"])}
        if bits in DECODE_WANTED:
            found += _bar(f"decode, {_weights(row)}", name, row, same, _tpot, DECODE_WANTED[bits])
            found += _bar(f"memory, text, {_weights(row)}", name, row, same, _text_peak, MEMORY_WANTED)
            whole = {key: peer for key, peer in same.items() if _picture(peer) is not None}
            found += _bar(f"memory, picture, {_weights(row)}", name, row, whole, _peak, MEMORY_WANTED)
    for name, row in ours.items():
        if (row["bits"], row["block"]) == (8, MAIN_BLOCK):
            alike = {key: peer for key, peer in peers.items() if peer["bits"] == 8}
            found += _bar("decode, int8, any block", name, row, alike, _tpot, DECODE_WANTED[8])
        if row["block"] == MAIN_BLOCK:
            at = f"int{row['bits']}"
            found += _bar(f"picture, {at}, any peer", name, row, peers, _picture, PICTURE_WANTED)
            found += _bar(f"labels, {at}, any peer", name, row, peers, _labels, LABELS_WANTED)
            found += _bar(f"labels with the prompt, {at}, any peer", name, row, peers, _labels_prompt, LABELS_WANTED)
    return found


def _bar(
    measure: str, name: str, row: Row, peers: Rows, cost: Callable[[Row], float | None], wanted: float
) -> Sequence[dict[str, Any]]:
    """One line, if both sides have a figure; `cost` is what should be small."""
    own = cost(row)
    theirs = {key: value for key, peer in peers.items() if (value := cost(peer)) is not None}
    if own is None or not theirs:
        return []
    best = min(theirs, key=lambda key: theirs[key])
    ratio = theirs[best] / own
    met = ratio >= wanted
    line = {"measure": measure, "ours": name, "peer": best, "ratio": round(ratio, 2), "wanted": wanted, "met": met}
    return [line]


def _weights(row: Row) -> str:
    return f"int{row['bits']}, block {row['block'] or 'a channel'}"


def _tpot(row: Row) -> float | None:
    value: float | None = row["tpot_ms"]["p50"]
    return value


def _picture(row: Row) -> float | None:
    value: float | None = row["picture_ms"]["p50"]
    return value


def _labels(row: Row) -> float | None:
    value: float | None = row["labels_ms"]["p50"]
    return value


def _labels_prompt(row: Row) -> float | None:
    value: float | None = row["labels_with_prompt_ms"]["p50"]
    return value


def _text_peak(row: Row) -> float | None:
    value: float | None = row["text_peak_bytes"]
    return value


def _peak(row: Row) -> float | None:
    value: float | None = row["peak_bytes"]
    return value
