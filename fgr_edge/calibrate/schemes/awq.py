"""AWQ: a scale for each input of a layer, so that the weights that see large inputs are rounded more finely.

In: rows of the weight(s) that take one input, what calibration saw of it, and how the weight will be rounded. Out: a
scale s [K]; columns are multiplied by it, then rounded, and the inputs divided. Source: Lin et al., 2024, "AWQ:
Activation-aware Weight Quantization", section 3.2: s = mean magnitude of the inputs to a power, the power searched for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fgr_edge.calibrate.schemes.blocks import Floats
from fgr_edge.calibrate.schemes.scheme import InputStatistics

STEPS = 20  # of the power, from 0, which changes nothing, to 1
_SMALLEST = 1e-4  # of an input's mean magnitude, of the largest: one that was never seen says nothing
Rounding = Callable[[Floats], Floats]


def search_scale(
    rows: Floats,
    inputs: InputStatistics,
    quantize_dequantize: Rounding,
    shared: Callable[[Floats], Floats] | None = None,
) -> Floats:
    """The scale [K] with the least error of the layer's outputs on the sampled inputs.

    Args:
        rows: [n, K] float32 of all matrices that take the input, or a sample of them.
        inputs: mean magnitudes and a sample.
        quantize_dequantize: rows to what an engine will compute with.
        shared: makes a scale equal for inputs that cannot be scaled apart; None where all can.
    """
    base = _relative(inputs.abs_mean)
    best, least = np.ones(rows.shape[1], np.float32), np.inf
    for step in range(STEPS):
        scale = base ** np.float32(step / STEPS)
        scale /= np.sqrt(scale.max() * scale.min())
        if shared is not None:
            scale = shared(scale)
        found = output_error(rows, quantize_dequantize(rows * scale) / scale, inputs.sample)
        if found < least:
            best, least = scale, found
    return best.astype(np.float32)


def output_error(rows: Floats, rounded: Floats, sample: Floats) -> float:
    """Mean square of (rounded - rows) times inputs [n, K]."""
    return float(np.mean(np.square(sample @ (rounded - rows).T), dtype=np.float64))


def _relative(magnitude: Floats) -> Floats:
    largest = max(float(magnitude.max()), float(np.finfo(np.float32).tiny) / _SMALLEST)
    relative: Floats = np.maximum(magnitude / np.float32(largest), np.float32(_SMALLEST))
    return relative
