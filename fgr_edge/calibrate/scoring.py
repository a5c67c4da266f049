"""Scores labelled photographs: what the model says of each, before any calibration.

In: an open bundle, photographs and their classes. Out: log-probabilities and features, photographs that cannot be
opened left out. Refuses data that cannot calibrate: too little, classes missing, scores that are no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.confidence import FOLDS, LEAST_PER_FOLD
from fgr_edge.calibrate.outliers import MIN_PHOTOGRAPHS
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import DataError, EngineError
from fgr_edge.evaluate.evaluation import NAMED_AT_MOST, Skipped, ask_all
from fgr_edge.runtime.evidence import Evidence
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.recognizer import Recognizer

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """log_probs: [N, C] by mode; features: [N, F]; classes: [N]; skipped: photographs that could not be opened.

    thoughts: N of them in reason mode, or none.
    """

    log_probs: dict[Mode, Floats]
    features: npt.NDArray[np.float32]
    classes: Ints
    skipped: list[Skipped]
    thoughts: tuple[str, ...] = ()


def score_pictures(
    recognizer: Recognizer,
    pictures: Sequence[LabelledPicture],
    classes: Ints,
    modes: Sequence[Mode],
    step: Callable[[int], None],
) -> Scored:
    """Evidence of every photograph that can be opened, in every mode.

    Raises:
        DataError: more than 5 % of them cannot be.
        EngineError: scores are NaN or infinite.
    """

    def ask(index: int) -> dict[Mode, Evidence]:
        return {mode: _evidence(recognizer, pictures[index], mode) for mode in modes}

    found, skipped = ask_all(ask, range(len(pictures)), pictures, lambda count: step(count * len(modes)))
    return Scored(
        {mode: np.stack([evidence[mode].log_probs for _, evidence in found]) for mode in modes},
        np.stack([evidence[modes[0]].features for _, evidence in found]),
        np.array([classes[index] for index, _ in found], np.int64),
        skipped,
        tuple(evidence["reason"].text for _, evidence in found) if "reason" in modes else (),
    )


def _evidence(recognizer: Recognizer, picture: LabelledPicture, mode: Mode) -> Evidence:
    evidence = recognizer.evidence(picture.path, mode=mode)
    if not np.isfinite(evidence.log_probs).all():
        raise EngineError(
            f"the {mode} scores of {picture.path} are NaN or infinite; expected numbers: check the bundle with "
            "float32 (`fgr-edge export --precision fp32`)"
        )
    return evidence


def check_classes(classes: Ints, labels: LabelSet, *, allow_missing: bool) -> list[str]:
    """The classes without a photograph.

    Raises:
        DataError: there are some, and `allow_missing` is not set; or there are too few photographs to fit.
    """
    least = max(FOLDS * LEAST_PER_FOLD, MIN_PHOTOGRAPHS)
    if len(classes) < least:
        raise DataError(
            f"{len(classes)} photographs to calibrate with, expected at least {least}, and better some hundreds; add "
            "photographs"
        )
    seen = set(classes.tolist())
    missing = [name for index, name in enumerate(labels.names) if index not in seen]
    if missing and not allow_missing:
        names = ", ".join(missing[:NAMED_AT_MOST])
        more = f" and {len(missing) - NAMED_AT_MOST} more" if len(missing) > NAMED_AT_MOST else ""
        raise DataError(
            f"{len(missing)} of the {len(labels)} classes have no photograph: {names}{more}. Add some of each, or go "
            "on without them by --allow-missing: nothing is then fitted or measured for them"
        )
    return missing
