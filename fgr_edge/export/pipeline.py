"""Checkpoint to bundle, as `fgr-edge export` does it: open, calibrate, quantize, prove.

Stages: everything refused that can be, before a byte is written; adapter and soup laid over the checkpoint; photographs
chosen; what they show of the layers' inputs (`calibration`); candidates written and measured (`workshop`, `proof`); the
one that holds becomes the bundle, with its report and golden outputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fgr_edge.calibrate.golden import GOLDEN
from fgr_edge.calibrate.parity import ParityOptions
from fgr_edge.calibrate.parity_verdict import refuse
from fgr_edge.calibrate.pictures import AVIARY, CHOSEN, CalibrationPictures, calibration_pictures
from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import Scheme
from fgr_edge.data.aviary import SPECIES
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import ConfigError, MissingExtraError, ParityError
from fgr_edge.export.adapters import with_adapter
from fgr_edge.export.assembly import BundleOptions, check_tensors
from fgr_edge.export.calibration import CalibrationOptions, CalibrationResult, calibrate
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.gpus import check_gpu, find_gpu, runnable
from fgr_edge.export.model import Model, open_model
from fgr_edge.export.precisions import Precision, find_precision
from fgr_edge.export.progress import progress_bar
from fgr_edge.export.proof import Exam, Proven, golden_arrays, prove, write_report
from fgr_edge.export.screen import require_screen
from fgr_edge.export.soup import Soup, check_members, greedy_soup, open_member, uniform_soup
from fgr_edge.export.targets import TARGETS, Target, find_target
from fgr_edge.export.trial import Trial
from fgr_edge.export.workshop import ORIGINAL, Workshop
from fgr_edge.runtime.bundle import TOKENIZER
from fgr_edge.runtime.bundle_writer import BundleWriter, check_output
from fgr_edge.runtime.guessing.phrases import PHRASES, save_phrases
from fgr_edge.runtime.labels import LabelSet, normalized, read_labels

log = logging.getLogger(__name__)

PROOF_PICTURES = 240
_WORKSHOP = ".workshop"


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What to export and how.

    Attributes:
        source: checkpoint folder, or a hub id "owner/name".
        output: the bundle's folder.
        target: a row of `targets.TARGETS`.
        precision: a row of `precisions.PRECISIONS`.
        vision, decoder, head: schemes of single parts, instead of the precision's.
        method: how weights are fitted, instead of the precision's.
        calib: labelled photographs (see `data.labelled`); None takes drawn birds, and the report says so.
        calib_pictures: so many of them are calibrated on.
        adapter: folder of a LoRA adapter, merged into the checkpoint.
        soup: further checkpoints (or adapters of this one), averaged with it.
        soup_method: "uniform" takes all, "greedy" those that do not lose accuracy on the calibration pictures.
        proof: measure the bundle against the original on photographs, and store golden outputs for `verify`.
        proof_pictures: photographs measured at most.
        max_accuracy_drop: share of top-1, 0..1, that the bundle may lose; None allows anything.
        gpu: that must be able to run it (`gpus`); None asks nothing of it.
        labels: file of class names to store in the bundle (see `runtime.label_files`).
        image_size: (width, height); pictures are resized to at most so many pixels.
        force: replace a bundle that is there.
        screened: whether a float32 head gets a coarse copy, with which greedy decoding reads less; None where it pays.
        quiet: no progress bar.

    Raises:
        ConfigError: options that make no sense.
    """

    source: str | Path
    output: Path
    target: str = "cpu"
    precision: str = "int8"
    vision: str | None = None
    decoder: str | None = None
    head: str | None = None
    method: str | None = None
    calib: Path | None = None
    calib_pictures: int = CHOSEN
    adapter: Path | None = None
    soup: tuple[Path, ...] = ()
    soup_method: str = "greedy"
    proof: bool = True
    proof_pictures: int = PROOF_PICTURES
    max_accuracy_drop: float | None = None
    gpu: str | None = None
    labels: Path | None = None
    image_size: tuple[int, int] | None = None
    force: bool = False
    screened: bool | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            raise ConfigError(
                f"max_accuracy_drop is {self.max_accuracy_drop}, expected a share of 0 to 1: 0.01 is one point"
            )
        if self.max_accuracy_drop is not None and not self.proof:
            raise ConfigError("max_accuracy_drop cannot be held without the proof; leave out one of the two")
        if self.soup_method not in ("uniform", "greedy"):
            raise ConfigError(f"soup_method is {self.soup_method!r}, expected 'uniform' or 'greedy'")
        if self.proof_pictures < 2:
            raise ConfigError(f"proof_pictures is {self.proof_pictures}, expected at least 2")


def export_checkpoint(config: ExportConfig) -> Path:
    """Export a checkpoint and return the bundle's folder.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        DataError: the photographs cannot be used.
        ParityError: the bundle would lose more accuracy than allowed; its report is kept beside the output.
        OutputExistsError: the output exists and `force` is not set.
        StorageError: the disk is full or not writable.
        LabelError, ConfigError: an option cannot be used.
        MissingExtraError: the `export` extra, or an engine to prove the bundle with, is not installed.
    """
    _require("onnx", "onnx_ir", extra="export")
    started = time.perf_counter()
    parts: dict[Any, str | None] = {"vision": config.vision, "decoder": config.decoder, "head": config.head}
    precision = find_precision(config.precision, parts, config.method)
    target = find_target(config.target, precision.schemes)
    if config.gpu is not None:
        check_gpu(config.gpu, target.name, precision.schemes)
    if config.screened:
        require_screen(target, SCHEMES[precision.head])
    labels = read_labels(config.labels) if config.labels is not None else None
    check_output(config.output, force=config.force)
    if config.proof or precision.calibrated or (config.soup and config.soup_method == "greedy"):
        _require("onnxruntime", extra="cpu")
    checkpoint = Checkpoint.open(config.source)
    members = [checkpoint, *(open_member(folder, checkpoint) for folder in config.soup)]
    if config.adapter is not None:
        members[0] = with_adapter(checkpoint, config.adapter)
    # What is wrong with them is found before a byte is written.
    if config.soup:
        check_members(members)
    check_tensors(open_model(members[0]), TARGETS["cpu"], ORIGINAL)
    _Export(config, precision, target, members, labels).run()
    if not config.proof:
        log.warning("%s is not proved: nothing was measured (--no-proof)", config.output)
    log.info("bundle %s written in %.1f s", config.output, time.perf_counter() - started)
    return config.output


@dataclass(frozen=True, slots=True)
class _Export:
    """One export; `members` are averaged where there are several."""

    config: ExportConfig
    precision: Precision
    target: Target
    members: Sequence[Checkpoint]
    labels: LabelSet | None

    def run(self) -> None:
        with BundleWriter(self.config.output, force=self.config.force) as bundle:
            folder = bundle.folder / _WORKSHOP
            folder.mkdir()
            pictures = self._pictures(folder)
            checkpoint, soup = self._mixed(pictures, folder)
            shop = self._workshop(checkpoint, folder)
            model, plan, found = self._calibrated(shop, pictures)
            calibration = None if found is None else found.report
            candidate = self._candidate(shop, model, plan, pictures, calibration, bundle)
            manifest: dict[str, Any] = dict(shop.adopt(candidate, bundle.folder))
            if found is not None and found.thoughts:
                save_phrases(bundle.path(PHRASES), found.thoughts, manifest["files"][TOKENIZER]["sha256"])
            for key in ("schema_version", "manifest_sha256", "files"):
                del manifest[key]
            facts = self._facts(checkpoint, calibration, soup)
            bundle.manifest = {**manifest, "provenance": {**manifest["provenance"], **facts}}

    def _pictures(self, folder: Path) -> CalibrationPictures | None:
        """The photographs, or drawings; None where nothing is measured."""
        config = self.config
        if not (config.proof or self.precision.calibrated or self._tasted):
            return None
        drawn = -(-max(config.proof_pictures, config.calib_pictures) // len(SPECIES))
        return calibration_pictures(
            config.calib,
            folder / AVIARY,
            labels=self.labels,
            count=config.calib_pictures,
            per_species=drawn,
            progress=partial(progress_bar, quiet=config.quiet),
        )

    @property
    def _tasted(self) -> bool:
        """Whether checkpoints are chosen by their accuracy."""
        return len(self.members) > 1 and self.config.soup_method == "greedy"

    def _mixed(self, pictures: CalibrationPictures | None, folder: Path) -> tuple[Checkpoint, Soup | None]:
        if len(self.members) == 1:
            return self.members[0], None
        if pictures is None or not self._tasted:
            soup = uniform_soup(self.members)
        else:
            labels = self._labels_of(pictures.chosen)
            trial = Trial(pictures.chosen, labels, folder / "trial", self.config.image_size, quiet=self.config.quiet)
            soup = greedy_soup(self.members, trial)
        return soup.checkpoint, soup

    def _workshop(self, checkpoint: Checkpoint, folder: Path) -> Workshop:
        config = self.config
        options = BundleOptions(
            str(config.source),
            checkpoint.digest(),
            self.labels,
            config.image_size,
            screened=config.screened,
            quiet=config.quiet,
        )
        return Workshop(folder, open_model(checkpoint), self.target, options)

    def _calibrated(
        self, shop: Workshop, pictures: CalibrationPictures | None
    ) -> tuple[Model, Plan, CalibrationResult | None]:
        """The model with its scales moved, the plan with what was seen, and how that was found."""
        plan = self.precision.plan()
        if not self.precision.calibrated or pictures is None:
            return shop.model, plan, None
        options = CalibrationOptions(self.config.image_size, quiet=self.config.quiet)
        folder = shop.folder / "statistics"
        # The proof opens the original in any case; without it, a large model never has to be in memory as float32.
        thinker = shop.original if self.config.proof else shop.thinker
        found = calibrate(shop.model, pictures, plan, self.precision.method, folder, thinker, options)
        return found.model, found.plan, found

    def _candidate(
        self,
        shop: Workshop,
        model: Model,
        plan: Plan,
        pictures: CalibrationPictures | None,
        calibration: dict[str, Any] | None,
        bundle: BundleWriter,
    ) -> Path:
        """The bundle that is taken, as it is written so far; report and golden outputs go to `bundle` at once."""
        if not self.config.proof or pictures is None:
            return shop.write(model, plan)
        exam = self._exam(pictures, calibration)
        proven = prove(shop, model, plan, exam)
        self._refuse(proven, exam)
        write_report(proven, exam, bundle.folder)
        golden = golden_arrays(shop, proven.bundle)
        np.savez_compressed(bundle.path(GOLDEN), allow_pickle=False, **golden)
        return proven.bundle

    def _exam(self, pictures: CalibrationPictures, calibration: dict[str, Any] | None) -> Exam:
        """Photographs that nothing was calibrated on, where there are enough of them."""
        config = self.config
        unseen = calibration is not None and len(pictures.rest) >= len(pictures.chosen)
        measured = pictures.rest if unseen else (*pictures.chosen, *pictures.rest)
        if len(measured) > config.proof_pictures:
            spread = np.linspace(0, len(measured) - 1, config.proof_pictures).round().astype(int)
            measured = tuple(measured[index] for index in spread)
        return Exam(
            measured,
            self._labels_of(measured),
            ParityOptions(pictures.source, calibration=calibration),
            config.max_accuracy_drop,
            self._higher(),
            partial(progress_bar, quiet=config.quiet),
        )

    def _labels_of(self, pictures: Sequence[LabelledPicture]) -> LabelSet:
        """The bundle's labels where the pictures are of them, else the classes of the pictures."""
        names = {normalized(picture.label) for picture in pictures}
        if self.labels is not None and names <= {normalized(text) for text, _ in self.labels.forms}:
            return self.labels
        return LabelSet.from_names(sorted({picture.label for picture in pictures}))

    def _higher(self) -> Scheme:
        """For layers that must not lose: the first that target and GPU can run."""
        gpu = None if self.config.gpu is None else find_gpu(self.config.gpu)
        for name in self.precision.higher:
            if name in self.target.schemes and (gpu is None or runnable(gpu, name)):
                return SCHEMES[name]
        return SCHEMES["fp32"]

    def _refuse(self, proven: Proven, exam: Exam) -> None:
        """Keep the report and raise where the verdict is against the candidate."""
        try:
            refuse(proven.parity["verdict"])
        except ParityError as error:
            output = self.config.output
            kept = output.with_name(f"{output.name}.parity")
            kept.mkdir(exist_ok=True)
            write_report(proven, exam, kept)
            raise ParityError(f"{error}. The report is kept in {kept}") from None

    def _facts(self, checkpoint: Checkpoint, calibration: dict[str, Any] | None, soup: Soup | None) -> dict[str, Any]:
        """For the manifest's provenance."""
        return {
            "method": self.precision.method,
            "calibration_digest": None if calibration is None else calibration["sha256"],
            "overlays": list(checkpoint.notes),
            "soup": None if soup is None else soup.to_json(),
        }


def _require(*modules: str, extra: str) -> None:
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(f"{module} is not installed; pip install 'fgr-edge[{extra}]'")
