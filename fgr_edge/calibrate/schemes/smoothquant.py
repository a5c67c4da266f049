"""How much of a layer's range moves from its inputs into its weight, so that both round well (Xiao et al., 2023).

In: magnitudes of the weight's columns and of the inputs. Out: a scale s [K]; columns are multiplied by it and the
inputs divided, which changes nothing that the layer computes. Who divides the inputs is for whoever folds.
"""

from __future__ import annotations

import numpy as np

from fgr_edge.calibrate.schemes.blocks import Floats

ALPHA = 0.5
_SMALLEST = 1e-5  # of a magnitude, of the largest: an input that was never seen says nothing


def migration_scale(weight: Floats, inputs: Floats, alpha: float = ALPHA) -> Floats:
    """s = inputs^alpha / weight^(1 - alpha), with a geometric mean of 1.

    Args:
        weight: [K], largest magnitude of each column, over all matrices that take the input.
        inputs: [K], largest magnitude of each input on the calibration pictures.
        alpha: 0 leaves all range to the inputs, 1 moves all of it into the weight.
    """
    scale = _floored(inputs) ** alpha / _floored(weight) ** (1 - alpha)
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)


def _floored(magnitude: Floats) -> Floats:
    largest = max(float(magnitude.max()), float(np.finfo(np.float32).tiny) / _SMALLEST)
    floored: Floats = np.maximum(magnitude, np.float32(largest * _SMALLEST))
    return floored
