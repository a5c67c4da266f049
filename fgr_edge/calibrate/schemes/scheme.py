"""What a quantization scheme is: how the weight of one linear layer is stored and computed with.

A scheme says what, its module says how (`quantize`, `dequantize`), and a dialect says how its engine spells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What calibration saw of the inputs X [tokens, K] of one linear layer.

    Attributes:
        abs_mean: [K], mean magnitude of each input.
        abs_max: [K], largest magnitude of each input.
        sample: [n, K], some rows of X.
        gram: [K, K], X^T X / tokens over all rows; None where no scheme asked for it.
    """

    abs_mean: Floats
    abs_max: Floats
    sample: Floats
    gram: Floats | None = None


@dataclass(frozen=True, slots=True)
class Plain:
    """Weights as floating-point numbers."""

    name: str
    dtype: Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Weight-only integers with one scale per block of columns of a row.

    Attributes:
        name: in manifests and options.
        bits: of a weight.
        block_size: columns that share a scale; None is one scale for the whole row.
        asymmetric: whether a block has a zero point of its own.
        rounding: to the nearest level, or GPTQ's, which makes up for each error in the columns that follow.
    """

    name: str
    bits: Literal[4, 8]
    block_size: int | None
    asymmetric: bool = False
    rounding: Literal["nearest", "gptq"] = "nearest"


@dataclass(frozen=True, slots=True)
class WeightsAndInputs:
    """Eight bits for weights (one scale a row) and for the layer's inputs."""

    name: str
    kind: Literal["int8", "fp8"]


Scheme = Plain | BlockWeights | WeightsAndInputs
