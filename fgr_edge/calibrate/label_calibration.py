"""Calibrates a bundle on labelled photographs: scores them, fits, and stores the result in the bundle.

In: a bundle, photographs with their classes. Out: confidence.json and outliers_<mode>.npz in the bundle, and one
document for each mode. The caller brings the progress bar and prints. Labels from a file become the bundle's own: a
bundle's calibration is always of its own labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.confidence import Calibration, fit_calibration, out_of_fold, wrong_answers
from fgr_edge.calibrate.confidence_report import Measured, measure, notes_on
from fgr_edge.calibrate.outliers import fit_outliers
from fgr_edge.calibrate.scoring import Scored, check_classes, score_pictures
from fgr_edge.calibrate.thresholds import Options, design_effect, fit_threshold, options_of
from fgr_edge.data.labelled import read_labelled
from fgr_edge.errors import ConfigError, OutputExistsError
from fgr_edge.evaluate.evaluation import Skipped, class_indices
from fgr_edge.runtime.bundle import LABELS, TOKENIZER, Bundle, sha256_of
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from fgr_edge.runtime.confidence import CONFIDENCE, MODES, SCHEMA_VERSION, softmax
from fgr_edge.runtime.guessing.phrases import PHRASES, save_phrases
from fgr_edge.runtime.label_trie.label_scorer import compile_frames
from fgr_edge.runtime.labels import LabelSet, read_labels
from fgr_edge.runtime.outliers import OutlierDetector, outliers_file
from fgr_edge.runtime.prompt import Mode, PromptBuilder, PromptSpec
from fgr_edge.runtime.recognizer import Recognizer
from fgr_edge.runtime.specs import read_spec
from fgr_edge.runtime.stored_labels import StoredLabels

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """What to calibrate.

    Attributes:
        bundle: its folder; it is changed.
        data: labelled photographs, see `data.labelled`.
        modes: to calibrate; others that the bundle has stay.
        risk: largest share of wrong answers among those given.
        delta: probability that a threshold does not keep it.
        labels: a file of class names that becomes the bundle's; None takes the bundle's own.
        allow_missing: go on where classes have no photograph.
        independent: photographs of a class were taken at different times and places; else those of one class count as
            one occasion, as photographs taken in a row do.
        force: replace a calibration, or other labels, that the bundle has.
        threads: of one operator; None takes one per core.

    Raises:
        ConfigError: an option makes no sense.
    """

    bundle: Path
    data: Path
    modes: tuple[Mode, ...] = ("direct",)
    risk: float = 0.05
    delta: float = 0.1
    labels: Path | None = None
    allow_missing: bool = False
    independent: bool = False
    force: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("risk", self.risk), ("delta", self.delta)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} is {value}, expected a share between 0 and 1, such as 0.05")
        if not self.modes:
            raise ConfigError("no mode to calibrate; expected direct, reason or both")


class ModeReport(TypedDict):
    """One mode: how it was fitted, and every figure before and after, on photographs left out of the fit."""

    mode: Mode
    photographs: int
    classes: int
    classes_with_photographs: int
    risk: float
    delta: float
    independent: bool
    design_effect: float
    temperature: float
    prior_strength: float
    threshold: float | None
    before: Measured
    after: Measured
    notes: list[str]


class Report(TypedDict):
    """The document of `calibrate-labels --json` and report.json."""

    bundle: str
    data: str
    modes: list[ModeReport]
    skipped: list[Skipped]


@dataclass(frozen=True, slots=True, eq=False)
class FittedMode:
    """What is stored of a mode, and what is told of it."""

    calibration: Calibration
    threshold: float | None
    outliers: OutlierDetector
    report: ModeReport


def calibrate_labels(config: CalibrationConfig, progress: ProgressBar) -> Report:
    """Score the photographs, fit every mode, store it in the bundle.

    Raises:
        DataError: see `read_labelled`; classes that the labels lack, classes without a photograph, too few photographs,
            more than 5 % of them that cannot be opened.
        OutputExistsError: the bundle has such a calibration, or other labels, and `force` is not set.
        EngineError: scores are NaN.
        BundleError, LabelError, StorageError, MissingExtraError: what cannot be opened, used or written.
    """
    bundle = Bundle.open(config.bundle)
    labels = _labels(bundle, config)
    kept = _kept_modes(bundle, labels, config)
    pictures = read_labelled(config.data)
    classes = np.array(class_indices(pictures, labels), np.int64)
    check_classes(classes, labels, allow_missing=config.allow_missing)
    recognizer = Recognizer(config.bundle, labels, threads=config.threads)
    with progress("scoring", len(pictures) * len(config.modes)) as step:
        scored = score_pictures(recognizer, pictures, classes, config.modes, step)
    missing = check_classes(scored.classes, labels, allow_missing=config.allow_missing)
    prompts = PromptBuilder(bundle.file(TOKENIZER), read_spec(PromptSpec, bundle.manifest["prompt"], "prompt"))
    lengths = np.array([len(prompts.encode_text(name)) for name in labels.names], np.int64)
    fitted = [fit_mode(mode, scored, labels, lengths, missing, config) for mode in config.modes]
    for one in fitted:
        for note in one.report["notes"]:
            log.warning("%s mode: %s", one.report["mode"], note)
    _store(bundle, labels, kept, fitted, prompts, scored.thoughts)
    return {
        "bundle": str(config.bundle),
        "data": str(config.data),
        "modes": [one.report for one in fitted],
        "skipped": scored.skipped,
    }


def fit_mode(
    mode: Mode, scored: Scored, labels: LabelSet, lengths: Ints, missing: Sequence[str], config: CalibrationConfig
) -> FittedMode:
    """Fit on all photographs; thresholds and figures on predictions of photographs left out."""
    log_probs, classes = scored.log_probs[mode], scored.classes
    groups = np.arange(len(classes)) if config.independent else classes
    calibration = fit_calibration(log_probs, classes, groups)
    left_out = out_of_fold(log_probs, classes, groups)
    plain = softmax(log_probs)
    options = options_of(left_out, classes, labels)
    effect = design_effect(options.correct[:, 0], groups)
    threshold = fit_threshold(options, config.risk, config.delta, effect)

    def measured(probabilities: Floats, possible: Options) -> Measured:
        return measure(probabilities, classes, groups, possible, lengths, risk=config.risk, delta=config.delta)

    wrong = wrong_answers(log_probs, classes)
    report: ModeReport = {
        "mode": mode,
        "photographs": len(classes),
        "classes": len(labels),
        "classes_with_photographs": len(labels) - len(missing),
        "risk": config.risk,
        "delta": config.delta,
        "independent": config.independent,
        "design_effect": effect,
        "temperature": calibration.temperature,
        "prior_strength": calibration.strength,
        "threshold": threshold,
        "before": measured(plain, options_of(plain, classes, labels)),
        "after": measured(left_out, options),
        "notes": notes_on(threshold, labels, missing, len(classes), wrong, risk=config.risk, delta=config.delta),
    }
    outliers = fit_outliers(scored.features, classes, log_probs)
    return FittedMode(calibration, threshold, outliers, report)


def stored_mode(fitted: FittedMode, labels: LabelSet) -> dict[str, Any]:
    """A mode in confidence.json: the keys of `runtime.confidence.Confidence`, and some figures for a reader."""
    report = fitted.report
    bias = zip(labels.names, fitted.calibration.bias, strict=True)
    figures = ("accuracy", "nll", "brier", "ece", "aurc")
    return {
        "temperature": fitted.calibration.temperature,
        "bias": {name: float(value) for name, value in bias if value != 0},
        "accept_probability": fitted.threshold,
        "accept_parent_probability": fitted.threshold if labels.groups else None,
        "risk": report["risk"],
        "risk_confidence": 1 - report["delta"],
        "photographs": report["photographs"],
        "outlier_threshold": fitted.outliers.threshold,
        "notes": report["notes"],
        "measured": {
            when: {name: report[when][name] for name in figures}  # type: ignore[literal-required]
            for when in ("before", "after")
        },
    }


def _labels(bundle: Bundle, config: CalibrationConfig) -> LabelSet:
    stored = bundle.labels()
    if config.labels is None:
        if stored is None:
            raise ConfigError(f"the bundle {bundle.path} has no labels; name a file of class names with --labels")
        return stored.labels
    labels = read_labels(config.labels)
    if stored is not None and stored.labels.sha256 != labels.sha256 and not config.force:
        raise OutputExistsError(
            f"the bundle {bundle.path} has {len(stored.labels)} other labels than the {len(labels)} of "
            f"{config.labels}; give --force to replace them, or leave --labels out"
        )
    return labels


def _kept_modes(bundle: Bundle, labels: LabelSet, config: CalibrationConfig) -> dict[str, Any]:
    """Modes of an earlier calibration of the same labels that this one does not replace.

    Raises:
        OutputExistsError: this one replaces something, and `force` is not set.
    """
    if CONFIDENCE not in bundle:
        return {}
    value = bundle.json(CONFIDENCE)
    modes = value.get("modes") if isinstance(value, dict) and value.get("labels_sha256") == labels.sha256 else None
    kept = {mode: part for mode, part in modes.items() if mode not in config.modes} if isinstance(modes, dict) else {}
    if not config.force and (not isinstance(modes, dict) or len(kept) < len(modes)):
        raise OutputExistsError(f"the bundle {bundle.path} is calibrated already; give --force to replace it")
    return kept


def _store(
    bundle: Bundle,
    labels: LabelSet,
    kept: dict[str, Any],
    fitted: Sequence[FittedMode],
    prompts: PromptBuilder,
    thoughts: Sequence[str],
) -> None:
    modes = kept | {str(one.report["mode"]): stored_mode(one, labels) for one in fitted}
    document = {"schema_version": SCHEMA_VERSION, "labels_sha256": labels.sha256, "modes": modes}
    stored = bundle.labels()
    with BundleAmendment(bundle.path) as amendment:
        amendment.write_json(CONFIDENCE, document)
        for one in fitted:
            np.savez(amendment.path(outliers_file(one.report["mode"])), **one.outliers.arrays())  # type: ignore[arg-type]
        if thoughts:
            texts = [prompts.encode_text(thought) for thought in thoughts]
            save_phrases(amendment.path(PHRASES), texts, bundle.manifest["files"][TOKENIZER]["sha256"])
        for mode in MODES:
            if mode not in modes:
                amendment.remove(outliers_file(mode))  # of labels that the bundle had before
        if stored is None or stored.labels.sha256 != labels.sha256:
            closing = bundle.manifest["generation"]["eos_token_ids"][0]
            compiled = StoredLabels(labels, compile_frames(labels, prompts.encode_text, closing))
            text = compiled.to_json(sha256_of(bundle.file(TOKENIZER)))
            amendment.path(LABELS).write_text(text, encoding="utf-8")
