"""This project's bundles for a comparison: every layer of the decoder and its head in one scheme, rounded to nearest.

Vision is int8 where the decoder is quantized, as in `fgr-edge export`; what rounding is fitted to costs no time later.
"""

from __future__ import annotations

from pathlib import Path

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import BlockWeights, Scheme
from fgr_edge.export.assembly import BundleOptions, write_bundle
from fgr_edge.export.checkpoint import Checkpoint
from fgr_edge.export.model import open_model
from fgr_edge.export.targets import TARGETS


def scheme_of(weights: str) -> Scheme:
    """A scheme of the export, or `int8-32`, which is there to be compared with llama.cpp's Q8_0."""
    if weights == "int8-32":
        return BlockWeights("int8-32", 8, 32)
    return SCHEMES["int8" if weights == "int8-128" else weights]


def write_scheme_bundle(checkpoint: Path, weights: str, output: Path) -> Path:
    """Export to `output`, unless a bundle is there."""
    if not (output / "manifest.json").exists():
        model = open_model(Checkpoint.open(checkpoint))
        scheme = scheme_of(weights)
        plan = Plan(SCHEMES["fp32" if weights == "fp32" else "int8"], scheme, scheme)
        options = BundleOptions(checkpoint.name, model.checkpoint.digest(), screened=None, title=weights)
        write_bundle(model, TARGETS["cpu"], plan, output, options)
    return output
