"""The screen of a head: whether it gets one, and how far each row of its coarse copy is from the exact one.

In: the head [V, H], target and plan. Out: the plan of the coarse copy, and screen.npz with `errors` and `rows`, float32
[V], upper bounds of Euclidean norms (`runtime/screen_bounds.py` says what for). Memory in use is a chunk of the weight.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.reference import reference_weight
from fgr_edge.calibrate.schemes.scheme import BlockWeights, Scheme
from fgr_edge.errors import ConfigError
from fgr_edge.export.dialects.products import narrowed
from fgr_edge.export.progress import Step
from fgr_edge.export.targets import Target
from fgr_edge.export.weights import Matrix
from fgr_edge.runtime.manifest import ScreenPart

Floats = npt.NDArray[np.float32]
PAYS_FROM_BYTES = 64_000_000  # a smaller float32 head stays in a processor's caches, where reading less gains nothing


def screen_plan(head: Matrix, target: Target, plan: Plan, wanted: bool | None) -> Plan | None:
    """The plan of the head's coarse copy; None where it gets none.

    Args:
        wanted: None decides by size.

    Raises:
        ConfigError: it is wanted, and the target or the head's scheme allows none.
    """
    scheme = plan.scheme(head.part, head.unit)
    if wanted:
        require_screen(target, scheme)
    large = head.rows * head.columns * 4 >= PAYS_FROM_BYTES
    if target.screen is None or scheme != SCHEMES["fp32"] or not (large if wanted is None else wanted):
        return None
    coarse = SCHEMES[target.screen]
    assert isinstance(coarse, BlockWeights)
    return Plan.uniform(narrowed(coarse, head.columns))  # the bounds are those of the blocks that the engine gets


def require_screen(target: Target, head: Scheme) -> None:
    """Refuse a target or a scheme of the head that allows no screen.

    Raises:
        ConfigError: says which.
    """
    if target.screen is None or head != SCHEMES["fp32"]:
        raise ConfigError(
            f"a screened head needs target cpu and a head in fp32; found target {target.name!r} and a head in "
            f"{head.name}: change these, or leave the screen out"
        )


def screen_part(plan: Plan) -> ScreenPart:
    """The manifest's `screen`."""
    assert isinstance(plan.head, BlockWeights) and plan.head.block_size is not None
    return {"scheme": plan.head.name, "block_size": plan.head.block_size}


def write_norms(head: Matrix, plan: Plan, path: Path, step: Step) -> None:
    """Write `path`, a .npz file, for a coarse copy by `plan`; `step` is called with the weights done."""
    rounded = reference_weight(plan.head)
    parts = []
    for rows in head.chunks():
        parts.append(_norms(rows, rounded(rows)))
        step(rows.size)
    errors, rows = (np.concatenate(values) for values in zip(*parts, strict=True))
    np.savez(path, errors=errors, rows=rows)


def _norms(rows: Floats, coarse: Floats) -> tuple[Floats, Floats]:
    errors = _norm(rows.astype(np.float64) - coarse)
    return _rounded_up(errors), _rounded_up(np.maximum(_norm(rows), _norm(coarse)))


def _norm(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms


def _rounded_up(norms: npt.NDArray[np.float64]) -> Floats:
    """The next float32 above, and a little more: float64 sums round, too."""
    return np.nextafter((norms * (1 + 1e-9)).astype(np.float32), np.float32(np.inf))
