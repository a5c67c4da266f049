"""Parity documents for tests, made by the code that makes real ones, of answers that are drawn."""

from __future__ import annotations

import numpy as np

from fgr_edge.calibrate.parity_accuracy import Picture, accuracy_of
from fgr_edge.calibrate.parity_document import SCHEMA_VERSION, Latency, Parity, Side
from fgr_edge.calibrate.parity_verdict import undecided
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode

LABELS = LabelSet.from_names(["Ember Finch", "Slate <b>Warbler</b>", "Moss Kingfisher"])


STAGES: tuple[tuple[str, Mode | None], ...] = (
    ("image_embeds", None),
    ("first_logits", "direct"),
    ("first_logits", "reason"),
)


def parity(*, pictures: int, lost: int, gained: int) -> Parity:
    """All pictures are of the first class; right in both but for those lost and gained."""
    rng = np.random.default_rng(0)
    before, after = (rng.dirichlet([20, 1, 1], pictures) for _ in range(2))
    after[:lost] = after[:lost, [1, 0, 2]]
    before[lost : lost + gained] = before[lost : lost + gained, [2, 1, 0]]
    rows = [Picture(f"{number:064x}", f"finch/{number}.png", 0) for number in range(pictures)]
    return {
        "schema_version": SCHEMA_VERSION,
        "original": _side("fp32", 29_000_000),
        "bundle": _side("int8", 9_000_000),
        "data": {
            "source": "photographs",
            "users": True,
            "pictures": pictures,
            "repeated": 0,
            "classes": 1,
            "labels": len(LABELS),
            "labels_sha256": LABELS.sha256,
            "sha256": "0" * 64,
            "skipped": [],
        },
        "stages": [
            {
                "stage": stage,
                "mode": mode,
                "name": "relative_error",
                "mean": 0.01,
                "worst": 0.02,
                "bound": 0.25,
                "within": True,
                "pictures": 8,
            }
            for stage, mode in STAGES
        ],
        "accuracy": [accuracy_of("direct", rows, np.log(before), np.log(after), LABELS)],
        "latency": {"original": _latency(2.0), "bundle": _latency(1.0)},
        "sensitivity": [],
        "calibration": None,
        "machine": {"cpu": None, "cores": 2, "os": "Linux", "python": "3.11.7", "packages": {"numpy": "2.4.6"}},
        "verdict": undecided(),
    }


def _side(precision: str, size: int) -> Side:
    return {
        "name": "nano",
        "target": "cpu",
        "precision": {**dict.fromkeys(("vision", "decoder", "head"), precision), "embedding": "bfloat16"},
        "graphs_sha256": "1" * 64,
        "checkpoint_digest": "2" * 64,
        "part_bytes": {"vision": size // 2, "decoder": size // 2, "embedding": 0, "other": 0},
        "total_bytes": size,
    }


def _latency(scale: float) -> Latency:
    return {
        "preprocess_ms": scale,
        "vision_ms": 5 * scale,
        "ttft_ms": 9 * scale,
        "tpot_ms": None,
        "answer_ms": 12 * scale,
        "runs": 16,
    }
