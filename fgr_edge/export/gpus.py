"""NVIDIA GPUs by name, and which schemes their generation can compute with: one row of a table each.

A generation is its compute capability, "SM": 87 is 8.7. Checked with TensorRT-RTX 1.7.1, which builds for GPUs that are
not there: it refuses bf16 and int4 on SM75 and FP8 on SM75, 80 and 86; what it builds for is `RTX_SM`.
Source of the other names: NVIDIA's list of compute capabilities, https://developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fgr_edge.errors import ConfigError

NAMES = {
    "orin-nano": 87,
    "orin-nx": 87,
    "agx-orin": 87,
    "thor": 110,
    "t4": 75,
    "rtx-20": 75,
    "a100": 80,
    "a10": 86,
    "rtx-30": 86,
    "l4": 89,
    "l40s": 89,
    "rtx-40": 89,
    "h100": 90,
    "h200": 90,
    "b200": 100,
    "rtx-50": 120,
    "dgx-spark": 121,
}
GENERATIONS = (75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
RTX_SM = (75, 80, 86, 89, 120, 121)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as a user calls it, and its generation."""

    name: str
    sm: int


@dataclass(frozen=True, slots=True)
class _Need:
    """The first generation whose units compute a scheme, and what to use before it."""

    sm: int
    instead: str


_NEEDS = {
    "bf16": _Need(80, "fp16"),
    "int4-32": _Need(80, "int8"),
    "int4-128": _Need(80, "int8"),
    "fp8": _Need(89, "w8a8 (8 bits for weights and inputs) or int8 (weights only)"),
}


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`: a row of `NAMES`, or a generation: "sm87".

    Raises:
        ConfigError: there is none.
    """
    wanted = name.strip().lower()
    if wanted in NAMES:
        return Gpu(wanted, NAMES[wanted])
    generation = re.fullmatch(r"sm_?(\d+)", wanted)
    if generation and int(generation[1]) in GENERATIONS:
        return Gpu(wanted, int(generation[1]))
    known = ", ".join(f"sm{sm}" for sm in GENERATIONS)
    raise ConfigError(f"GPU {name!r} is not known; choose one of {', '.join(NAMES)}, or a generation: {known}")


def check_gpu(name: str, target: str, schemes: Iterable[str]) -> Gpu:
    """The GPU called `name`, refused before any work where it cannot run a bundle.

    Args:
        target: a row of `targets.TARGETS`.
        schemes: names, of parts and of layers that are kept higher.

    Raises:
        ConfigError: no such GPU, the target does not run on it, or it cannot compute in a scheme; says what can.
    """
    gpu = find_gpu(name)
    if target == "cpu":
        raise ConfigError(f"target 'cpu' does not run on {gpu.name}; choose target tensorrt or cuda, or name no GPU")
    if target == "tensorrt-rtx" and gpu.sm not in RTX_SM:
        known = ", ".join(f"SM{sm}" for sm in RTX_SM)
        raise ConfigError(f"TensorRT-RTX builds for {known}, not for {gpu.name} (SM{gpu.sm}); use target tensorrt")
    check_schemes(gpu, schemes)
    return gpu


def check_schemes(gpu: Gpu, schemes: Iterable[str]) -> None:
    """Refuse schemes, by name, that a GPU cannot compute in.

    Raises:
        ConfigError: says what can be used instead.
    """
    for scheme in schemes:
        if not runnable(gpu, scheme):
            need = _NEEDS[scheme]
            raise ConfigError(
                f"{gpu.name} (SM{gpu.sm}) cannot compute in {scheme}, which SM{need.sm} was the first to do; choose "
                f"{need.instead}"
            )


def runnable(gpu: Gpu, scheme: str) -> bool:
    """Whether the GPU computes with a scheme, by name."""
    need = _NEEDS.get(scheme)
    return need is None or gpu.sm >= need.sm
