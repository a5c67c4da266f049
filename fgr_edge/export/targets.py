"""A target is a dialect plus the choices that fit its engine: one row of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fgr_edge.errors import ConfigError
from fgr_edge.export.dialects.dialect import Dialect
from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a bundle runs.

    Attributes:
        name: of the `--target` option and of manifests.
        dialect: makes the dialect for a precision.
        precisions: those that the target can run.
    """

    name: str
    dialect: Callable[[Precision], Dialect]
    precisions: tuple[Precision, ...]


TARGETS = {
    target.name: target
    for target in (
        Target("cpu", lambda precision: OnnxRuntimeDialect(precision, "float32"), PRECISIONS),
        # CUDA's GroupQueryAttention has float16 and bfloat16 kernels only: the cache is float16. It takes no mask.
        Target("cuda", lambda precision: OnnxRuntimeDialect(precision, "float16", tree_attention=False), PRECISIONS),
    )
}


def find_target(name: str, precision: str) -> tuple[Target, Precision]:
    """The row called `name`, with `precision` checked against it.

    Raises:
        ConfigError: there is no such target, or it cannot run that precision.
    """
    target = TARGETS.get(name)
    if target is None:
        raise ConfigError(f"target {name!r} is not supported; choose one of {', '.join(TARGETS)}")
    for known in target.precisions:
        if known == precision:
            return target, known
    raise ConfigError(
        f"target {name!r} cannot run precision {precision!r}; choose one of {', '.join(target.precisions)}"
    )
