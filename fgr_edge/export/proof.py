"""The proof of an export: the finished bundle against the original on photographs, and a plan that holds a bound.

In: a workshop, a plan, photographs. Out: the candidate that may become the bundle, with its parity report and golden
outputs. Where the loss of accuracy is beyond the bound, layers are ranked by what they lose alone, and the most
sensitive ones are kept at a higher precision until the bound holds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fgr_edge.calibrate.golden import make_golden
from fgr_edge.calibrate.parity import ParityOptions, common_folder, measure_parity
from fgr_edge.calibrate.parity_document import Parity, Sensitivity
from fgr_edge.calibrate.parity_page import write_parity
from fgr_edge.calibrate.parity_verdict import verdict
from fgr_edge.calibrate.plan import Plan, part_of
from fgr_edge.calibrate.schemes.scheme import Scheme
from fgr_edge.calibrate.sensitivity import keep_until, rank, with_kept
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.evaluate.evaluation import ProgressBar
from fgr_edge.export.model import Model
from fgr_edge.export.tensor_places import tensor_places
from fgr_edge.export.workshop import ORIGINAL, Workshop
from fgr_edge.runtime.labels import LabelSet

log = logging.getLogger(__name__)

RANKING_PICTURES = 64  # one exported bundle is asked about so many for each unit


@dataclass(frozen=True, slots=True)
class Exam:
    """What candidates are examined on.

    Attributes:
        pictures: labelled photographs.
        labels: classes to choose among.
        options: how much is measured.
        max_accuracy_drop: share of top-1, 0..1, that may be lost; None allows anything.
        higher: scheme for layers that must not lose.
        progress: brings the progress bars.
    """

    pictures: Sequence[LabelledPicture]
    labels: LabelSet
    options: ParityOptions
    max_accuracy_drop: float | None
    higher: Scheme
    progress: ProgressBar


@dataclass(frozen=True, slots=True)
class Proven:
    """A candidate with its report."""

    bundle: Path
    parity: Parity


def prove(shop: Workshop, model: Model, plan: Plan, exam: Exam) -> Proven:
    """Write and measure candidates until one holds the bound, or none can.

    Args:
        model: computes what the original does, perhaps with other scales.

    Returns:
        The candidate, judged: its verdict may be against it.

    Raises:
        DataError, BundleError, EngineError: see `measure_parity`.
    """
    proven = _measured(shop, model, plan, exam, ())
    if proven.parity["verdict"]["passed"] or exam.max_accuracy_drop is None:
        return proven
    log.warning("%s: looking for the layers to keep at %s", proven.parity["verdict"]["headline"], exam.higher.name)
    ranking = _ranking(shop, model, plan, exam)
    tried: dict[tuple[str, ...], Proven] = {(): proven}

    def drop(kept: tuple[str, ...]) -> float:
        if kept not in tried:
            tried[kept] = _measured(shop, model, _keeping(plan, kept, exam.higher), exam, ranking)
        return max(-accuracy["difference"] for accuracy in tried[kept].parity["accuracy"])

    found = keep_until(exam.max_accuracy_drop, [row["unit"] for row in ranking], drop)
    for units, other in tried.items():
        if units != found.units:
            shop.discard(other.bundle)
    return tried[found.units]


def write_report(proven: Proven, exam: Exam, folder: Path) -> list[Path]:
    """Write parity.json and parity.html with the flipped pictures; returns their paths."""
    return write_parity(proven.parity, folder, common_folder(exam.pictures))


def golden_arrays(shop: Workshop, bundle: Path) -> Mapping[str, Any]:
    """Golden outputs of the candidate, beside the original's."""
    return make_golden(shop.original, bundle, tensors=tensor_places(bundle))


def _measured(shop: Workshop, model: Model, plan: Plan, exam: Exam, ranking: Sequence[Sensitivity]) -> Proven:
    bundle = shop.write(model, plan)
    parity = measure_parity(shop.original, bundle, exam.pictures, exam.labels, exam.options, exam.progress)
    parity["sensitivity"] = with_kept(ranking, {unit: scheme.name for unit, scheme in plan.kept.items()})
    parity["verdict"] = verdict(parity, exam.max_accuracy_drop)
    return Proven(bundle, parity)


def _ranking(shop: Workshop, model: Model, plan: Plan, exam: Exam) -> list[Sensitivity]:
    """Units by what they lose when they alone are quantized."""
    built: list[Path] = []

    def build(unit: str) -> Path:
        while built:
            shop.discard(built.pop())
        alone = replace(ORIGINAL, kept={unit: plan.scheme(part_of(unit), unit)}, inputs=plan.inputs)
        built.append(shop.write(model, alone))
        return built[0]

    chosen = np.linspace(0, len(exam.pictures) - 1, min(RANKING_PICTURES, len(exam.pictures))).round().astype(int)
    pictures = [exam.pictures[index] for index in chosen]
    ranking = rank(model.units(), build, shop.original, pictures, exam.labels, exam.progress)
    while built:
        shop.discard(built.pop())
    return ranking


def _keeping(plan: Plan, units: Sequence[str], higher: Scheme) -> Plan:
    return replace(plan, kept={**plan.kept, **dict.fromkeys(units, higher)})
