"""How strange a picture is: a score that says "of none of the classes" without asking the model for those words.

In: the picture in embedding space [F] and the log-probabilities of the classes [C], as in `Evidence`. Out: one number,
higher for stranger pictures; above `threshold` the picture is taken to be of none of the classes. It adds two things in
units of their spread over known pictures:

- the distance to the nearest calibration pictures (Sun et al., 2022, but with each channel divided by its own spread
  and the length of the embedding kept: a picture of nothing known has a short one);
- the log-odds that the model writes none of the names, from the sum of their probabilities (the energy of
  Liu et al., 2020, over names).

The numbers were fitted by `fgr-edge calibrate-labels` for the bundle's labels and one mode (after a thought the model
is surer of a name), and lie in the bundle's outliers_direct.npz and outliers_reason.npz, arrays only:

    center [F] float32, scale [F] float32       of each channel, over the calibration pictures
    reference [N, F] float16                    those pictures, less center, over scale
    distance [2] float64, odds [2] float64      mean and spread of each part over pictures whose class was left out
    threshold [] float64

Does not know how it was fitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError, EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.prompt import Mode

NEIGHBOURS = 3
LOWEST_ENERGY, HIGHEST_ENERGY = 1e-6, 100.0  # what float32 logits can tell from 0; beyond, every name is impossible
_ADVICE = "run `fgr-edge calibrate-labels` again"
_SHAPES = {"center": 1, "scale": 1, "reference": 2, "distance": 1, "odds": 1, "threshold": 0}

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over known pictures."""

    mean: float
    deviation: float

    def __call__(self, value: float) -> float:
        """`value` in standard deviations from the mean."""
        return (value - self.mean) / self.deviation


@dataclass(frozen=True, slots=True, eq=False)
class OutlierDetector:
    """A fitted score.

    Attributes:
        center, scale: [F] float32; a channel's mean and spread.
        reference: [N, F] float32, at least `NEIGHBOURS` pictures in those units.
        distance: of the mean distance to the `NEIGHBOURS` nearest pictures.
        odds: of the log-odds that none of the names is written.
        threshold: a score above it is of none of the classes.

    Raises:
        BundleError: shapes do not fit together, or a number is not finite or not positive where it divides.
    """

    center: Features
    scale: Features
    reference: Features
    distance: Spread
    odds: Spread
    threshold: float

    def __post_init__(self) -> None:
        features = self.center.shape
        if (
            len(features) != 1
            or not features[0]
            or self.scale.shape != features
            or self.reference.shape[1:] != features
        ):
            raise BundleError(
                f"the outlier score has center {list(self.center.shape)}, scale {list(self.scale.shape)} and reference "
                f"{list(self.reference.shape)}, expected [F], [F] and [N, F]; {_ADVICE}"
            )
        if len(self.reference) < NEIGHBOURS:
            raise BundleError(
                f"the outlier score has {len(self.reference)} reference pictures, expected at least {NEIGHBOURS}; "
                f"{_ADVICE}"
            )
        divisors = (self.distance.deviation, self.odds.deviation, *self.scale.tolist())
        numbers = (self.distance.mean, self.odds.mean, self.threshold, *divisors)
        finite = np.isfinite(numbers).all() and np.isfinite(self.center).all() and np.isfinite(self.reference).all()
        if not finite or min(divisors) <= 0:
            raise BundleError(
                f"the outlier score has a number that is not finite, or a spread that is not above 0; {_ADVICE}"
            )

    def score(self, features: Features, log_probs: Floats) -> float:
        """How strange a picture is; tens of microseconds for 300 reference pictures of 256 channels.

        Args:
            features: [F] of the picture.
            log_probs: [C], of the labels and the mode that it was fitted for; -inf where a best-first search did not
                go, which makes a picture look stranger by as much probability as was left unseen.

        Raises:
            BundleError: the features are of another length.
            EngineError: a value is NaN, or infinite where it must not be.
        """
        if features.shape != self.center.shape:
            raise BundleError(
                f"a picture has features {list(features.shape)}, the outlier score was fitted for "
                f"{list(self.center.shape)}; {_ADVICE}"
            )
        apart = self.reference - (features - self.center) / self.scale
        distance = mean_of_nearest(np.sqrt(np.einsum("nf,nf->n", apart, apart)))
        score = self.distance(distance) + self.odds(log_odds_of_none(log_probs))
        if not math.isfinite(score):
            raise EngineError(
                "a picture's features or log-probabilities are not finite numbers, so it has no outlier score; check "
                "the bundle with float32 (`fgr-edge export --precision fp32`)"
            )
        return score

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What the bundle's file holds; 2 bytes for each reference value, 8 for each channel."""
        return {
            "center": self.center,
            "scale": self.scale,
            "reference": self.reference.astype(np.float16),
            "distance": np.array([self.distance.mean, self.distance.deviation]),
            "odds": np.array([self.odds.mean, self.odds.deviation]),
            "threshold": np.array(self.threshold),
        }


def mean_of_nearest(distances: npt.NDArray[np.floating[Any]]) -> float:
    """Mean of the `NEIGHBOURS` smallest of [N] distances."""
    return float(np.partition(distances, NEIGHBOURS - 1)[:NEIGHBOURS].mean())


def log_odds_of_none(log_probs: Floats) -> float:
    """log((1 - p) / p), p the sum of the probabilities of all classes; NaN where a value is NaN or +inf.

    Args:
        log_probs: [C], of texts that exclude each other, so that p is at most 1 but for rounding.
    """
    if not log_probs.max() < np.inf:
        return math.nan
    energy = min(max(-float(np.logaddexp.reduce(log_probs)), LOWEST_ENERGY), HIGHEST_ENERGY)
    return math.log(math.expm1(energy))


def outliers_file(mode: Mode) -> str:
    """Name in the bundle of the score fitted for a mode."""
    return f"outliers_{mode}.npz"


def read_outliers(bundle: Bundle, mode: Mode) -> OutlierDetector | None:
    """The score that a bundle has for a mode; None where it has none.

    Raises:
        BundleError: the file is not as described.
    """
    name = outliers_file(mode)
    if name not in bundle:
        return None
    try:
        return outliers_from_arrays(bundle.arrays(name))
    except BundleError as error:
        raise BundleError(f"{bundle.file(name)}: {error}") from error


def outliers_from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> OutlierDetector:
    """The score that `OutlierDetector.arrays` describes; arrays of other names are ignored.

    Raises:
        BundleError: an array is missing, of a wrong number of dimensions, or not of floating point numbers.
    """
    for name, dimensions in _SHAPES.items():
        if name not in arrays:
            raise BundleError(f"the array {name!r} is missing, expected {', '.join(_SHAPES)}; {_ADVICE}")
        found = arrays[name]
        if found.dtype.kind != "f" or found.ndim != dimensions:
            raise BundleError(
                f"{name!r} is {found.dtype} {list(found.shape)}, expected floating point numbers in {dimensions} "
                f"dimensions; {_ADVICE}"
            )
    return OutlierDetector(
        center=arrays["center"].astype(np.float32),
        scale=arrays["scale"].astype(np.float32),
        reference=arrays["reference"].astype(np.float32),
        distance=_spread(arrays["distance"]),
        odds=_spread(arrays["odds"]),
        threshold=float(arrays["threshold"]),
    )


def _spread(values: npt.NDArray[Any]) -> Spread:
    if len(values) != 2:
        raise BundleError(f"a spread has {len(values)} numbers, expected mean and deviation; {_ADVICE}")
    return Spread(float(values[0]), float(values[1]))
