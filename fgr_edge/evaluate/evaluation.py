"""A whole evaluation: a bundle, labelled photographs and a protocol in, one document out.

Chooses the classes and the photographs, asks, skips what cannot be opened, adds up. Prints nothing and writes nothing;
the caller brings the progress bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from fgr_edge.data.labelled import LabelledPicture, read_labelled
from fgr_edge.errors import ConfigError, DataError, ImageError, LabelError
from fgr_edge.evaluate.confusion import Confusion, confused_pairs
from fgr_edge.evaluate.options import four_options
from fgr_edge.evaluate.protocols import Outcome, ProtocolName, closed_all, closed_four, open_answer
from fgr_edge.evaluate.similarity import OnnxTextEncoder
from fgr_edge.evaluate.summary import ClassShare, Measures, measures, per_class
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import Confidence, read_confidence
from fgr_edge.runtime.labels import LabelSet, normalized, read_labels
from fgr_edge.runtime.prompt import Mode

T = TypeVar("T")

SKIPPED_AT_MOST = 0.05  # share of photographs that may be unreadable
NAMED_AT_MOST = 8  # classes in an error message
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What to evaluate.

    Attributes:
        bundle: folder of the bundle.
        data: labelled photographs, see `data.labelled`.
        labels: a file of class names; None takes the bundle's, or else the classes of the data.
        mode: of the label scores; generated answers always think first, as in the papers.
        limit: photographs at most, drawn by `seed`; None takes all.
        seed: of the draw, of distractors and of the order of options.
        text_encoder: folder of a text encoder for relative similarity; None leaves it out.
        images: folder from which paths in `data` start; None is the folder of the list.
        threads: of one operator; None takes one per core.

    Raises:
        ConfigError: an option makes no sense.
    """

    bundle: Path
    data: Path
    protocol: ProtocolName
    labels: Path | None = None
    mode: Mode = "direct"
    limit: int | None = None
    seed: int = 0
    text_encoder: Path | None = None
    images: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.protocol not in ("closed-4", "closed-all", "open"):
            raise ConfigError(f"protocol is {self.protocol!r}, expected closed-4, closed-all or open")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}, expected at least 1 photograph")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected 0 or more")
        if self.text_encoder is not None and self.protocol != "open":
            raise ConfigError(f"a text encoder has no use in {self.protocol}; leave it out, or choose open")


class Skipped(TypedDict):
    """A photograph that could not be opened."""

    path: str
    error: str


class Document(TypedDict):
    """The schema of `eval --json` and results.json.

    `confused` lists every pair that was confused; `answer` is None where no class was named. `calibration` says what
    the calibrated measures rest on, or why there are none.
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    labels: list[str | dict[str, Any]]
    labels_from: str
    calibration: str
    photographs: int
    skipped: list[Skipped]
    seconds: float
    measures: Measures
    per_class: list[ClassShare]
    confused: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: the document, and what the confusion picture draws.

    `pairs` are right and answered class of each of the document's outcomes, by index into the labels.
    """

    document: Document
    confusion: Confusion
    pairs: tuple[tuple[int, int | None], ...]


def evaluate(config: EvaluationConfig, progress: ProgressBar) -> Evaluation:
    """Run a protocol over the photographs.

    Raises:
        DataError: see `read_labelled`; classes of the data that the labels lack; over 5 % of the photographs cannot be
            opened.
        BundleError, LabelError, ConfigError, EngineError, MissingExtraError: what cannot be opened or used.
    """
    from fgr_edge.runtime.recognizer import Recognizer

    pictures = read_labelled(config.data, root=config.images)
    bundle = Bundle.open(config.bundle)
    labels, labels_from = _labels(config, bundle, pictures)
    truths = class_indices(pictures, labels)
    encode = None if config.text_encoder is None else OnnxTextEncoder(config.text_encoder)
    recognizer = Recognizer(config.bundle, None if labels_from == "bundle" else labels, threads=config.threads)
    confidence, calibration = _confidence(bundle, labels, config)

    def ask(index: int) -> Outcome:
        picture, truth = pictures[index], truths[index]
        if config.protocol == "closed-all":
            return closed_all(recognizer, picture, truth, labels, confidence, config.mode)
        if config.protocol == "open":
            return open_answer(recognizer, picture, labels, encode)
        # A photograph gets the same options whichever others are asked about.
        options = four_options(picture, truth, labels, np.random.default_rng([config.seed, index]))
        return closed_four(recognizer, picture, options, config.mode)

    chosen = drawn(len(pictures), config.limit, config.seed)
    start = time.perf_counter()
    with progress(config.protocol, len(chosen)) as step:
        outcomes, skipped = ask_all(ask, chosen, pictures, step)
    seconds = time.perf_counter() - start
    answered = [truths[index] for index, _ in outcomes]
    results = [outcome for _, outcome in outcomes]
    pairs = _pairs(results, answered, labels)
    confusion = Confusion.of(pairs, labels)
    document: Document = {
        "settings": _settings(config),
        "model": {key: bundle.manifest[key] for key in ("name", "family", "target", "precision")},
        "labels": labels.to_json(),
        "labels_from": labels_from,
        "calibration": calibration,
        "photographs": len(results),
        "skipped": skipped,
        "seconds": round(seconds, 3),
        "measures": measures(results, labels),
        "per_class": per_class(results, labels, answered),
        "confused": _confused(confusion),
        "outcomes": [asdict(outcome) for outcome in results],
    }
    return Evaluation(document, confusion, tuple(pairs))


def ask_all(
    ask: Callable[[int], T],
    chosen: Sequence[int],
    pictures: Sequence[LabelledPicture],
    step: Callable[[int], None],
) -> tuple[list[tuple[int, T]], list[Skipped]]:
    """What `ask` finds, with the number of its photograph, and the photographs that could not be opened.

    Raises:
        DataError: more than 5 % could not be, as soon as that is certain.
    """
    outcomes: list[tuple[int, T]] = []
    skipped: list[Skipped] = []
    for index in chosen:
        try:
            outcomes.append((index, ask(index)))
        except ImageError as error:
            skipped.append({"path": str(pictures[index].path), "error": str(error)})
            if len(skipped) > SKIPPED_AT_MOST * len(chosen):
                raise DataError(
                    f"{len(skipped)} of the {len(chosen)} photographs cannot be opened, more than "
                    f"{SKIPPED_AT_MOST:.0%}; the last: {error}. Check the data"
                ) from error
        step(1)
    return outcomes, skipped


def drawn(count: int, limit: int | None, seed: int) -> list[int]:
    """Numbers of the photographs to ask about, in their order; lists are sorted by class, so a limit draws."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(int(index) for index in np.random.default_rng(seed).permutation(count)[:limit])


def class_indices(pictures: Sequence[LabelledPicture], labels: LabelSet) -> list[int]:
    """The class of every photograph; names and synonyms are the same but for case, spacing and underscores.

    Raises:
        DataError: naming the classes that the labels lack.
    """
    known = {normalized(form): index for form, index in labels.forms}
    lacking = sorted({picture.label for picture in pictures if normalized(picture.label) not in known})
    if lacking:
        names = ", ".join(repr(name) for name in lacking[:NAMED_AT_MOST])
        more = f" and {len(lacking) - NAMED_AT_MOST} more" if len(lacking) > NAMED_AT_MOST else ""
        raise DataError(
            f"the labels lack {len(lacking)} classes of the photographs: {names}{more}. Expected every class among the "
            f"{len(labels)} labels: name a file that has them with --labels"
        )
    return [known[normalized(picture.label)] for picture in pictures]


def _labels(config: EvaluationConfig, bundle: Bundle, pictures: Sequence[LabelledPicture]) -> tuple[LabelSet, str]:
    """The classes, and where they come from.

    The four options of closed-4 and the answers of open do not depend on the bundle's labels: there they are only taken
    where they know the classes of the photographs.
    """
    if config.labels is not None:
        return read_labels(config.labels), str(config.labels)
    stored = bundle.labels()
    if stored is not None:
        known = {normalized(form) for form, _ in stored.labels.forms}
        if config.protocol == "closed-all" or all(normalized(picture.label) in known for picture in pictures):
            return stored.labels, "bundle"
    return LabelSet.from_names(sorted({picture.label for picture in pictures})), "data"


def _confidence(bundle: Bundle, labels: LabelSet, config: EvaluationConfig) -> tuple[Confidence | None, str]:
    if config.protocol != "closed-all":
        return None, "not used by this protocol"
    try:
        fitted = read_confidence(bundle, labels)
    except LabelError:
        return None, "none: the bundle's was fitted for other labels"
    if config.mode not in fitted:
        return None, f"none: the bundle has none for {config.mode} mode"
    return fitted[config.mode], f"fitted on {fitted[config.mode].photographs} photographs"


def _settings(config: EvaluationConfig) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def _pairs(outcomes: Sequence[Outcome], truths: Sequence[int], labels: LabelSet) -> list[tuple[int, int | None]]:
    """Right and answered class; a free answer or an option that is no class of the labels counts as none."""
    known = {normalized(form): index for form, index in labels.forms}
    return [
        (truth, None if outcome.answer is None else known.get(normalized(outcome.answer)))
        for outcome, truth in zip(outcomes, truths, strict=True)
    ]


def _confused(confusion: Confusion) -> list[dict[str, Any]]:
    return [
        {
            "truth": confusion.names[pair.truth],
            "answer": None if pair.answer is None else confusion.names[pair.answer],
            "count": pair.count,
            "of": pair.of,
        }
        for pair in confused_pairs(confusion)
    ]
