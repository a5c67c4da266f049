"""A small head trained with mixed outliers (MixOE: Zhang et al., WACV 2023), in numpy, for `outlier_scores.py`.

In: features of photographs with their classes, and of drawings of something else. Out: a function of features [N, F]
that gives the largest probability [N] of the head, low for strange pictures. As in the paper: cross-entropy on the
photographs, plus 5 times that on mixtures, whose target is mixed of the class and of all classes alike. Mixed in
feature space: cutting a drawing into a photograph exchanges some of the picture tokens whose mean the features are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
HIDDEN, STEPS, BATCH = 128, 600, 256
RATE, DECAY = 1e-3, 0.1
BETA = 5.0


def train_head(
    photographs: Floats, classes: npt.NDArray[np.int64], drawings: Floats, *, steps: int = STEPS, batch: int = BATCH
) -> Callable[[Floats], Floats]:
    """One hidden layer of ReLU, trained by AdamW on `batch` photographs and as many mixtures a step; one seed."""
    rng = np.random.default_rng(0)
    center, spreads = photographs.mean(axis=0), photographs.std(axis=0)
    scale = spreads + 0.1 * spreads.mean()
    inside, outside = (photographs - center) / scale, (drawings - center) / scale
    names, places = np.unique(classes, return_inverse=True)
    truth = np.eye(len(names))[places]
    weights = [
        rng.normal(size=(inside.shape[1] + 1, HIDDEN)) / np.sqrt(inside.shape[1]),
        rng.normal(size=(HIDDEN + 1, len(names))) / np.sqrt(HIDDEN),
    ]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
    importance = np.repeat([1 / batch, BETA / batch], batch)[:, None]
    for step in range(1, steps + 1):
        rows = rng.integers(len(inside), size=batch)
        share = rng.uniform(size=(batch, 1))
        mixed = share * inside[rows] + (1 - share) * outside[rng.integers(len(outside), size=batch)]
        targets = np.concatenate([truth[rows], share * truth[rows] + (1 - share) / len(names)])
        slopes = _slopes(weights, np.concatenate([inside[rows], mixed]), targets, importance)
        for weight, slope, (first, second) in zip(weights, slopes, moments, strict=True):
            first += 0.1 * (slope - first)
            second += 0.001 * (slope**2 - second)
            change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            weight -= RATE * (change + DECAY * weight)
    return lambda features: _probabilities(weights, (features - center) / scale)[1].max(axis=1)


def _probabilities(weights: list[Floats], inputs: Floats) -> tuple[Floats, Floats]:
    """The hidden layer [N, H + 1] and probabilities [N, K]."""
    hidden = _with_one(np.maximum(_with_one(inputs) @ weights[0], 0))
    scores = hidden @ weights[1]
    shares: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return hidden, shares


def _slopes(weights: list[Floats], inputs: Floats, targets: Floats, importance: Floats) -> tuple[Floats, Floats]:
    """Of the weighted cross-entropy, by each layer's weights."""
    hidden, shares = _probabilities(weights, inputs)
    error = (shares - targets) * importance
    back = (error @ weights[1][:-1].T) * (hidden[:, :-1] > 0)
    return _with_one(inputs).T @ back, hidden.T @ error


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
