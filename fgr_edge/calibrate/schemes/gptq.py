"""Weight-only int4 that makes up for each column's rounding error in the columns rounded after it.

In: float32 weight [n, K] and the gram matrix [K, K] of the layer's inputs. Out: `Levels` of 4 bits whose error E makes
E X^T small instead of E. Rows are independent; what depends on the inputs alone is a `Compensation`, made once for a
matrix. Source: GPTQ (Frantar et al., 2023), in the form of QuIP (Chee et al., 2023, theorem 6): with the gram matrix
H = (I + F) D (I + F)^T, F strictly upper triangular, column k is rounded at w_k + e_{<k} F_{<k, k}, where e is the
error of the columns before it. That is GPTQ's update without the inverse of H.

Columns that matter most come first, while errors can still be made up for ("act-order"). The scales stay those of the
blocks in their stored order, so that the layout is the same as without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.schemes import int4
from fgr_edge.calibrate.schemes.blocks import Bytes, Floats, Levels, blocked, inverse
from fgr_edge.errors import EngineError

DAMPING = (0.01, 0.1, 1.0)  # added to the diagonal, of its mean: the first with which the gram matrix is definite
STEP = 128  # columns whose feedback is a product of vectors; that of all before them is one matrix product


@dataclass(frozen=True, slots=True, eq=False)
class Compensation:
    """Of one matrix.

    Attributes:
        order: [K] columns, in the order of rounding.
        feedback: [K, K] float32, F, rows and columns in that order.
    """

    order: npt.NDArray[np.int64]
    feedback: Floats

    @classmethod
    def of(cls, gram: Floats) -> Compensation:
        """From X^T X [K, K], by whatever number of rows divided.

        Raises:
            EngineError: the gram matrix is not one of finite inputs.
        """
        weight = np.diagonal(gram).astype(np.float64)
        if not np.isfinite(gram).all() or weight.min() < 0:
            raise EngineError(
                "the inputs of a layer are not finite numbers on the calibration pictures; the checkpoint is broken, "
                "or the pictures are: look at an fp32 export first"
            )
        order = np.argsort(-weight, kind="stable")
        # Cholesky of the matrix turned around gives the upper factor: H = R R^T.
        turned = gram[np.ix_(order[::-1], order[::-1])].astype(np.float64)
        upper = _cholesky(turned, float(weight.mean()) or 1.0)[::-1, ::-1]
        feedback = (upper / np.diagonal(upper)).astype(np.float32)
        np.fill_diagonal(feedback, 0)
        return cls(order, feedback)


def quantize(rows: Floats, compensation: Compensation, block_size: int, grid: int4.Grid) -> Levels:
    """Round column after column.

    Args:
        rows: [n, K] float32.
        compensation: of the matrix that the rows are from.
        block_size, grid: as for `int4.quantize`.
    """
    blocks = blocked(rows, block_size)
    scale, zero_point = grid(blocks)
    order, feedback = compensation.order, compensation.feedback
    # By columns: what a step touches lies together.
    columns = np.ascontiguousarray(rows.T[order])  # [K, n]
    by_block = (scale.T.copy(), inverse(scale).T.copy(), zero_point.T.astype(np.float32))
    errors = np.zeros_like(columns)
    levels: Bytes = np.empty(columns.shape, np.uint8)
    for start in range(0, len(order), STEP):
        stop = min(start + STEP, len(order))
        wanted = columns[start:stop] + feedback[:start, start:stop].T @ errors[:start]
        for k in range(start, stop):
            step, per_step, zero = (values[order[k] // block_size] for values in by_block)
            wanted[k - start] += feedback[start:k, k] @ errors[start:k]
            level = np.clip(np.rint(wanted[k - start] * per_step) + zero, 0, int4.TOP)
            errors[k] = columns[k] - (level - zero) * step
            levels[k] = level
    values = np.repeat(zero_point[:, :, None], block_size, axis=2)
    values.reshape(len(rows), -1)[:, order] = levels.T
    return Levels(values, scale, zero_point, rows.shape[1])


def _cholesky(gram: npt.NDArray[np.float64], mean: float) -> npt.NDArray[np.float64]:
    """Lower factor of the damped matrix, which is changed; few inputs, or the same ones again, leave it singular."""
    diagonal = np.diagonal(gram).copy()
    for damping in DAMPING:
        np.fill_diagonal(gram, diagonal + damping * mean)
        try:
            return np.asarray(np.linalg.cholesky(gram), np.float64)
        except np.linalg.LinAlgError:
            continue
    raise EngineError(
        f"the inputs of a layer have no positive definite gram matrix, even with {DAMPING[-1]} of its mean added; "
        "expected that of the calibration pictures' inputs: calibrate again, or choose int4 without GPTQ"
    )
