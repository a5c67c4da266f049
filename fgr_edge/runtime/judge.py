"""From scores to a decision: calibration, outlier score and thresholds of each mode, for one set of labels.

In: scores of the classes and the picture in embedding space. Out: a `Judgement`. Reads what `fgr-edge calibrate-labels`
left in the bundle; without it every best class is accepted, uncalibrated. Does not know engines or text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import LabelError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import MODES, Confidence, Decision, read_confidence
from fgr_edge.runtime.label_trie.label_scorer import ClassScores
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.outliers import OutlierDetector, read_outliers
from fgr_edge.runtime.prompt import Mode

log = logging.getLogger(__name__)


class Judgement(NamedTuple):
    """decision; shares: [C] probabilities, together at least 1 - rest; outlier_score: None where not fitted."""

    decision: Decision
    shares: npt.NDArray[np.float64]
    outlier_score: float | None


class Judge:
    """Decides for one set of labels.

    Args:
        bundle: whose calibration is read.
        labels: the classes.
        own: whether they are the bundle's own labels: then a calibration of others is an error. A caller's labels go
            without one, and the log says so.

    Raises:
        BundleError, LabelError: what was fitted cannot be used.
    """

    def __init__(self, bundle: Bundle, labels: LabelSet, *, own: bool) -> None:
        self._labels = labels
        self._uncalibrated = Confidence.uncalibrated(len(labels))
        self._confidence: dict[Mode, Confidence] = {}
        self._outliers: dict[Mode, OutlierDetector] = {}
        try:
            self._confidence = read_confidence(bundle, labels)
        except LabelError as error:
            if own:
                raise
            log.warning("probabilities are not calibrated: %s", error)
            return
        detectors = {mode: read_outliers(bundle, mode) for mode in MODES if mode in self._confidence}
        self._outliers = {mode: detector for mode, detector in detectors.items() if detector is not None}

    def calibrated(self, mode: Mode) -> bool:
        """Whether the mode was calibrated."""
        return mode in self._confidence

    def confidence(self, mode: Mode) -> Confidence:
        """The calibration of a mode; one that changes nothing where there is none."""
        return self._confidence.get(mode, self._uncalibrated)

    def judge(self, mode: Mode, scores: ClassScores, features: Callable[[], npt.NDArray[np.float32]]) -> Judgement:
        """Decide on one picture.

        Args:
            features: [F], the picture in embedding space; asked for where they count, for they may be on a GPU.

        Raises:
            EngineError: a score or a feature is not a number.
        """
        confidence = self.confidence(mode)
        # What was not visited counts as one more class, at its largest.
        shares = confidence.probabilities(scores.log_probs) * (1 - scores.rest)
        detector = self._outliers.get(mode)
        strange = None if detector is None else detector.score(features(), scores.log_probs)
        return Judgement(confidence.decide(shares, self._labels, strange), shares, strange)
