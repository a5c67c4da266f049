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
Cost = Callable[[Row], float | None]
DECODE_WANTED = {8: 1.2, 4: 1.1}
PICTURE_WANTED, LABELS_WANTED, MEMORY_WANTED = 1.5, 10.0, 1.0
MAIN_BLOCK = 128  # of what `fgr-edge export` writes
BITS_OF_ALL = 8  # whose decoding is compared with peers of any block, too


def bars(rows: Rows, *, fitted: bool = False) -> list[dict[str, Any]]:
    """Every promise that the run can judge; after prompts that the model was fitted to, those about labels alone."""
    here = {name: row for name, row in rows.items() if row["reason"] is None}
    ours = {name: row for name, row in here.items() if row["peer"] == "fgr_edge"}
    peers = {name: row for name, row in here.items() if row["peer"] != "fgr_edge"}
    found: list[dict[str, Any]] = []
    for name, row in ours.items() if not fitted else ():
        found += _same_weights(name, row, peers)
    for name, row in ours.items():
        if row["bits"] == BITS_OF_ALL and row["block"] == MAIN_BLOCK and not fitted:
            alike = {key: peer for key, peer in peers.items() if peer["bits"] == row["bits"]}
            found += _bar("decode, int8, any block", name, row, alike, _tpot, DECODE_WANTED[row["bits"]])
        if row["block"] == MAIN_BLOCK or row["integers"]:
            found += _any_peer(name, row, peers, fitted)
    return found


def _same_weights(name: str, row: Row, peers: Rows) -> Sequence[dict[str, Any]]:
    """Decoding and memory, beside peers of the same bits and block."""
    bits = row["bits"]
    if bits not in DECODE_WANTED:
        return []
    same = {key: peer for key, peer in peers.items() if (peer["bits"], peer["block"]) == (bits, row["block"])}
    whole = {key: peer for key, peer in same.items() if _picture(peer) is not None}
    found = [_bar(f"memory, picture, {_weights(row)}", name, row, whole, _peak, MEMORY_WANTED)]
    if row["integers"] != "vision":  # without pictures it is another contender
        found.insert(0, _bar(f"memory, text, {_weights(row)}", name, row, same, _text_peak, MEMORY_WANTED))
        found.insert(0, _bar(f"decode, {_weights(row)}", name, row, same, _tpot, DECODE_WANTED[bits]))
    return [line for lines in found for line in lines]


def _any_peer(name: str, row: Row, peers: Rows, fitted: bool) -> Sequence[dict[str, Any]]:
    """Pictures and labels, beside whoever can do that."""
    if fitted:
        return [
            *_bar("label answer", name, row, peers, (_best, _labels), LABELS_WANTED),
            *_bar("label answer with the prompt", name, row, peers, (_best_prompt, _labels_prompt), LABELS_WANTED),
        ]
    found = [*_bar("picture, any peer", name, row, peers, _picture, PICTURE_WANTED)]
    if row["integers"] != "vision":
        found += _bar("all labels, any peer", name, row, peers, _labels, LABELS_WANTED)
        found += _bar("all labels with the prompt, any peer", name, row, peers, _labels_prompt, LABELS_WANTED)
    return found


def _bar(
    measure: str, name: str, row: Row, peers: Rows, cost: Cost | tuple[Cost, Cost], wanted: float
) -> Sequence[dict[str, Any]]:
    """One line, if both sides have a figure; `cost` is what should be small: ours and theirs, where they differ."""
    own_cost, their_cost = cost if isinstance(cost, tuple) else (cost, cost)
    own = own_cost(row)
    theirs = {key: value for key, peer in peers.items() if (value := their_cost(peer)) is not None}
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


def _best(row: Row) -> float | None:
    value: float | None = row["best_label_ms"]["p50"]
    return value


def _best_prompt(row: Row) -> float | None:
    value: float | None = row["best_label_with_prompt_ms"]["p50"]
    return value


def _text_peak(row: Row) -> float | None:
    value: float | None = row["text_peak_bytes"]
    return value


def _peak(row: Row) -> float | None:
    value: float | None = row["peak_bytes"]
    return value
