"""Checkpoint to bundle, as `fgr-edge export` does it: open, calibrate, quantize, prove.

Stages: everything checked before a byte is written; adapters and soups laid over the checkpoint; what the photographs
show (`calibration`); the bundle, written by `assembly`; its proof against the original (`proof`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import MissingExtraError
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.targets import find_target
from fgr_edge.runtime.bundle_writer import check_output
from fgr_edge.runtime.labels import read_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What to export and how.

    Attributes:
        source: checkpoint folder, or a hub id "owner/name".
        output: the bundle's folder.
        target: a row of `targets.TARGETS`.
        precision: of the linear layers.
        labels: file of class names to store in the bundle (see `runtime.label_files`).
        image_size: (width, height); pictures are resized to at most so many pixels.
        force: replace a bundle that is there.
        quiet: no progress bar.
    """

    source: str | Path
    output: Path
    target: str = "cpu"
    precision: str = "int8"
    labels: Path | None = None
    image_size: tuple[int, int] | None = None
    force: bool = False
    quiet: bool = False


def export_checkpoint(config: ExportConfig) -> Path:
    """Export a checkpoint and return the bundle's folder.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        OutputExistsError: the output exists and `force` is not set.
        StorageError: the disk is full or not writable.
        LabelError, ConfigError: an option cannot be used.
        MissingExtraError: the `export` extra is not installed.
    """
    _require_onnx()
    started = time.perf_counter()
    target = find_target(config.target, (config.precision,))
    plan = Plan.uniform(SCHEMES[config.precision])
    labels = read_labels(config.labels) if config.labels is not None else None
    check_output(config.output, force=config.force)
    model = open_model(Checkpoint.open(config.source))
    options = BundleOptions(str(config.source), labels, config.image_size, quiet=config.quiet)
    write_bundle(model, target, plan, config.output, options, force=config.force)
    log.info("bundle %s written in %.1f s", config.output, time.perf_counter() - started)
    return config.output


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed; pip install 'fgr-edge[export]'") from error
