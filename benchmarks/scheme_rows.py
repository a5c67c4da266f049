"""The document of `scheme_accuracy.py` as rows of text, for the terminal and for README files.

The first data set is shown in full, the others in short. Points are of top-1, in per cent; divergences in 0.001 nats.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from benchmarks.report import cell

Rows = Sequence[Sequence[str]]
Object = Mapping[str, Any]
_CHANGE = "points [95 %], p"
_KL = "KL [95 %]"


def scheme_rows(document: Object, wanted: Container[str] | None = None) -> tuple[Sequence[str], Rows]:
    """Head and rows: every scheme against the original on the same pictures; those `wanted` on the first data alone."""
    original = document["original"]
    first, *others = document["schemes"][original]["data"]
    if wanted is not None:
        others = []
    head = [f"{document['checkpoint']}: scheme", "weights, MB", f"{first}: top-1, %", _CHANGE]
    head += ["lost / gained", "changed", _KL, *(f"{data}: {title}" for data in others for title in ("top-1, %", _KL))]
    rows = []
    for name, row in document["schemes"].items():
        if wanted is None or name in wanted:
            same = name == original
            cells = [cell(row["weights_bytes"] / 1e6, 2), *_in_full(row["data"][first], same=same)]
            rows.append([name, *cells, *(c for data in others for c in _in_short(row["data"][data], same=same))])
    return head, rows


def pair_rows(document: Object) -> tuple[Sequence[str], Rows]:
    """Head and rows: fitted weights against the same layout rounded to nearest."""
    first, *others = document["schemes"][document["original"]]["data"]
    head = [f"{document['checkpoint']}: difference", f"{first}: {_CHANGE}", "the original's answers, %, p"]
    head += [_KL, *(f"{data}: {_KL}" for data in others)]
    rows = []
    for pair in document["pairs"]:
        found = pair["data"][first]
        agreement = found["agreement"]
        shares = f"{cell(agreement['before_percent'])} to {cell(agreement['after_percent'])}"
        rows.append(
            [
                f"{pair['fitted']} - {pair['nearest'].split(', ')[-1]}",
                _points(found["top_1"]),
                f"{shares}, {_p(agreement['mcnemar_p'])}",
                *(_divergence(pair["data"][data]["kl_nats"], "+") for data in (first, *others)),
            ]
        )
    return head, rows


def _in_full(found: Object, *, same: bool) -> list[str]:
    top_1 = found["top_1"]
    share = cell(top_1["after_percent"])
    if same:
        return [share, "-", "-", "-", "-"]
    flips = f"{top_1['lost']} / {top_1['gained']}"
    changed = f"{found['changed']} of {found['pictures']:,}"
    return [share, _points(top_1), flips, changed, _divergence(found["kl_nats"])]


def _in_short(found: Object, *, same: bool) -> list[str]:
    return [cell(found["top_1"]["after_percent"]), "-" if same else _divergence(found["kl_nats"])]


def _points(change: Object) -> str:
    low, high = change["difference_95_points"]
    return f"{change['difference_points']:+.1f} [{low:+.1f}, {high:+.1f}], {_p(change['mcnemar_p'])}"


def _divergence(nats: Object, sign: str = "") -> str:
    mean, low, high = (1000 * value for value in (nats["mean"], *nats["mean_95"]))
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
