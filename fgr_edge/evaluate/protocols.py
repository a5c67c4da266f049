"""The papers' protocols for one photograph: what is asked, and what counts as right.

    closed-4    choose among four options (Fine-R1, FOCI): the generated answer, and beside it the label scores
    closed-all  the most probable of all classes
    open        name it freely (Fine-R1): does the answer contain the name, and how near is it in meaning

In: a photograph and its class; a `Scorer`, which `Recognizer` is. Out: an outcome a photograph. Knows no data sets and
adds nothing up (`summary` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.evaluate.matching import (
    asks_for_car,
    exact_match,
    normalised,
    substring_match,
    super_category,
    text_inclusion,
)
from fgr_edge.evaluate.options import FourOptions
from fgr_edge.evaluate.prompts import answer_in, closed_world, open_world
from fgr_edge.evaluate.similarity import TextEncoder, relative_similarity
from fgr_edge.runtime.confidence import Confidence
from fgr_edge.runtime.image import ImageInput
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode

if TYPE_CHECKING:
    from fgr_edge.runtime.evidence import Evidence

ProtocolName = Literal["closed-4", "closed-all", "open"]
ANSWER_TOKENS = 2048  # generated at most: Fine-R1's evaluation script


class Scorer(Protocol):
    """What a protocol asks of a model."""

    def evidence(
        self,
        image: ImageInput,
        *,
        mode: Mode = "direct",
        question: str | None = None,
        labels: LabelSet | None = None,
        wording: str | None = None,
    ) -> Evidence: ...

    def generate(self, image: ImageInput, wording: str, *, max_new_tokens: int = 1024) -> str: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """closed-4.

    Attributes:
        answer: the option that the generated answer names exactly; None if it names none.
        right: exact match after `matching.normalised`.
        substring: the paper's match.
        options, position: as asked, and where the right one stood.
        scored: the option with the highest label score; `scored_probability` is its share among the four.
        text: as generated.
    """

    path: str
    truth: str
    answer: str | None
    right: bool
    substring: bool
    options: tuple[str, ...]
    position: int
    scored: str
    scored_probability: float
    text: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """closed-all.

    Attributes:
        answer: the most probable class.
        rank: of the right class, from 1.
        probability, truth_probability: of the answer and of the right class, among the classes, not calibrated.
        calibrated: the probabilities of the calibrated answer and of the right class; None without calibration.
        calibrated_right: whether the calibrated answer is right (a prior correction may change the answer).
        top_5: (class, probability), the likeliest first.
        text: the thought, in reason mode.
    """

    path: str
    truth: str
    answer: str
    right: bool
    rank: int
    probability: float
    truth_probability: float
    calibrated: tuple[float, float] | None
    calibrated_right: bool | None
    top_5: tuple[tuple[str, float], ...]
    text: str


@dataclass(frozen=True, slots=True)
class FreeAnswer:
    """open.

    Attributes:
        answer: the class that the answer names exactly; None if it names none.
        right: text inclusion, the paper's.
        exact: exact match after `matching.normalised`.
        said: what stands between the answer tags, or else the whole text, as in the paper.
        similarity: relative semantic similarity, 0..1; None without a text encoder.
    """

    path: str
    truth: str
    answer: str | None
    right: bool
    exact: bool
    said: str
    similarity: float | None
    super_category: str
    text: str


Outcome = Choice | Ranking | FreeAnswer


def closed_four(scorer: Scorer, picture: LabelledPicture, options: FourOptions, mode: Mode) -> Choice:
    """Ask in Fine-R1's closed-world wording for a generated answer, and for the scores of the four options.

    The scores are taken in the bundle's own wording in direct mode, since the paper's asks for a thought first, and in
    the paper's in reason mode.
    """
    wording = closed_world(picture.question, options.names)
    text = scorer.generate(picture.path, wording, max_new_tokens=ANSWER_TOKENS)
    evidence = scorer.evidence(
        picture.path,
        mode=mode,
        question=picture.question if mode == "direct" else None,
        labels=LabelSet.from_names(options.names),
        wording=None if mode == "direct" else wording,
    )
    shares = Confidence.uncalibrated(len(options.names)).probabilities(evidence.log_probs)
    said, truth = answer_in(text), options.names[options.position]
    return Choice(
        path=str(picture.path),
        truth=truth,
        answer=next((option for option in options.names if exact_match(said, option)), None),
        right=exact_match(said, truth),
        substring=substring_match(said, truth),
        options=options.names,
        position=options.position,
        scored=options.names[int(shares.argmax())],
        scored_probability=float(shares.max()),
        text=text,
    )


def closed_all(
    scorer: Scorer, picture: LabelledPicture, truth: int, labels: LabelSet, confidence: Confidence | None, mode: Mode
) -> Ranking:
    """Score every class.

    Args:
        truth: index of the photograph's class.
        labels: of the scorer: it is asked for its own, which it has compiled.
        confidence: calibration of this mode; None where there is none.
    """
    evidence = scorer.evidence(picture.path, mode=mode, question=picture.question)
    shares = Confidence.uncalibrated(len(labels)).probabilities(evidence.log_probs)
    order = np.argsort(-shares, kind="stable")
    adjusted = None if confidence is None else confidence.probabilities(evidence.log_probs)
    return Ranking(
        path=str(picture.path),
        truth=labels.names[truth],
        answer=labels.names[order[0]],
        right=bool(order[0] == truth),
        rank=int(np.flatnonzero(order == truth)[0]) + 1,
        probability=float(shares[order[0]]),
        truth_probability=float(shares[truth]),
        calibrated=None if adjusted is None else (float(adjusted.max()), float(adjusted[truth])),
        calibrated_right=None if adjusted is None else bool(adjusted.argmax() == truth),
        top_5=tuple((labels.names[index], float(shares[index])) for index in order[:5]),
        text=evidence.text,
    )


def open_answer(scorer: Scorer, picture: LabelledPicture, labels: LabelSet, encode: TextEncoder | None) -> FreeAnswer:
    """Ask in Fine-R1's open-world wording; `labels` only serve to tell which class a wrong answer names."""
    text = scorer.generate(picture.path, open_world(picture.question), max_new_tokens=ANSWER_TOKENS)
    said = answer_in(text) or text.strip()
    coarse, wanted = super_category(picture.question), normalised(said)
    return FreeAnswer(
        path=str(picture.path),
        truth=picture.label,
        answer=next((labels.names[index] for form, index in labels.forms if normalised(form) == wanted), None),
        right=text_inclusion(said, picture.label, car=asks_for_car(picture.question)),
        exact=exact_match(said, picture.label),
        said=said,
        similarity=None if encode is None else relative_similarity(encode, said, picture.label, coarse),
        super_category=coarse,
        text=text,
    )
