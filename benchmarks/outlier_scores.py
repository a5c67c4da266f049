"""Scores that tell pictures of known classes from others, as published, to compare with the one that fgr-edge ships.

In: `Known`, what the model says of calibration photographs. Out: for each name in `SCORES` a function of `Pictures`
that gives [N] scores, higher for stranger pictures. Numpy only; no constant was searched for: each is the paper's, a
round number, or follows from the sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.mixed_outliers import train_head
from fgr_edge.calibrate.outliers import fit_outliers
from fgr_edge.runtime.outliers import OutlierDetector, log_odds_of_none, mean_of_nearest

Floats = npt.NDArray[np.float64]
NEIGHBOURS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """features [N, F], log_probs [N, C], classes [N], -1 where it is none of them."""

    features: Floats
    log_probs: Floats
    classes: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: npt.NDArray[np.int64]) -> Pictures:
        return Pictures(self.features[rows], self.log_probs[rows], self.classes[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a score may be fitted on: photographs of known classes, and drawings of something else."""

    photographs: Pictures
    drawings: Pictures


Score = Callable[[Pictures], Floats]


def energies(pictures: Pictures) -> Floats:
    """Minus the log of the sum of the classes' probabilities (Liu et al., 2020)."""
    found: Floats = -np.logaddexp.reduce(pictures.log_probs, axis=1)
    return found


def max_softmax(known: Known) -> Score:
    """Hendrycks and Gimpel, 2017."""
    return lambda new: -np.exp(new.log_probs.max(axis=1) + energies(new))


def max_log_prob(known: Known) -> Score:
    """The largest log-probability of a name: as the largest logit (Hendrycks et al., 2022)."""
    return lambda new: -new.log_probs.max(axis=1)


def energy(known: Known) -> Score:
    """Liu et al., 2020, at temperature 1."""
    return energies


def mahalanobis(known: Known) -> Score:
    """To the nearest class mean, with one covariance for all classes (Lee et al., 2018), shrunk."""
    found = known.photographs
    means, within = _class_means(found)
    precision = np.linalg.inv(_shrunk_covariance(within))
    return lambda new: np.min([_quadratic(new.features - mean, precision) for mean in means], axis=0)


def relative_mahalanobis(known: Known) -> Score:
    """Less the distance to the mean of all photographs (Ren et al., 2021)."""
    nearest = mahalanobis(known)
    features = known.photographs.features
    center = features.mean(axis=0)
    precision = np.linalg.inv(_shrunk_covariance(features - center))
    return lambda new: nearest(new) - _quadratic(new.features - center, precision)


def nearest_normalised(known: Known) -> Score:
    """Distance to the k-th nearest photograph, all features of length 1 (Sun et al., 2022)."""
    reference = _unit(known.photographs.features)
    return lambda new: np.sort(_distances(_unit(new.features), reference), axis=1)[:, NEIGHBOURS - 1]


def nearest_by_channel(known: Known) -> Score:
    """The first part of the shipped score: mean distance to the nearest, each channel in units of its spread."""
    fitted = _shipped_fit(known)

    def score(new: Pictures) -> Floats:
        places = (new.features - fitted.center) / fitted.scale
        return np.array([mean_of_nearest(row) for row in _distances(places, fitted.reference)])

    return score


def residual(known: Known) -> Score:
    """Length of what the main directions of the photographs leave over: a quarter as many as channels."""
    features = known.photographs.features
    center = features.mean(axis=0)
    kept = min(features.shape[1] // 4, len(features) // 2)
    directions = np.linalg.svd(features - center, full_matrices=False)[2][:kept]
    return lambda new: _residual(new.features - center, directions)


def virtual_logit(known: Known) -> Score:
    """Residual and energy, each in units of its spread over the photographs: ViM (Wang et al., 2022).

    ViM scales the residual by the mean of the largest logits, which log-probabilities, at most 0, do not have.
    """
    return _sum(known, residual(known), log_odds)


def mahalanobis_and_energy(known: Known) -> Score:
    """The sum of both, each in units of its spread over the photographs."""
    return _sum(known, mahalanobis(known), log_odds)


def mixed_outliers(known: Known) -> Score:
    """A head that has seen drawings mixed into the photographs; score: minus its largest probability."""
    photographs = known.photographs
    surest = train_head(photographs.features, photographs.classes, known.drawings.features)
    return lambda new: -surest(new.features)


def shipped(known: Known) -> Score:
    """What `fgr-edge calibrate-labels` fits: nearest by channel, and energy."""
    fitted = _shipped_fit(known)
    return lambda new: np.array(
        [
            fitted.score(features, log_probs)
            for features, log_probs in zip(new.features.astype(np.float32), new.log_probs, strict=True)
        ]
    )


def log_odds(new: Pictures) -> Floats:
    """The energy, on the scale of log-odds, where known pictures are spread evenly."""
    return np.array([log_odds_of_none(row) for row in new.log_probs])


SCORES: dict[str, Callable[[Known], Score]] = {
    "max softmax (MSP)": max_softmax,
    "max log-probability": max_log_prob,
    "energy": energy,
    "Mahalanobis": mahalanobis,
    "relative Mahalanobis": relative_mahalanobis,
    "nearest, normalised (kNN)": nearest_normalised,
    "nearest, by channel": nearest_by_channel,
    "residual": residual,
    "MixOE head, drawn birds": mixed_outliers,
    "residual + energy (ViM)": virtual_logit,
    "Mahalanobis + energy": mahalanobis_and_energy,
    "nearest + energy (shipped)": shipped,
}
UNFITTED = ("max softmax (MSP)", "max log-probability", "energy")  # the same whatever the photographs


def _shipped_fit(known: Known) -> OutlierDetector:
    found = known.photographs
    return fit_outliers(found.features, found.classes, found.log_probs)


def _sum(known: Known, *scores: Score) -> Score:
    spreads = [(values.mean(), values.std()) for values in (score(known.photographs) for score in scores)]
    return lambda new: np.sum(
        [(score(new) - mean) / spread for score, (mean, spread) in zip(scores, spreads, strict=True)], axis=0
    )


def _class_means(found: Pictures) -> tuple[Floats, Floats]:
    """[K, F] means of the classes that are there, [N, F] differences from them."""
    names, places = np.unique(found.classes, return_inverse=True)
    means = np.stack([found.features[places == i].mean(axis=0) for i in range(len(names))])
    return means, found.features - means[places]


def _shrunk_covariance(centred: Floats) -> Floats:
    """Oracle approximating shrinkage towards a multiple of the identity (Chen et al., 2010): no constant to choose."""
    count, channels = centred.shape
    covariance = centred.T @ centred / count
    trace, of_square = np.trace(covariance), (covariance**2).sum()
    spread = (count + 1 - 2 / channels) * (of_square - trace**2 / channels)
    share = 1.0 if spread <= 0 else min(1.0, ((1 - 2 / channels) * of_square + trace**2) / spread)
    shrunk: Floats = (1 - share) * covariance + share * trace / channels * np.eye(channels)
    return shrunk


def _quadratic(apart: Floats, precision: npt.NDArray[np.floating[Any]]) -> Floats:
    found: Floats = np.einsum("nf,nf->n", apart @ precision, apart)
    return found


def _residual(apart: Floats, directions: Floats) -> Floats:
    left: Floats = np.linalg.norm(apart - apart @ directions.T @ directions, axis=1)
    return left


def _distances(new: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Floats:
    squares = (new**2).sum(axis=1)[:, None] + (reference**2).sum(axis=1) - 2 * new @ reference.T
    found: Floats = np.sqrt(np.maximum(squares, 0))
    return found


def _unit(features: Floats) -> Floats:
    found: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    return found
