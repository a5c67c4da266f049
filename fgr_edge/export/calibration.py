"""Calibration of a model on photographs: what they show of every layer's inputs, and the scales that follow.

In: the opened original, a bundle of it, chosen pictures, a plan of schemes and a method. Out: the same model, with
scales folded in where the method asks for them, the plan that knows the inputs, and a report. Nothing is quantized.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.pictures import CalibrationPictures
from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes.awq import search_scale
from fgr_edge.calibrate.schemes.reference import reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, InputStatistics, Scheme, WeightsAndInputs
from fgr_edge.calibrate.schemes.smoothquant import migration_scale
from fgr_edge.calibrate.statistics import SAMPLE_ROWS, Statistics, StatisticsWriter
from fgr_edge.export import settings
from fgr_edge.export.assembly import IMAGE_TOKEN
from fgr_edge.export.calibration_pass import SPAN_WEIGHTS, CalibrationPass
from fgr_edge.export.calibration_texts import THOUGHT_TOKENS, TextFeeder, think
from fgr_edge.export.chat import prompt_spec
from fgr_edge.export.folding import Group, fold, groups, sample_rows
from fgr_edge.export.model import Model
from fgr_edge.export.precisions import Method
from fgr_edge.export.progress import Step, progress_bar
from fgr_edge.export.weights import Matrix
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.prompt import PromptBuilder

Floats = npt.NDArray[np.float32]
log = logging.getLogger(__name__)

SEARCH_ROWS = 256  # of the weights in a group, on which scales are tried


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How much is done.

    Attributes:
        image_size: (width, height), as the bundle will have it.
        thought_tokens: of each thought at most.
        sample_rows: of each layer's inputs.
        span_weights: in memory at a time.
        quiet: no progress bars.
    """

    image_size: tuple[int, int] | None = None
    thought_tokens: int = THOUGHT_TOKENS
    sample_rows: int = SAMPLE_ROWS
    span_weights: int = SPAN_WEIGHTS
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """A calibrated model.

    Attributes:
        model: computes what the original does; scales are folded in where the method has any.
        plan: as given, with `inputs` as that model's layers see them.
        statistics: of the original, before folding; lasts as long as the folder it is in.
        report: JSON: where the pictures come from, their digest, what was read and folded, seconds of each stage;
            `thoughts_by` is the scheme of the decoder that wrote the thoughts.
        thoughts: token ids of each, as far as there are any.
    """

    model: Model
    plan: Plan
    statistics: Statistics
    report: dict[str, Any]
    thoughts: tuple[list[int], ...] = ()


def calibrate(
    model: Model,
    pictures: CalibrationPictures,
    plan: Plan,
    method: Method,
    folder: Path,
    reference: Path | None,
    options: CalibrationOptions | None = None,
) -> CalibrationResult:
    """Run the original over the pictures, and choose scales for `plan`.

    Args:
        model: the original, adapters and soups included.
        method: "awq" scales the inputs of int4 layers, "smoothquant" those of w8a8 layers, "gptq" wants X^T X of the
            layers that are rounded its way, "nearest" leaves all as it is.
        folder: for statistics; made, and to be kept as long as the plan is used.
        reference: a bundle of the original, which writes the thoughts; None reads reasoning prompts without.

    Raises:
        DataError, ImageError: a picture has become unreadable since it was chosen.
        EngineError: ONNX Runtime is missing or fails, or inputs are not finite.
    """
    run = _Calibration(model, pictures, plan, folder, options or CalibrationOptions())
    statistics = run.observe(reference)
    folded, scales = run.scaled(statistics, method)
    inputs = statistics.divided(scales)
    plan, report = replace(plan, inputs=inputs.inputs), run.report(method, scales)
    return CalibrationResult(folded, plan, statistics, report, run.thoughts)


@dataclass(slots=True)
class _Calibration:
    model: Model
    pictures: CalibrationPictures
    plan: Plan
    folder: Path
    options: CalibrationOptions
    thoughts: tuple[list[int], ...] = ()
    _thinker: str | None = None
    _seconds: dict[str, float] = field(default_factory=dict)
    _tokens: dict[str, int] = field(default_factory=dict)

    def observe(self, reference: Path | None) -> Statistics:
        """The pass over pictures and texts."""
        model, options, chosen = self.model, self.options, self.pictures.chosen
        prompts = self._prompts()
        thoughts = [""] * len(chosen)
        if reference is not None:
            with self._stage("thoughts", len(chosen)) as step:
                thoughts = think(reference, chosen, max_new_tokens=options.thought_tokens, step=step)
            self._thinker = Bundle.open(reference).manifest["precision"]["decoder"]
        statistics, scratch = self.folder / "statistics", self.folder / "scratch"
        for path in (statistics, scratch):
            path.mkdir(parents=True)
        writer = StatisticsWriter(statistics, sample_rows=options.sample_rows)
        run = CalibrationPass(model, scratch, writer, self._wants_gram, options.span_weights)
        image = settings.image_config(model.checkpoint, model.family, model.vision_dims, options.image_size)
        with self._stage("pictures", len(chosen) * model.vision_dims.depth) as step:
            seen = run.see([picture.path for picture in chosen], image, step)
        feeder = TextFeeder(prompts, model.embedding)
        self.thoughts = tuple(prompts.encode_text(thought) for thought in thoughts if thought)
        texts = [feeder.calls(*row) for row in zip(chosen, seen, thoughts, strict=True)]
        with self._stage("texts", len(chosen) * model.decoder_dims.layers) as step:
            run.read(texts, step)
        self._tokens = {
            "picture_tokens": sum(len(embeds.tokens) for embeds in seen),
            "thought_tokens": sum(map(len, self.thoughts)),
            "read_tokens": sum(len(call.embeds) for calls in texts for call in calls),
        }
        scratch.rmdir()
        return writer.close()

    def scaled(self, statistics: Statistics, method: Method) -> tuple[Model, dict[str, Floats]]:
        """The model with the method's scales folded in, and what the inputs of each matrix are divided by."""
        scale_of = {"awq": self._awq, "smoothquant": self._smoothed}.get(method)
        if scale_of is None:
            return self.model, {}
        count = sum(1 for _ in groups(self.model))
        with self._stage("scales", count) as step:
            folded = fold(self.model, _stepping(scale_of, statistics, step))
        return folded.model, dict(folded.scales)

    def report(self, method: Method, scales: dict[str, Floats]) -> dict[str, Any]:
        chosen = self.pictures.chosen
        return {
            "source": self.pictures.source,
            "sha256": self.pictures.sha256,
            "pictures": len(chosen),
            "classes": len({picture.label for picture in chosen}),
            "unreadable": list(self.pictures.unreadable),
            "thoughts_by": self._thinker,
            **self._tokens,
            "method": method,
            "scaled_matrices": len(scales),
            "seconds": {stage: round(seconds, 1) for stage, seconds in self._seconds.items()},
        }

    def _awq(self, group: Group, seen: InputStatistics) -> Floats | None:
        scheme = self._scheme(group.matrices[0])
        if not isinstance(scheme, BlockWeights) or scheme.bits != 4:
            return None
        rows = sample_rows(group.matrices, SEARCH_ROWS)
        # The scale is chosen for rounding to nearest: what GPTQ does to it afterwards is its own.
        rounded = reference_weight(replace(scheme, rounding="nearest"))
        return search_scale(rows, seen, rounded, group.shared)

    def _smoothed(self, group: Group, seen: InputStatistics) -> Floats | None:
        scheme = self._scheme(group.matrices[0])
        if not isinstance(scheme, WeightsAndInputs) or scheme.kind != "int8":
            return None
        weight = np.zeros(group.columns, np.float32)
        for matrix in group.matrices:
            for rows in matrix.chunks():
                np.maximum(weight, np.abs(rows).max(axis=0), out=weight)
        return group.shared(migration_scale(weight, seen.abs_max))

    def _scheme(self, matrix: Matrix) -> Scheme:
        return self.plan.scheme(matrix.part, matrix.unit)

    def _wants_gram(self, matrix: Matrix) -> bool:
        scheme = self._scheme(matrix)
        return isinstance(scheme, BlockWeights) and scheme.rounding == "gptq"

    def _prompts(self) -> PromptBuilder:
        checkpoint = self.model.checkpoint
        spec = prompt_spec(checkpoint.chat_template() or self.model.family.chat_template, IMAGE_TOKEN)
        return PromptBuilder(checkpoint.tokenizer_path, spec)

    @contextmanager
    def _stage(self, name: str, total: int) -> Iterator[Step]:
        started = time.perf_counter()
        with progress_bar(f"calibrate {name}", total, quiet=self.options.quiet) as step:
            yield step
        self._seconds[name] = time.perf_counter() - started
        log.info("calibrate %s: %.1f s", name, self._seconds[name])


def _stepping(
    scale_of: Callable[[Group, InputStatistics], Floats | None], statistics: Statistics, step: Step
) -> Callable[[Group], Floats | None]:
    def one(group: Group) -> Floats | None:
        seen = statistics.inputs(group.matrices[0].name)
        scale = None if seen is None else scale_of(group, seen)
        step(1)
        return scale

    return one
