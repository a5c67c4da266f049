"""A contender in a run: its process, what it cannot do, what it did, and whether it computes the right model.

In: requests (`task.py`) and the float32 model's answers. Out: one row of the document. A time counts only where the
logits after the prompt are those of the float32 model, up to what the rounding of weights explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contenders import Contender
from benchmarks.peers.process import PeerError, PeerProcess
from benchmarks.peers.task import Task
from benchmarks.report import percentiles, ratio

ANSWER_S = 400.0
MOST_ERROR = {32: 1e-3, 8: 0.25, 4: 1.0}
"""Of the logits, by bits of a weight: beyond it the contender computes something else.

Random weights of the 3B shape lose up to 0.95 with int4; another prompt is 1.3 away."""


@dataclass
class Entrant:
    """A contender in the run, and what it did.

    Attributes:
        reason: why it takes no part; None while it does.
        missing: what it cannot do, and why.
        done: answers by what was asked, one a round.
    """

    contender: Contender
    process: PeerProcess | None = None
    reason: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    done: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def leave(self, reason: str) -> None:
        """Take no further part."""
        self.reason = reason
        if self.process is not None:
            self.process.close()
            self.process = None


def ask(entrant: Entrant, request: dict[str, Any]) -> dict[str, Any] | None:
    """An answer; None, and a note, where it cannot."""
    if entrant.process is None or request["do"] in entrant.missing:
        return None
    try:
        return entrant.process.ask(request, ANSWER_S)
    except PeerError as error:
        entrant.missing[request["do"]] = str(error).removeprefix("NotImplementedError: ")
        return None


def warm_up(entrant: Entrant, task: Task, measures: Sequence[str], reference: dict[str, Any], scratch: Path) -> None:
    """Everything once; memory and the proof that it is the same model are taken here."""
    decoded = ask(entrant, task.decode)
    if decoded is None:
        entrant.leave(entrant.missing["decode"] if entrant.reason is None else entrant.reason)
        return
    assert entrant.process is not None
    entrant.memory = {"text_peak_bytes": entrant.process.memory()["peak_bytes"]}
    if "picture" in measures:
        ask(entrant, task.picture)
    if entrant.process is not None:
        entrant.memory |= entrant.process.memory()
    told = ask(entrant, {"do": "logits", "ids": task.ids, "to": str(scratch)})
    scored = ask(entrant, task.labels[0]) if "labels" in measures else None
    if told is None:
        entrant.leave(f"it does not show its logits: {entrant.missing['logits']}")
        return
    entrant.check = compare_logits(np.load(scratch), decoded["tokens"], scored, reference)
    entrant.check["picture_error"] = picture_error(entrant, task, measures, reference, scratch)
    most = MOST_ERROR[entrant.contender.bits]
    if entrant.check["error"] > most:
        entrant.leave(f"not the same model: its logits differ by {entrant.check['error']}, at most {most} expected")


def compare_logits(
    logits: Any, tokens: Sequence[int], scored: dict[str, Any] | None, reference: dict[str, Any]
) -> dict[str, Any]:
    """Distances to the float32 model: logits, greedy tokens, labels."""
    same = [a == b for a, b in zip(tokens, reference["tokens"], strict=False)]
    far = None
    if scored is not None:
        far = round(float(np.abs(np.array(scored["log_probs"]) - reference["log_probs"]).max()), 4)
    return {
        "error": logits_error(logits, reference["logits"]),
        "equal_tokens": same.index(False) if False in same else len(same),
        "label_log_prob_difference": far,
    }


def picture_error(
    entrant: Entrant, task: Task, measures: Sequence[str], reference: dict[str, Any], scratch: Path
) -> float | None:
    """`logits_error` after a picture; None for those that read none, or do not show their logits."""
    if "picture" not in measures or "picture" in entrant.missing:
        return None
    try:
        assert entrant.process is not None
        entrant.process.ask(task.picture | {"do": "picture_logits", "to": str(scratch)}, ANSWER_S)
    except PeerError:
        return None
    return logits_error(np.load(scratch), reference["picture"])


def answer_check(scored: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What stopping early left out, against the same contender's scores of all labels; None where nobody stops.

    first_share: of the likeliest label, one a round; equal_first: whether both ways find the same one in every round;
    difference: of a log-probability, at most; unseen_share: of the likeliest label that was left out, at most; rest:
    the bound on all of them together, at most; seen: labels looked at, one a round.
    """
    rounds = [one for one in scored if one["best_log_probs"] is not None]
    if not rounds:
        return None
    shares, equal, differences, unseen, seen = [], [], [], [0.0], []
    for one in rounds:
        log_probs = np.array(one["log_probs"])
        share = np.exp(log_probs - np.logaddexp.reduce(log_probs))
        found = np.array([np.nan if value is None else value for value in one["best_log_probs"]])
        looked = np.isfinite(found)
        shares.append(round(float(share.max()), 3))
        equal.append(int(np.nanargmax(found)) == int(share.argmax()))
        differences.append(float(np.abs(found[looked] - log_probs[looked]).max()))
        unseen += share[~looked].tolist()
        seen.append(int(looked.sum()))
    return {
        "first_share": shares,
        "equal_first": all(equal),
        "difference": round(max(differences), 6),
        "unseen_share": round(max(unseen), 6),
        "rest": round(max(one["best_rest"] for one in rounds), 6),
        "seen": seen,
    }


def logits_error(logits: Any, expected: Any) -> float:
    """Norm of the difference over the norm, both centred: a constant added to all logits changes nothing."""
    found, expected = (np.asarray(row, np.float64) - np.mean(row, dtype=np.float64) for row in (logits, expected))
    return round(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)), 6)


def summarize(entrant: Entrant, new_tokens: int) -> dict[str, Any]:
    """One contender's row."""
    contender, done = entrant.contender, entrant.done
    decoded, scored = done.get("decode", []), done.get("labels", [])
    tpot = percentiles([one["ms"] / (new_tokens - 1) for one in decoded])
    best = [one for one in scored if one["best_ms"] is not None]
    return {
        "peer": contender.peer,
        "bits": contender.bits,
        "block": contender.block,
        "integers": contender.integers,
        "reason": entrant.reason,
        "missing": entrant.missing,
        "versions": {} if entrant.process is None else entrant.process.ready["versions"],
        "open_ms": None if entrant.process is None else round(entrant.process.ready["open_ms"], 1),
        "decode_tokens_per_s": ratio(1000, tpot["p50"]),
        "tpot_ms": tpot,
        "first_token_ms": percentiles([one["first_ms"] for one in decoded]),
        "picture_ms": percentiles([one["ms"] for one in done.get("picture", [])]),
        "picture_prompt_tokens": next((one["prompt_tokens"] for one in done.get("picture", [])), None),
        "labels_ms": percentiles([one["ms"] for one in scored]),
        "labels_with_prompt_ms": percentiles([one["ms"] + one["prompt_ms"] for one in scored]),
        "best_label_ms": percentiles([one["best_ms"] for one in best]),
        "best_label_with_prompt_ms": percentiles([one["best_ms"] + one["prompt_ms"] for one in best]),
        "best_label": answer_check(scored),
        **({"text_peak_bytes": None, "peak_bytes": None, "anonymous_bytes": None} | entrant.memory),
        "check": entrant.check,
    }
