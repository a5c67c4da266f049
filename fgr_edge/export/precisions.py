"""What one word of `--precision` stands for: a scheme for each part of the model, how its weights are fitted, and what
a layer that must not lose is kept in. One row of a table each; single parts can be set otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fgr_edge.calibrate.plan import PARTS, Part, Plan
from fgr_edge.calibrate.schemes import SCHEMES
from fgr_edge.calibrate.schemes.scheme import BlockWeights, Scheme, WeightsAndInputs
from fgr_edge.errors import ConfigError

Method = Literal["nearest", "awq", "gptq", "smoothquant"]
METHODS: tuple[Method, ...] = ("nearest", "awq", "gptq", "smoothquant")


@dataclass(frozen=True, slots=True)
class Precision:
    """Schemes by part, by name.

    Attributes:
        name: of the `--precision` option.
        vision, decoder, head: scheme names (`calibrate.schemes`).
        method: how scales and roundings are found; "nearest" needs no photographs.
        higher: schemes for sensitive layers, the first that the target can run is taken.
    """

    name: str
    vision: str
    decoder: str
    head: str
    method: Method = "nearest"
    higher: tuple[str, ...] = ("fp32", "fp16")

    @property
    def schemes(self) -> tuple[str, ...]:
        """Of the parts, in the order of `PARTS`."""
        return self.vision, self.decoder, self.head

    @property
    def calibrated(self) -> bool:
        """Whether photographs decide anything about the weights."""
        return self.method != "nearest" or any(isinstance(SCHEMES[name], WeightsAndInputs) for name in self.schemes)

    def plan(self) -> Plan:
        """The schemes of all parts, nothing kept."""
        vision, decoder, head = (self._rounded(SCHEMES[name]) for name in self.schemes)
        return Plan(vision, decoder, head)

    def _rounded(self, scheme: Scheme) -> Scheme:
        if self.method == "gptq" and isinstance(scheme, BlockWeights) and scheme.bits == 4:
            return replace(scheme, rounding="gptq")
        return scheme


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "fp32", "fp32", "fp32"),
        Precision("fp16", "fp16", "fp16", "fp16"),
        Precision("bf16", "bf16", "bf16", "bf16"),
        Precision("int8", "int8", "int8", "int8"),
        # A picture waits for arithmetic, which int4 does not speed up: vision stays int8.
        Precision("int4", "int8", "int4-128", "int4-128", method="gptq", higher=("int8",)),
        Precision("w8a8", "w8a8", "w8a8", "int8", method="smoothquant"),
        Precision("fp8", "fp8", "fp8", "fp8", higher=("fp16",)),
    )
}


def find_precision(name: str, parts: dict[Part, str | None], method: str | None) -> Precision:
    """The row called `name`, with some parts' schemes and the method set otherwise.

    Args:
        parts: part -> scheme name; None keeps the row's.
        method: None keeps the row's.

    Raises:
        ConfigError: there is no such precision, scheme or method, or the method has nothing to work on.
    """
    precision = PRECISIONS.get(name)
    if precision is None:
        raise ConfigError(f"precision {name!r} is not known; choose one of {', '.join(PRECISIONS)}")
    for part, scheme in parts.items():
        if scheme is not None and scheme not in SCHEMES:
            raise ConfigError(f"--{part} {scheme!r} is no scheme; choose one of {', '.join(SCHEMES)}")
    if method is not None and method not in METHODS:
        raise ConfigError(f"method {method!r} is not known; choose one of {', '.join(METHODS)}")
    vision, decoder, head = (parts.get(part) or own for part, own in zip(PARTS, precision.schemes, strict=True))
    asked = next((known for known in METHODS if known == method), precision.method)
    precision = replace(precision, vision=vision, decoder=decoder, head=head, method=asked)
    if precision.method in ("awq", "gptq") and not any(_is_int4(scheme) for scheme in precision.schemes):
        raise ConfigError(f"method {precision.method!r} is for int4 weights, and {name!r} has none; leave --method out")
    if precision.method == "smoothquant" and not any(_is_w8a8(scheme) for scheme in precision.schemes):
        raise ConfigError("method 'smoothquant' is for w8a8, which no part has; leave --method out")
    return precision


def _is_int4(name: str) -> bool:
    scheme = SCHEMES[name]
    return isinstance(scheme, BlockWeights) and scheme.bits == 4


def _is_w8a8(name: str) -> bool:
    scheme = SCHEMES[name]
    return isinstance(scheme, WeightsAndInputs) and scheme.kind == "int8"
