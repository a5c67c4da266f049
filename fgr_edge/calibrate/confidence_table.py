"""A calibration for a person: figures before and after, side by side."""

from __future__ import annotations

from collections.abc import Iterator

from fgr_edge.calibrate.confidence_report import Answering, Measured
from fgr_edge.calibrate.label_calibration import ModeReport, Report


def table(report: Report) -> str:
    """The report for a terminal."""
    blocks = ["\n".join(_mode_lines(mode)) for mode in report["modes"]]
    skipped = "\n".join(f"skipped: {one['error']}" for one in report["skipped"])
    return "\n\n".join([*blocks, *([skipped] if skipped else [])])


def rows(mode: ModeReport) -> list[tuple[str, str, str]]:
    """Name of a figure, its value before, and after."""
    before, after = mode["before"], mode["after"]
    found = [
        ("top-1", _accuracy(before), _accuracy(after)),
        ("negative log-likelihood", f"{before['nll']:.4f}", f"{after['nll']:.4f}"),
        ("Brier score", f"{before['brier']:.4f}", f"{after['brier']:.4f}"),
        ("calibration error (ECE, 15 bins)", f"{before['ece']:.4f}", f"{after['ece']:.4f}"),
        ("area under risk-coverage", f"{before['aurc']:.4f}", f"{after['aurc']:.4f}"),
    ]
    found += _answering("classes only", before["classes_only"], after["classes_only"])
    if before["with_parents"] is not None and after["with_parents"] is not None:
        found += _answering("with parents", before["with_parents"], after["with_parents"])
    found.append(("bias by tokens of the name", _slope(before), _slope(after)))
    return found


def heading(mode: ModeReport) -> str:
    """What the figures are of."""
    return (
        f"{mode['mode']} mode: {mode['photographs']} photographs of {mode['classes_with_photographs']} of "
        f"{mode['classes']} classes, each measured by a fit without it"
        + ("" if mode["independent"] else " and without its class")
    )


def rule(mode: ModeReport) -> str:
    """What was stored."""
    threshold = mode["threshold"]
    return (
        f"temperature {mode['temperature']:.3f}, prior correction {mode['prior_strength']:g}; at most "
        f"{100 * mode['risk']:.3g} % of the answers wrong, with confidence {100 * (1 - mode['delta']):.3g} %: "
        + ("nothing is answered" if threshold is None else f"answers from p = {threshold:.3f}")
        + f"; {mode['design_effect']:.2f} photographs of a class count as one"
    )


def _mode_lines(mode: ModeReport) -> Iterator[str]:
    yield heading(mode)
    yield f"{'':<34} {'before':>24} {'after':>24}"
    for name, before, after in rows(mode):
        yield f"{name:<34} {before:>24} {after:>24}"
    yield rule(mode)
    yield from (f"note: {note}" for note in mode["notes"])


def _accuracy(measured: Measured) -> str:
    low, high = measured["accuracy_95"]
    return f"{100 * measured['accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def _answering(name: str, before: Answering, after: Answering) -> list[tuple[str, str, str]]:
    found = [(f"{name}: answered", f"{100 * before['answered']:.1f} %", f"{100 * after['answered']:.1f} %")]
    found.append(("  wrong among them", _wrong(before), _wrong(after)))
    if any(one["mean_level"] for one in (before, after)):
        found.append(("  mean levels above the class", _level(before), _level(after)))
    return found


def _wrong(found: Answering) -> str:
    if found["wrong"] is None or found["wrong_95"] is None:
        return "-"
    low, high = found["wrong_95"]
    return f"{100 * found['wrong']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def _level(found: Answering) -> str:
    return "-" if found["mean_level"] is None else f"{found['mean_level']:.3f}"


def _slope(measured: Measured) -> str:
    found = measured["length_bias"]
    return "-" if found["slope"] is None else f"{found['slope']:+.5f} (p = {found['p_value']:.2g})"
