"""Answers before and after, on the same pictures: what changed, and whether by more than chance.

In: log-probabilities [N, C] of the original and of the finished bundle, right classes [N]. Out: an `Accuracy`. Knows no
bundles and opens no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.parity_document import Accuracy, Answer, Fit, Flip
from fgr_edge.evaluate.metrics import expected_calibration_error, losses_of, reliability_bins
from fgr_edge.evaluate.paired import difference_interval, mcnemar_p, mean_interval
from fgr_edge.evaluate.summary import share
from fgr_edge.runtime.confidence import softmax
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode

Floats = npt.NDArray[np.float64]
_ORDER = ("lost", "gained", "moved")


@dataclass(frozen=True, slots=True)
class Picture:
    """sha256: of the file; path: to name it by; truth: its class, by index."""

    sha256: str
    path: str
    truth: int


def accuracy_of(
    mode: Mode, pictures: Sequence[Picture], original: Floats, bundle: Floats, labels: LabelSet
) -> Accuracy:
    """Compare the answers.

    Args:
        original, bundle: [N, C] log-probabilities of the classes.
    """
    truths = np.array([picture.truth for picture in pictures], np.int64)
    sides = [softmax(scores) for scores in (original, bundle)]
    right = [shares.argmax(axis=1) == truths for shares in sides]
    both, lost, gained, neither = (
        int(flags.sum())
        for flags in (right[0] & right[1], right[0] & ~right[1], ~right[0] & right[1], ~right[0] & ~right[1])
    )
    before, after = (
        [_answer(row, picture.truth, labels) for row, picture in zip(shares, pictures, strict=True)] for shares in sides
    )
    change = losses_of(sides[0], truths) - losses_of(sides[1], truths)
    return {
        "mode": mode,
        "pictures": len(pictures),
        "original": _fit(sides[0], right[0], truths),
        "bundle": _fit(sides[1], right[1], truths),
        "difference": (gained - lost) / len(pictures),
        "difference_95": difference_interval(both, lost, gained, neither),
        "lost": lost,
        "gained": gained,
        "mcnemar_p": mcnemar_p(lost, gained),
        "log_likelihood_change": float(change.mean()),
        "log_likelihood_change_95": mean_interval(change),
        "flips": _flips(pictures, before, after, labels),
        "answers": {
            picture.sha256: {
                "path": picture.path,
                "truth": labels.names[picture.truth],
                "original": one,
                "bundle": other,
            }
            for picture, one, other in zip(pictures, before, after, strict=True)
        },
    }


def _fit(shares: Floats, right: npt.NDArray[np.bool_], truths: npt.NDArray[np.int64]) -> Fit:
    sure = shares.max(axis=1)
    top_1 = share(right.tolist())
    assert top_1 is not None
    return {
        "top_1": top_1,
        "ece": expected_calibration_error(sure, right),
        "nll": float(losses_of(shares, truths).mean()),
        "reliability": [
            {"confidence": part.confidence, "accuracy": part.accuracy, "count": part.count}
            for part in reliability_bins(sure, right)
        ],
    }


def _answer(shares: Floats, truth: int, labels: LabelSet) -> Answer:
    best = int(shares.argmax())
    return {
        "label": labels.names[best],
        "probability": float(shares[best]),
        "truth_probability": float(shares[truth]),
    }


def _flips(
    pictures: Sequence[Picture], original: Sequence[Answer], bundle: Sequence[Answer], labels: LabelSet
) -> list[Flip]:
    found: list[Flip] = []
    for picture, before, after in zip(pictures, original, bundle, strict=True):
        if before["label"] != after["label"]:
            truth = labels.names[picture.truth]
            kind = "lost" if before["label"] == truth else "gained" if after["label"] == truth else "moved"
            found.append({"sha256": picture.sha256, "kind": kind, "truth": truth, "original": before, "bundle": after})
    return sorted(found, key=lambda flip: (_ORDER.index(flip["kind"]), -flip["original"]["probability"]))
