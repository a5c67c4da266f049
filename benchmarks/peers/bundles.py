"""This project's bundles for a comparison: every layer of the decoder and its head in one scheme, rounded to nearest.

Vision is int8 where the decoder is quantized, as in `fgr-edge export`, or w8a8. What rounding is fitted to costs no
time later.
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


def plan_of(weights: str) -> Plan:
    """The scheme of every layer, for a layout as `Contender.weights` names it."""
    if weights == "w8a8":  # as `fgr-edge export --precision w8a8`: the head's one row gains nothing from it
        return Plan(SCHEMES["w8a8"], SCHEMES["w8a8"], SCHEMES["int8-channel"])
    decoder = scheme_of(weights.removesuffix("-w8a8"))
    vision = "w8a8" if weights.endswith("-w8a8") else "fp32" if weights == "fp32" else "int8"
    return Plan(SCHEMES[vision], decoder, decoder)


def write_scheme_bundle(checkpoint: Path, weights: str, output: Path) -> Path:
    """Export to `output`, unless a bundle is there."""
    if not (output / "manifest.json").exists():
        model = open_model(Checkpoint.open(checkpoint))
        options = BundleOptions(checkpoint.name, model.checkpoint.digest(), screened=None, title=weights)
        write_bundle(model, TARGETS["cpu"], plan_of(weights), output, options)
    return output
