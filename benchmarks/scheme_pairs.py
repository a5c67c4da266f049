"""What a quantized model changes on the same pictures: against the original, and against its like rounded to nearest.

In: right classes [N] and log-probabilities [N, C] of the classes, uncalibrated; they are normalized over the classes
here. Out: JSON-ready measures. Percentages and points are of pictures; a difference is after less before. Knows no
bundles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.evaluate.paired import difference_interval, mcnemar_p, mean_interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def against_original(truths: Ints, original: Floats, bundle: Floats) -> dict[str, Any]:
    """How far a bundle is from the original.

    Returns:
        top_1: see `change`; changed: pictures with another answer, right or wrong; kl_nats: see `divergences`.
    """
    answers = original.argmax(axis=1), bundle.argmax(axis=1)
    return {
        "pictures": len(truths),
        "top_1": change(answers[0] == truths, answers[1] == truths),
        "changed": int((answers[0] != answers[1]).sum()),
        "kl_nats": mean(divergences(original, bundle)),
    }


def against_nearest(truths: Ints, original: Floats, nearest: Floats, fitted: Floats) -> dict[str, Any]:
    """What fitting weights to photographs is worth: "before" is the same layout rounded to nearest.

    Returns:
        top_1: right answers; agreement: answers that are the original's; kl_nats: of divergence from the original,
        negative where the fitted weights are closer to it.
    """
    answer, before, after = (scores.argmax(axis=1) for scores in (original, nearest, fitted))
    return {
        "pictures": len(truths),
        "top_1": change(before == truths, after == truths),
        "agreement": change(before == answer, after == answer),
        "kl_nats": mean(divergences(original, fitted) - divergences(original, nearest)),
    }


def divergences(original: Floats, bundle: Floats) -> Floats:
    """[N] KL divergence of the bundle's class probabilities from the original's: sum of p log(p / q), in nats."""
    log_p, log_q = (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True) for scores in (original, bundle))
    found: Floats = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return found


def change(before: Bools, after: Bools) -> dict[str, Any]:
    """A share of the same pictures before and after: 95 % interval of the difference (Newcombe's of pairs), pictures
    lost and gained, exact p of McNemar's test.
    """
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    ends = difference_interval(both, lost, gained, neither)
    return {
        "before_percent": round(100 * float(before.mean()), 2),
        "after_percent": round(100 * float(after.mean()), 2),
        "difference_points": round(100 * (gained - lost) / len(before), 2),
        "difference_95_points": [round(100 * end, 2) for end in ends],
        "lost": lost,
        "gained": gained,
        "mcnemar_p": float(f"{mcnemar_p(lost, gained):.3g}"),
    }


def mean(values: Floats) -> dict[str, Any]:
    """The mean over the pictures with its 95 % bootstrap interval."""
    return {"mean": round(float(values.mean()), 7), "mean_95": [round(end, 7) for end in mean_interval(values)]}
