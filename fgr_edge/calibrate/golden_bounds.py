"""How far a stage may be from its golden outputs, by precision, and why.

In: arrays of one stage, the manifest's precisions. Out: an error and its bound. Two comparisons, two bounds: with the
bundle's own outputs when it was made (another machine or engine rounds differently) and with the original's
(quantization). A third, of a session with itself, is as tight as the first without the jitter.

Errors of features and of log-probabilities are RMS of the difference over RMS of what is expected, for
log-probabilities around their mean: 0 is equal, 1.4 unrelated. An RMS, because quantization spreads its error over all
values, where a wrong row or an overwritten slot does not stay below the noise.

Measured on models/nano and on random models of both families (three decoder layers and more, widths 48 to 144):

- The bundle's own outputs. fp32 moved by up to 1e-5 when pixels were nudged by 3e-6, and by nothing with 1 or 2 threads
  or without graph optimization. Where layers round their inputs (int8 and below), a nudge in the last bits moves the
  outcome by 0.010 to 0.047, as the kernels that do not round inputs do (accuracy_level 0: 0.011 to 0.063): how much
  depends on the model. It is therefore measured for each bundle when it is made, and 3 times that is allowed. Bundles
  of nano made with ONNX Runtime 1.31.1, numpy 2.4 and Pillow 13 differed under 1.23.2, 1.26 and 10.3 by 1.2e-6 (fp32),
  0.008 to 0.022 (int8) and 0.009 to 0.033 (int4), at most 1.7 times their jitter; pixels by nothing.
- The original. Largest errors: fp16 0.0026, bf16 0.018 (weights alone), int8 0.084, w8a8 0.14, fp8 0.29, int4 0.87
  (blocks of 128 to the nearest in every layer of a random model; 0.51 on nano, which is trained).
- Faults. One layer's q, k and v in another order: 0.094 to 2.0 after prefill, 0.07 to 1.1 after vision. One token that
  attends to one stale slot too many: 0.06 to 0.63. The second picture behind the first one's KV: 0.83 to 1.0. A rotary
  base of 20,000 for 10,000 moves the table by more than 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import BundleError

Kind = Literal["equal", "pixels", "table", "features", "log_probs", "tokens", "none"]
Against = Literal["bundle", "original", "itself"]

PIXELS = 1e-5  # absolute; Pillow resizes in integers, so that only the normalization may round otherwise
TABLES = 1e-4  # absolute; cosines of positions up to some hundreds, whose frequencies are right to 1e-7
HALF_TABLES = 1e-3  # the same stored in float16

# Of the bundle's own outputs: what another engine's kernels may change beyond the jitter measured. fp32 has DESIGN's
# number for logits; half precisions what rounding in every layer costs, three times as much as in the four layers
# measured (errors add up as the square root of the depth: 36 layers); the others what is left when both machines round
# the same inputs. A session that repeats itself is held to the same.
_FLOOR = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2, "int8": 2e-2, "int4": 2e-2, "w8a8": 2e-2, "fp8": 5e-2}
_HALF_CACHE = 1e-2  # KV in float16, whatever the weights are
# Inputs rounded by scales that were fixed at export: a nudge in the last bits moves few of them, so that the jitter
# says little, and an engine with half precision between the layers rounds them all otherwise. That costs about what
# rounding them costs in the first place.
_FIXED_SCALES = {"w8a8": 0.1, "fp8": 0.2}
JITTERS = 3.0

# Of a session's own outputs once more, where its products and attention have the same bits whatever is computed with
# them. What is left are operators of the engine's own, whose last bits may depend on that, and what they move over the
# edge of a level: no more than rounding everything anew, 0.0065.
ALIKE = 1e-2

# Of the original's outputs: two to three times what was measured, for depth and for models less kind than these. For
# int4 that would allow anything: 1.1 is still nearer to the original than unrelated numbers, and no more is claimed.
_ORIGINAL = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 6e-2, "int8": 0.25, "int4": 1.1, "w8a8": 0.4, "fp8": 0.6}

# A token may differ where its lead, in standard deviations of the logits, is within the bound on the two together. The
# largest of many errors is about 4 times their RMS.
LEADS = 8.0

SAME_SESSION: dict[tuple[str, str], tuple[str, str]] = {
    ("decode", "repeated.log_probs"): ("decode", "greedy.log_probs"),
    ("decode", "at_once.log_probs"): ("decode", "greedy.log_probs"),
    ("labels", "after.log_probs"): ("decode", "greedy.log_probs"),
    ("next picture", "again.log_probs"): ("prefill", "first.log_probs"),
}
"""What is compared with another output of the same session, which it repeats."""

_KINDS: dict[str, Kind] = {
    "pixels": "pixels",
    "cos": "table",
    "sin": "table",
    "position_weights": "table",
    "image_embeds": "features",
    "log_probs": "log_probs",
    "tokens": "tokens",
    "leads": "none",
}


def kind_of(key: str) -> Kind:
    """How an output is compared, by the last part of its name."""
    last = key.rpartition(".")[2]
    return "features" if last.startswith("deepstack") else _KINDS.get(last, "equal")


def error_of(kind: Kind, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Error of an output: see the module; values that differ where they must be equal; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if kind == "equal":
        return float(np.count_nonzero(found != expected))
    difference = found.astype(np.float64) - expected
    if kind in ("pixels", "table"):
        return float(np.abs(difference).max(initial=0.0))
    scale = expected.astype(np.float64)
    if kind == "log_probs":
        scale = scale - scale.mean(axis=1, keepdims=True)
    norm = float(np.sqrt(np.square(scale).sum()))
    return float(np.sqrt(np.square(difference).sum())) / (norm or 1.0)


class Bounds:
    """Bounds of one bundle.

    Args:
        precision: the manifest's, scheme by part.
        cache_dtype: the manifest's.
        jitter: by "stage/name", from golden.npz.
        alike: whether this session computes the same for one row as for several (`Model.alike`).

    Raises:
        BundleError: this version does not know a precision.
    """

    def __init__(
        self, precision: Mapping[str, str], cache_dtype: str, jitter: Mapping[str, float], *, alike: bool = False
    ) -> None:
        self._schemes = {part: _scheme(precision[part]) for part in ("vision", "decoder", "head") if part in precision}
        self._half = cache_dtype == "float16"
        self._jitter = jitter
        self._alike = alike

    def of(self, stage: str, key: str, against: Against) -> float:
        """The largest error allowed."""
        kind = kind_of(key)
        if kind in ("equal", "none"):
            return 0.0
        if kind == "pixels":
            return PIXELS
        if kind == "table":
            # The vision graph's tables are float32 whatever the decoder's cache is.
            return HALF_TABLES if self._half and stage != "vision tables" else TABLES
        if kind == "tokens":
            return LEADS * self.of("decode", "greedy.log_probs", against)
        same = SAME_SESSION.get((stage, key))
        floor = self._floor(stage)
        if same is not None and self._alike:
            return min(floor, ALIKE)
        if same is not None:
            return floor if key != "at_once.log_probs" else self._with_jitter(floor, *same)
        own = max(self._with_jitter(floor, stage, key), self._worst(_FIXED_SCALES, stage))
        return own if against == "bundle" else max(own, self._worst(_ORIGINAL, stage))

    def _with_jitter(self, floor: float, stage: str, key: str) -> float:
        return max(floor, JITTERS * self._jitter.get(f"{stage}/{key}", 0.0))

    def _floor(self, stage: str) -> float:
        floor = self._worst(_FLOOR, stage)
        return max(floor, _HALF_CACHE) if self._half and stage != "vision" else floor

    def _worst(self, table: Mapping[str, float], stage: str) -> float:
        """Of the parts that a stage runs through."""
        parts = ("vision",) if stage == "vision" else ("vision", "decoder", "head")
        return max(table.get(self._schemes[part], 0.0) for part in parts if part in self._schemes)


def _scheme(name: str) -> str:
    """Kind of a scheme: "int4-32" is as coarse as "int4-128"."""
    scheme = name.partition("-")[0]
    if scheme not in _FLOOR:
        raise BundleError(
            f"the manifest has precision {name!r}, for which this version knows no bounds (it knows "
            f"{', '.join(_FLOOR)}); verify with the version that exported the bundle"
        )
    return scheme
