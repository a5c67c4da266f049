"""A target is a dialect plus the choices that fit its engine: one row of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fgr_edge.calibrate.plan import Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.errors import ConfigError
from fgr_edge.export.dialects.dialect import Dialect
from fgr_edge.export.dialects.onnxruntime import OnnxRuntimeDialect
from fgr_edge.export.dialects.standard import StandardDialect


@dataclass(frozen=True, slots=True)
class Target:
    """Where a bundle runs.

    Attributes:
        name: of the `--target` option and of manifests.
        dialect: makes the dialect for a plan.
        schemes: names of those that the target can run (see `calibrate.schemes`).
        screen: scheme of the coarse copy that a float32 head may get for greedy decoding; None where it would not help.
        split_head: whether the head is a graph of its own: an engine of it is built apart, in memory that the layers do
            not hold meanwhile, and only for the few rows that want logits.
    """

    name: str
    dialect: Callable[[Plan], Dialect]
    schemes: tuple[str, ...]
    screen: str | None = None
    split_head: bool = False


_WEIGHTS_ONLY = ("fp32", "fp16", "bf16", "int8", "int8-channel", "int4-32", "int4-128")


def _cuda(plan: Plan) -> Dialect:
    # CUDA's GroupQueryAttention has float16 and bfloat16 kernels only: the cache is float16. It takes no mask.
    return OnnxRuntimeDialect(plan, "float16", bfloat16_products=True, tree_attention=False, native_attention=False)


TARGETS = {
    target.name: target
    for target in (
        Target("cpu", OnnxRuntimeDialect, (*_WEIGHTS_ONLY, "w8a8"), screen="int8"),
        # DynamicQuantizeMatMul has no CUDA kernel.
        Target("cuda", _cuda, _WEIGHTS_ONLY),
        # Graphs only: `fgr-edge build` makes the engines, and rewrites the graphs for versions that know fewer
        # operators (`dialects/lowering`). What a GPU's generation lacks is in `gpus`.
        Target("tensorrt", StandardDialect, tuple(SCHEMES), split_head=True),
        Target("tensorrt-rtx", StandardDialect, tuple(SCHEMES), split_head=True),
    )
}


def find_target(name: str, schemes: tuple[str, ...]) -> Target:
    """The row called `name`, with the `schemes` asked for checked against it.

    Raises:
        ConfigError: there is no such target, or it cannot run one of the schemes.
    """
    target = TARGETS.get(name)
    if target is None:
        raise ConfigError(f"target {name!r} is not supported; choose one of {', '.join(TARGETS)}")
    for scheme in schemes:
        if scheme not in target.schemes:
            raise ConfigError(
                f"target {name!r} cannot run precision {scheme!r}; choose one of {', '.join(target.schemes)}"
            )
    return target
