"""What calibration is worth on photographs that it never saw: `python -m benchmarks.nano_confidence BUNDLE`.

A copy of the bundle is calibrated on the grocery validation photographs as a user would (`fgr-edge calibrate-labels`);
then every test photograph, and the photographs of clothes, are scored and decided on. Prints a table; the last line is
one JSON document. Test photographs and clothes fit nothing.

    python -m benchmarks.nano_confidence BUNDLE [--grocery DIR] [--clothes DIR] [--labels FILE] [--mode direct|reason]
                                         [--risk 0.05] [--json FILE]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe_machine
from benchmarks.report import cell, publish, table
from fgr_edge import Recognizer
from fgr_edge.calibrate.label_calibration import CalibrationConfig, calibrate_labels
from fgr_edge.data.labelled import read_labelled
from fgr_edge.evaluate.metrics import brier_score, expected_calibration_error, negative_log_likelihood, wilson_interval
from fgr_edge.export.progress import progress_bar
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import Decision, Floats, softmax
from fgr_edge.runtime.evidence import Evidence
from fgr_edge.runtime.label_trie.label_scorer import ClassScores
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode


def figures(probabilities: Floats, classes: npt.NDArray[np.int64]) -> dict[str, float]:
    """How good probabilities [N, C] are."""
    best = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(best)), best]
    return {
        "top_1_percent": round(100 * float((best == classes).mean()), 2),
        "ece": round(expected_calibration_error(sure, best == classes), 4),
        "nll": round(negative_log_likelihood(probabilities, classes), 4),
        "brier": round(brier_score(probabilities, classes), 4),
    }


def decided(recognizer: Recognizer, mode: Mode, evidence: Sequence[Evidence]) -> list[Decision]:
    """What the calibrated bundle decides on each picture."""
    judge = recognizer._judge
    found = [(ClassScores(one.log_probs, 0.0, 0), one.features) for one in evidence]
    return [judge.judge(mode, scores, partial(np.asarray, features)).decision for scores, features in found]


def answers(decisions: Sequence[Decision], truths: Sequence[int], labels: LabelSet) -> dict[str, Any]:
    """Answered, wrong among them, how far up; a level above is right if the class is below it."""
    given = [
        (one.label, one.level, truth)
        for one, truth in zip(decisions, truths, strict=True)
        if one.label is not None and one.level is not None
    ]
    wrong = sum(
        labels.names[truth] != label if level == 0 else truth not in labels.groups[label]
        for label, level, truth in given
    )
    ends = wilson_interval(wrong, len(given)) if given else None
    return {
        "answered_percent": round(100 * len(given) / len(decisions), 2),
        "wrong_percent": round(100 * wrong / len(given), 2) if given else None,
        "wrong_95_percent": None if ends is None else [round(100 * end, 2) for end in ends],
        "mean_level": round(float(np.mean([level for _, level, _ in given])), 3) if given else None,
        "refused_as_outlier_percent": _refused(decisions),
    }


def _refused(decisions: Sequence[Decision]) -> float:
    return round(100 * float(np.mean([one.abstained_because == "outlier" for one in decisions])), 2)


def measure(bundle: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Calibrate `bundle` and measure it."""
    val, test = options.grocery / "val.txt", read_labelled(options.grocery / "test.txt")
    config = CalibrationConfig(
        bundle, val, (options.mode,), options.risk, labels=options.labels, allow_missing=True, force=True
    )
    fit = calibrate_labels(config, partial(progress_bar, quiet=True))["modes"][0]
    recognizer = Recognizer(bundle)
    labels = recognizer.labels
    assert labels is not None
    index = {name: number for number, name in enumerate(labels.names)}
    truths = np.array([index[picture.label] for picture in test])
    seen = [recognizer.evidence(picture.path, mode=options.mode) for picture in test]
    strange = [recognizer.evidence(path, mode=options.mode) for path in sorted(options.clothes.glob("*.jpg"))]
    log_probs = np.stack([one.log_probs for one in seen])
    confidence = recognizer._judge.confidence(options.mode)
    clothes = decided(recognizer, options.mode, strange)
    return {
        "photographs": {"val": fit["photographs"], "test": len(test), "clothes": len(strange)},
        "risk": options.risk,
        "fit": {key: fit[key] for key in ("temperature", "prior_strength", "threshold", "design_effect")},
        "before": figures(softmax(log_probs), truths),
        "after": figures(confidence.probabilities(log_probs), truths),
        "test": answers(decided(recognizer, options.mode, seen), truths.tolist(), labels),
        "clothes": {
            "refused_percent": round(100 * float(np.mean([one.label is None for one in clothes])), 2),
            "refused_as_outlier_percent": _refused(clothes),
        },
    }


def show(document: dict[str, Any]) -> None:
    """Before and after, then what is answered."""
    rows = [(name, *(cell(document[when][name], 3) for when in ("before", "after"))) for name in document["before"]]
    print(table(("test", "before", "after"), rows))
    for part in ("fit", "test", "clothes"):
        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in document[part].items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--grocery", type=Path, default=Path("../shared/grocery"))
    parser.add_argument("--clothes", type=Path, default=Path("../shared/ood_clothing"))
    parser.add_argument("--labels", type=Path, default=Path("models/nano/labels_grocery.csv"))
    parser.add_argument("--mode", choices=("direct", "reason"), default="direct")
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(options.bundle, Path(folder) / "bundle")
        document = {
            "benchmark": "nano_confidence",
            "precision": Bundle.open(copy).manifest["precision"]["decoder"],
            "mode": options.mode,
            **measure(copy, options),
            "machine": describe_machine(),
        }
    show(document)
    publish(document, options.json)


if __name__ == "__main__":
    main()
