"""May the bundle be used? Compares the loss of top-1 with what the user allows, and says what to try where it is more.

In: a `Parity` document and the bound. Out: a `Verdict`. The bound is held against the loss that was measured; its
interval says how far chance goes, and is stated.
"""

from __future__ import annotations

from fgr_edge.calibrate.parity_document import Accuracy, Parity, Verdict
from fgr_edge.errors import ParityError

_ROUNDING = 1e-9
_LOW_BITS = ("int4", "fp8", "w8a8")
_OTHER_METHOD = {"awq": "gptq", "gptq": "awq"}


def undecided() -> Verdict:
    """Before anybody asked."""
    return {"passed": True, "max_accuracy_drop": None, "headline": "", "found": [], "advice": []}


def verdict(parity: Parity, max_accuracy_drop: float | None) -> Verdict:
    """Judge the mode that lost the most.

    Args:
        max_accuracy_drop: share of top-1, 0..1, that may be lost; None allows anything.
    """
    worst = min(parity["accuracy"], key=lambda accuracy: accuracy["difference"])
    passed = max_accuracy_drop is None or -worst["difference"] <= max_accuracy_drop + _ROUNDING
    return {
        "passed": passed,
        "max_accuracy_drop": max_accuracy_drop,
        "headline": headline(worst),
        "found": _found(parity, worst, max_accuracy_drop),
        "advice": [] if passed else _advice(parity, worst, max_accuracy_drop or 0.0),
    }


def refuse(judged: Verdict) -> None:
    """Raise where the verdict is against the bundle.

    Raises:
        ParityError: with what was found, what was allowed and what to try.
    """
    if not judged["passed"] and judged["max_accuracy_drop"] is not None:
        raise ParityError(
            f"{judged['headline']}; expected a loss of at most {100 * judged['max_accuracy_drop']:.3g} points "
            f"(--max-accuracy-drop). What to try: {'; '.join(judged['advice'])}"
        )


def headline(accuracy: Accuracy) -> str:
    """Top-1 before and after, in one line."""
    before, after = accuracy["original"]["top_1"], accuracy["bundle"]["top_1"]
    low, high = accuracy["difference_95"]
    return (
        f"accuracy {100 * before['share']:.1f} % -> {100 * after['share']:.1f} %, "
        f"{points(accuracy['difference'])} points ({points(low)} to {points(high)}) "
        f"in {accuracy['mode']} mode on {accuracy['pictures']} pictures"
    )


def points(share: float) -> str:
    """Percentage points, signed; never "-0.0"."""
    value = round(100 * share, 1)
    return f"{value:+.1f}" if value else "0.0"


def _found(parity: Parity, worst: Accuracy, bound: float | None) -> list[str]:
    """What a reader must know to weigh the headline, in sentences."""
    found = []
    data = parity["data"]
    if not data["users"]:
        found.append(
            "Measured on drawn birds of the aviary, not on your photographs: this says little about your classes. "
            "Give your photographs with --calib."
        )
    if bound is not None and -worst["difference_95"][0] > bound + _ROUNDING >= -worst["difference"]:
        found.append(
            f"With {data['pictures']} pictures a loss of up to {-100 * worst['difference_95'][0]:.1f} points cannot be "
            f"ruled out (95 %); the bound is {100 * bound:.3g}. More pictures narrow this."
        )
    found.append(_flips(worst))
    if any(row["kept"] is not None for row in parity["sensitivity"]):
        found.append(
            "How many layers are kept at a higher precision was decided on these same pictures: on others the loss may "
            "be larger."
        )
    for measure in parity["stages"]:
        if measure["within"] is False:
            where = measure["stage"] + (f" ({measure['mode']})" if measure["mode"] else "")
            found.append(
                f"{where}: {measure['name']} reaches {measure['worst']:.3g}, expected at most {measure['bound']:.3g} "
                "at this precision."
            )
            break  # what follows from a wrong stage is wrong too
    return found


def _flips(accuracy: Accuracy) -> str:
    lost, gained = accuracy["lost"], accuracy["gained"]
    if not lost + gained:
        return "No answer changed between right and wrong."
    return (
        f"Answers lost: {lost}, gained: {gained}; by chance alone, a split at least as uneven has p = "
        f"{accuracy['mcnemar_p']:.2g} (McNemar, exact)."
    )


def _advice(parity: Parity, worst: Accuracy, bound: float) -> list[str]:
    """What to try, the likeliest to help first."""
    precision = parity["bundle"]["precision"]
    names = {precision.get(part, "") for part in ("vision", "decoder", "head")}
    pictures = parity["data"]["pictures"]
    method = (parity["calibration"] or {}).get("method", "nearest")
    advice = []
    if not parity["data"]["users"]:
        advice.append("your own photographs, to calibrate and to measure on (--calib)")
    if method == "nearest" and any(name.startswith("int4") for name in names):
        advice.append("a method that looks at photographs (--method awq or gptq, with --calib)")
    elif method in _OTHER_METHOD:
        advice.append(f"another method (--method {_OTHER_METHOD[method]})")
    if any(name.startswith(_LOW_BITS) for name in names):
        advice.append("a higher precision (--precision int8, or fp16 where the target has it)")
    else:
        advice.append("a higher precision (--precision fp16 or fp32)")
    sensitive = [row["unit"] for row in parity["sensitivity"] if row["kept"] is None][:3]
    if sensitive:
        advice.append(f"a higher precision for the most sensitive layers ({', '.join(sensitive)})")
    if 1 / pictures > bound or worst["mcnemar_p"] > 0.05:
        advice.append(
            f"more photographs: one answer of {pictures} is {100 / pictures:.2g} points, and this loss may be chance "
            f"(p = {worst['mcnemar_p']:.2g})"
        )
    advice.append("a larger --max-accuracy-drop, if the loss is acceptable")
    return advice
