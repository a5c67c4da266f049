"""From log-probabilities of class names to probabilities that mean what they say, and to an answer or none.

In: log-probabilities [C] in the order of the labels, which may be -inf for classes that were not visited. Out:
calibrated probabilities [C], and a `Decision`: the class, a level above it, or nothing. The numbers were fitted by
`fgr-edge calibrate-labels` and lie in the bundle's confidence.json:

    {"schema_version": 1, "labels_sha256": digest of the labels they were fitted for,
     "modes": {"direct": {...}, "reason": {...}}}        keys of a mode: see `Confidence`; others are ignored

The prior correction is stored by class name, so the labels may come in another order. Does not know how it was fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError, EngineError, LabelError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode

CONFIDENCE = "confidence.json"
SCHEMA_VERSION = 1
MODES: tuple[Mode, ...] = ("direct", "reason")
_ADVICE = "run `fgr-edge calibrate-labels` again"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is answered.

    Attributes:
        label: a class, or a level above classes; None where nothing is answered.
        probability: of `label`.
        level: 0 for a class, 1 for its parent, 2 for that one's parent, ...
        abstained_because: "unsure", or "outlier": the picture is of none of the classes.
    """

    label: str | None
    probability: float | None
    level: int | None
    abstained_because: Literal["unsure", "outlier"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """Calibration of one mode.

    Attributes:
        temperature: log-probabilities are divided by it; above 1 the model was too sure.
        bias: [C] subtracted from the log-probabilities: the log of how much too often a class was named.
        accept_probability: a class at least so probable is answered; None: no threshold reached the risk, none is.
        accept_parent_probability: the same for levels above classes.
        risk: largest share of wrong answers among all answers that the thresholds were fitted to; 1 where they bound
            nothing.
        risk_confidence: probability that the fit kept it.
        photographs: that it was fitted on.
        outlier_threshold: an outlier score above it is of none of the classes; None: not fitted.

    Raises:
        BundleError: a number is outside its range.
    """

    temperature: float
    bias: Floats
    accept_probability: float | None
    accept_parent_probability: float | None
    risk: float
    risk_confidence: float
    photographs: int
    outlier_threshold: float | None = None

    def __post_init__(self) -> None:
        checks = {
            "temperature": self.temperature > 0 and math.isfinite(self.temperature),
            "bias": self.bias.ndim == 1 and bool(np.isfinite(self.bias).all()),
            "accept_probability": _is_threshold(self.accept_probability),
            "accept_parent_probability": _is_threshold(self.accept_parent_probability),
            "risk": 0 < self.risk <= 1,
            "risk_confidence": 0 <= self.risk_confidence < 1,
            "photographs": self.photographs >= 0,
            "outlier_threshold": self.outlier_threshold is None or math.isfinite(self.outlier_threshold),
        }
        for name, fits in checks.items():
            if not fits:
                raise BundleError(f"the calibration has {name} {getattr(self, name)}, outside its range; {_ADVICE}")

    @classmethod
    def uncalibrated(cls, classes: int) -> Confidence:
        """Probabilities as the model gives them, every answer accepted: for labels that were never calibrated."""
        return cls(1.0, np.zeros(classes), 0.0, None, risk=1.0, risk_confidence=0.0, photographs=0)

    def probabilities(self, log_probs: npt.NDArray[np.floating[Any]]) -> Floats:
        """Calibrated probabilities, softmax((log_probs - bias) / temperature).

        Args:
            log_probs: [C] or [N, C]; -inf has probability 0.

        Returns:
            The same shape; the last axis adds up to 1 over the classes that are not -inf.

        Raises:
            EngineError: a value is NaN or +inf, or all are -inf.
            LabelError: there are not C values.
        """
        if log_probs.shape[-1] != len(self.bias):
            raise LabelError(
                f"{log_probs.shape[-1]} log-probabilities and a calibration of {len(self.bias)} classes; score the "
                f"labels that were calibrated, or {_ADVICE}"
            )
        largest = log_probs.max(axis=-1, keepdims=True)  # NaN if any is
        if not np.isfinite(largest).all():
            raise EngineError(
                "the engine gave log-probabilities that are NaN, or that are infinite for every class; expected finite "
                "ones: check the bundle with float32 (`fgr-edge export --precision fp32`)"
            )
        return softmax((log_probs - self.bias) / self.temperature)

    def decide(self, probabilities: Floats, labels: LabelSet, outlier_score: float | None = None) -> Decision:
        """Answer a class if it is sure enough, else the nearest level above that is, else nothing.

        Args:
            probabilities: [C] from `probabilities`.
            labels: whose order they are in.
            outlier_score: higher is stranger; None leaves the outlier rule out.

        Raises:
            EngineError: the outlier score is NaN.
        """
        if outlier_score is not None and self.outlier_threshold is not None:
            if math.isnan(outlier_score):
                raise EngineError("the outlier score is NaN; expected a number: check the bundle with float32")
            if outlier_score > self.outlier_threshold:
                return Decision(None, None, None, "outlier")
        best = int(probabilities.argmax())
        if self.accept_probability is not None and probabilities[best] >= self.accept_probability:
            return Decision(labels.names[best], float(probabilities[best]), 0, None)
        if self.accept_parent_probability is not None:
            for level, name, probability in best_groups(probabilities, labels):
                if probability >= self.accept_parent_probability:
                    return Decision(name, probability, level, None)
        return Decision(None, None, None, "unsure")


def softmax(scores: Floats) -> Floats:
    """Along the last axis; -inf becomes 0."""
    shares: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def best_groups(probabilities: Floats, labels: LabelSet) -> list[tuple[int, str, float]]:
    """(level, name, probability) of the most probable group of each level, from level 1 up.

    A group's probability is the sum over all classes below it. The group need not hold the most probable class: five
    apples at 0.15 each outweigh a pear at 0.25. Classes are looked at from the most probable down, until those left
    cannot make up a better group: a few, however many labels there are.
    """
    order = np.argsort(-probabilities, kind="stable")
    left = probabilities.sum() - np.cumsum(probabilities[order])
    found: list[tuple[int, str, float]] = []
    for level in range(1, max((len(labels.ancestors(int(index))) for index in order), default=0) + 1):
        best: tuple[int, str, float] | None = None
        seen: set[str] = set()
        for place, index in enumerate(order):
            names = labels.ancestors(int(index))[level - 1 : level]
            if names and names[0] not in seen:
                seen.add(names[0])
                mass = float(probabilities[list(labels.groups[names[0]])].sum())
                if best is None or mass > best[2]:
                    best = (level, names[0], mass)
            if best is not None and left[place] <= best[2]:
                break
        if best is not None:
            found.append(best)
    return found


def read_confidence(bundle: Bundle, labels: LabelSet) -> dict[Mode, Confidence]:
    """The calibrations in a bundle's confidence.json; {} where it has none.

    Raises:
        BundleError: the file is not as described.
        LabelError: it was fitted for other labels.
    """
    if CONFIDENCE not in bundle:
        return {}
    where = bundle.file(CONFIDENCE)
    document = _document(where)
    if document["labels_sha256"] != labels.sha256:
        raise LabelError(
            f"{where} was fitted for other labels than these {len(labels)}; their calibration is not applied to them: "
            f"use the labels it was fitted for, or calibrate these with `fgr-edge calibrate-labels {bundle.path} DATA "
            "--labels FILE --force`"
        )
    return {mode: _read_mode(part, labels, f"{where}: {mode}") for mode, part in document["modes"].items()}


def _document(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}); {_ADVICE}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is not int or version < 1:
        raise BundleError(f"{path} has no schema_version; expected a calibration: {_ADVICE}")
    if version > SCHEMA_VERSION:
        raise BundleError(f"{path} has schema_version {version}, this fgr-edge reads {SCHEMA_VERSION}; upgrade it")
    modes = value.get("modes")
    if not isinstance(value.get("labels_sha256"), str) or not isinstance(modes, dict) or not set(modes) <= set(MODES):
        raise BundleError(f"{path} needs labels_sha256, and modes among {', '.join(MODES)}; {_ADVICE}")
    return cast(dict[str, Any], value)


def _read_mode(part: object, labels: LabelSet, where: str) -> Confidence:
    if not isinstance(part, dict):
        raise BundleError(f"{where} is a {type(part).__name__}, expected an object; {_ADVICE}")
    try:
        return Confidence(
            temperature=_number(part, "temperature"),
            bias=_bias(part.get("bias"), labels),
            accept_probability=_number_or_none(part, "accept_probability"),
            accept_parent_probability=_number_or_none(part, "accept_parent_probability"),
            risk=_number(part, "risk"),
            risk_confidence=_number(part, "risk_confidence"),
            photographs=_whole(part, "photographs"),
            outlier_threshold=_number_or_none(part, "outlier_threshold"),
        )
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from error


def _bias(part: object, labels: LabelSet) -> Floats:
    if not isinstance(part, Mapping):
        raise BundleError(f"bias is a {type(part).__name__}, expected an object of class names; {_ADVICE}")
    strangers = sorted(set(part) - set(labels.names))
    if strangers:
        raise BundleError(f"bias names {strangers[0]!r}, which is no class of the labels; {_ADVICE}")
    return np.array([_number(part, name) if name in part else 0.0 for name in labels.names])


def _number(part: Mapping[str, Any], key: str) -> float:
    return float(_typed(part, key, _is_number, "a number"))


def _number_or_none(part: Mapping[str, Any], key: str) -> float | None:
    return None if key in part and part[key] is None else _number(part, key)


def _whole(part: Mapping[str, Any], key: str) -> int:
    return int(_typed(part, key, lambda value: type(value) is int, "a whole number"))


def _typed(part: Mapping[str, Any], key: str, fits: Callable[[object], bool], expected: str) -> Any:
    if key not in part or not fits(part[key]):
        raise BundleError(f"found {str(part.get(key))[:80]!r} under {key!r}, expected {expected}; {_ADVICE}")
    return part[key]


def _is_number(value: object) -> bool:
    whole = type(value) is int and abs(value) < 2**53  # float() refuses larger ones
    return whole or (isinstance(value, float) and math.isfinite(value))


def _is_threshold(value: float | None) -> bool:
    return value is None or 0 <= value <= 1


def _refuse_constant(text: str) -> float:
    raise ValueError(f"it contains {text}")
