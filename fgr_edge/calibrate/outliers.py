"""Fits the outlier score of `runtime/outliers.py` on labelled photographs of known classes alone.

In: features [N, F], classes [N] and log-probabilities [N, C] of the photographs, in the mode that will be used. Out: an
`OutlierDetector` with its threshold. No picture of anything else is needed.

Every photograph is scored as if its whole class were missing from the calibration: photographs of one class are often
taken in a row, so that leaving out one alone finds its neighbours a moment away and sets a threshold that refuses
tomorrow's photographs; and some classes will really be missing. The photographs should be ones that the model was not
trained on: of its training photographs it is too sure.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError, DataError, EngineError
from fgr_edge.runtime.outliers import NEIGHBOURS, OutlierDetector, Spread, log_odds_of_none

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MIN_PHOTOGRAPHS = 20
MAX_REFERENCE = 2000  # photographs kept: they and their distances to each other stay within some tens of megabytes
SCALE_FLOOR = 0.1  # of the mean spread of all channels: a channel that never moves must not count without bound
ODDS_FLOOR = 0.1  # smallest spread of log-odds; a model that is sure of every photograph has none


def fit_outliers(
    features: npt.NDArray[np.floating[Any]], classes: Ints, log_probs: Floats, *, keep: float = 0.95
) -> OutlierDetector:
    """Fit the score, and the threshold that keeps a share of known pictures.

    Args:
        features: [N, F], at least `MIN_PHOTOGRAPHS`.
        classes: [N], the right class of each; classes may be missing.
        log_probs: [N, C].
        keep: share of pictures of known classes that the threshold should let through, from 0 to 1.

    Raises:
        DataError: too few photographs, or all look the same to the model.
        EngineError: a value is NaN or infinite.
        ConfigError: `keep` is not between 0 and 1.
    """
    _check(features, classes, log_probs)
    kept = _spread_over_classes(classes)
    features, classes = features[kept].astype(np.float32), classes[kept]
    center = features.mean(axis=0)
    spreads = features.std(axis=0)
    scale = spreads + SCALE_FLOOR * spreads.mean()
    if not scale.min() > 0:
        raise DataError(
            f"{len(features)} photographs have all the same features; expected different pictures: look at the data"
        )
    reference = (features - center) / scale
    distances = held_out_distances(reference, classes)
    odds = np.array([log_odds_of_none(row) for row in log_probs[kept]])
    distance_spread = Spread(float(distances.mean()), float(distances.std()))
    odds_spread = Spread(float(odds.mean()), max(float(odds.std()), ODDS_FLOOR))
    if not distance_spread.deviation > 0:
        raise DataError(
            f"{len(features)} photographs are all equally far from each other; expected different pictures: look at "
            "the data"
        )
    scores = np.array(
        [distance_spread(d) + odds_spread(o) for d, o in zip(distances.tolist(), odds.tolist(), strict=True)]
    )
    return OutlierDetector(center, scale, reference, distance_spread, odds_spread, threshold_for(scores, keep))


def threshold_for(scores_of_known: Floats, keep: float = 0.95) -> float:
    """The threshold that lets through a share `keep` of pictures like those that were scored.

    It is the order statistic that keeps that share of new pictures on average, not of these (split conformal
    prediction, Vovk et al., 2005): slightly higher; the largest score, where there are too few.

    Args:
        scores_of_known: [N], of pictures that the score was not fitted on, or as if it had not been.

    Raises:
        ConfigError: `keep` is not between 0 and 1.
    """
    if not 0 < keep < 1:
        raise ConfigError(f"keep is {keep}, expected a share between 0 and 1, such as 0.95")
    count = len(scores_of_known)
    rank = min(count, math.ceil((count + 1) * keep))
    return float(np.sort(scores_of_known)[rank - 1])


def held_out_distances(reference: Features, classes: Ints) -> Floats:
    """Mean distance [N] of each photograph to its nearest of other classes; of other photographs, where few differ."""
    squares = np.einsum("nf,nf->n", reference, reference)
    squared = squares[:, None] + squares - 2 * reference @ reference.T  # [N, N]
    apart = classes[:, None] != classes
    if apart.sum(axis=1).min() < NEIGHBOURS:
        apart = ~np.eye(len(classes), dtype=bool)
    squared[~apart] = np.inf
    nearest = np.partition(squared, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    distances: Floats = np.sqrt(np.maximum(nearest, 0)).mean(axis=1, dtype=np.float64)
    return distances


def _spread_over_classes(classes: Ints) -> Ints:
    """At most `MAX_REFERENCE` rows, each class in proportion; all rows, in order, where they are not more."""
    if len(classes) <= MAX_REFERENCE:
        return np.arange(len(classes))
    by_class = np.argsort(classes, kind="stable")
    return np.sort(by_class[np.linspace(0, len(classes) - 1, MAX_REFERENCE).astype(np.int64)])


def _check(features: npt.NDArray[np.floating[Any]], classes: Ints, log_probs: Floats) -> None:
    count = len(classes)
    if features.ndim != 2 or log_probs.ndim != 2 or not len(features) == len(log_probs) == count:
        raise DataError(
            f"features {list(features.shape)}, classes {list(classes.shape)} and log-probabilities "
            f"{list(log_probs.shape)} do not fit together; expected [N, F], [N] and [N, C]"
        )
    if count < MIN_PHOTOGRAPHS:
        raise DataError(
            f"{count} photographs are too few to tell strange pictures from known ones; expected at least "
            f"{MIN_PHOTOGRAPHS}, better 4 of each class"
        )
    if not np.isfinite(features).all() or np.isnan(log_probs).any() or log_probs.max() == np.inf:
        raise EngineError(
            "the features or log-probabilities of a photograph are not finite numbers; check the bundle with float32 "
            "(`fgr-edge export --precision fp32`)"
        )
