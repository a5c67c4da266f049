"""The schema of `verify --json`, and the same as a table. Plain JSON types only."""

from __future__ import annotations

import math
from typing import Literal, TypedDict

from fgr_edge.calibrate.golden_bounds import Against
from fgr_edge.evaluate.summary import Share

Status = Literal["passed", "failed", "skipped"]


class Check(TypedDict):
    """One output against what it should be.

    Attributes:
        output: its name.
        against: the bundle's own output at export, the original's, or this session itself.
        error: in the unit of its kind, see `golden_bounds`; None where it is not a finite number.
    """

    output: str
    against: Against
    error: float | None
    bound: float
    passed: bool


class StageReport(TypedDict):
    """One stage; found: what is wrong, in words, where there is no number for it."""

    name: str
    status: Status
    seconds: float
    checks: list[Check]
    found: str | None


class AccuracyReport(TypedDict):
    """Answers on labelled photographs, in direct mode.

    Attributes:
        top_1: of all photographs, with its 95 % interval (Wilson).
        known: photographs whose answers parity.json has; the next three are about them, None where there are none.
        stored, here: top-1 then and now.
        same_answers: how many are named as then.
        allowed_drop: photographs that may be lost.
    """

    source: str
    photographs: int
    skipped: int
    top_1: Share
    known: int
    stored: Share | None
    here: Share | None
    same_answers: int | None
    allowed_drop: int | None
    passed: bool


class VerifyReport(TypedDict):
    """A verified bundle. first_wrong: name of the first stage that failed, "accuracy" where only that did."""

    bundle: str
    model: str
    target: str
    precision: dict[str, str]
    passed: bool
    first_wrong: str | None
    likely_cause: str | None
    stages: list[StageReport]
    accuracy: AccuracyReport | None


def table(report: VerifyReport) -> str:
    """The report for a person."""
    precision = ", ".join(f"{part} {kind}" for part, kind in report["precision"].items())
    lines = [f"{report['model']} ({precision}), target {report['target']}", ""]
    heading = f"{'stage':<14} {'':<8} {'as exported':>22} {'as the original':>22} {'as itself':>22}"
    lines.append(heading.rstrip())
    for stage in report["stages"]:
        cells = " ".join(f"{_cell(stage, against):>22}" for against in ("bundle", "original", "itself"))
        lines.append(f"{stage['name']:<14} {stage['status']:<8} {cells}".rstrip())
        if stage["found"] is not None:
            lines.append(f"  {stage['found']}")
    if report["accuracy"] is not None:
        lines += ["", *_accuracy(report["accuracy"])]
    lines.append("")
    if report["passed"]:
        return "\n".join([*lines, "passed"])
    lines.append(f"failed: the first stage that is wrong is {report['first_wrong']}")
    return "\n".join([*lines, f"likely cause: {report['likely_cause']}"])


def _cell(stage: StageReport, against: str) -> str:
    """The check that is nearest to its bound, or furthest beyond."""
    checks = [check for check in stage["checks"] if check["against"] == against]
    if not checks:
        return ""
    worst = max(checks, key=lambda check: (_nearness(check), check["bound"]))
    error = "no number" if worst["error"] is None else f"{worst['error']:.2g}"
    return f"{error} (at most {worst['bound']:.2g})"


def _nearness(check: Check) -> float:
    if check["error"] is None:
        return math.inf
    return check["error"] / check["bound"] if check["bound"] else check["error"] * 1e6


def _accuracy(found: AccuracyReport) -> list[str]:
    lines = [f"{_shown('top-1', found['top_1'])}, {found['skipped']} skipped"]
    if found["stored"] is None or found["here"] is None:
        return [*lines, "parity.json has no answers to these photographs: nothing to compare with"]
    return [
        *lines,
        _shown("of those in parity.json, then", found["stored"]),
        _shown("of those in parity.json, now", found["here"]),
        f"{found['same_answers']} of {found['known']} named as then; {'passed' if found['passed'] else 'failed'}",
    ]


def _shown(name: str, share: Share) -> str:
    return (
        f"{name}: {100 * share['share']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f} %), "
        f"{share['right']} of {share['count']}"
    )
