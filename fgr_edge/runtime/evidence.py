"""What the model says of one picture, before any calibration or decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.runtime.prediction import Timings


@dataclass(frozen=True, slots=True)
class Evidence:
    """Input of calibration, evaluation and outlier scores.

    Attributes:
        log_probs: [C] float64, log-probability of each class in the order of the labels; names and synonyms of a class
            are added up.
        features: [F] float32, the picture in embedding space: the mean of its picture tokens, as the decoder gets them.
        text: generated before the name: the thought in reason mode, "" in direct mode.
        timings: see `Timings`.
    """

    log_probs: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    text: str
    timings: Timings
