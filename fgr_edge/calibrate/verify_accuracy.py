"""The accuracy of a bundle repeated on labelled photographs, and compared with what was answered when it was made.

In: a bundle, photographs. Out: an `AccuracyReport`. parity.json, where the bundle has one, knows the answers by the
SHA-256 of the photographs' files. Direct mode, as the bundle's own labels are scored without a thought.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgr_edge.calibrate.verify_report import AccuracyReport
from fgr_edge.errors import BundleError
from fgr_edge.evaluate.evaluation import EvaluationConfig, ProgressBar, evaluate
from fgr_edge.evaluate.summary import share
from fgr_edge.runtime.bundle import PARITY, Bundle, sha256_of

# Another machine rounds otherwise and turns a few answers that hang by a thread, in both directions: of 1,265
# photographs, int8 changes 0.1 points against fp32. Where one point is lost, it is not rounding.
ALLOWED_DROP = 0.01


def verify_accuracy(
    bundle: Bundle, data: Path, progress: ProgressBar, *, images: Path | None = None, threads: int | None = None
) -> AccuracyReport:
    """Answer every photograph among the bundle's classes (those of the data, where it has none).

    Raises:
        DataError, LabelError: the photographs or their classes cannot be used.
        BundleError: parity.json is damaged.
    """
    stored = _stored_answers(bundle)
    config = EvaluationConfig(bundle.path, data, "closed-all", images=images, threads=threads)
    document = evaluate(config, progress).document
    outcomes = document["outcomes"]
    known = [(outcome, stored[sha]) for outcome in outcomes if (sha := _sha(outcome, stored)) is not None]
    then = share(before["bundle"]["label"] == before["truth"] for _, before in known)
    # The class's name as parity.json has it: a list may spell it otherwise.
    now = share(outcome["answer"] == before["truth"] for outcome, before in known)
    allowed = max(1, round(ALLOWED_DROP * len(known)))
    top_1 = share(outcome["right"] for outcome in outcomes)
    assert top_1 is not None  # an evaluation without photographs is an error
    return {
        "source": str(data),
        "photographs": len(outcomes),
        "skipped": len(document["skipped"]),
        "top_1": top_1,
        "known": len(known),
        "stored": then,
        "here": now,
        "same_answers": sum(outcome["answer"] == before["bundle"]["label"] for outcome, before in known)
        if known
        else None,
        "allowed_drop": allowed if known else None,
        "passed": then is None or now is None or then["right"] - now["right"] <= allowed,
    }


def _sha(outcome: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
    if not stored:
        return None
    digest = sha256_of(Path(outcome["path"]))
    return digest if digest in stored else None


def _stored_answers(bundle: Bundle) -> Mapping[str, Any]:
    """Of direct mode; none where there is no report, or it did not ask in that mode.

    Raises:
        BundleError: the report is not as this version writes it.
    """
    if PARITY not in bundle:
        return {}
    document = bundle.json(PARITY)
    try:
        answers: dict[str, Any] = next(
            (mode["answers"] for mode in document["accuracy"] if mode["mode"] == "direct"), {}
        )
        for answer in answers.values():
            _ = answer["truth"], answer["bundle"]["label"]
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{bundle.file(PARITY)} is no parity report of this version ({error!r}); export the bundle again"
        ) from error
    found: Mapping[str, Any] = answers
    return found
