"""Which scheme each linear layer gets: one per part of the model, and higher ones for the layers that need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fgr_edge.calibrate.schemes.scheme import InputStatistics, Scheme

Part = Literal["vision", "decoder", "head"]
PARTS: tuple[Part, ...] = ("vision", "decoder", "head")


def part_of(unit: str) -> Part:
    """The part that a unit belongs to."""
    return next(part for part in PARTS if unit.split(".")[0] == part)


def no_inputs(name: str) -> InputStatistics | None:
    """Nothing was calibrated."""
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """Schemes of a whole model.

    Attributes:
        vision, decoder, head: of the parts.
        kept: unit ("decoder.3", "vision.merger", "head", ...) -> its own scheme, instead of its part's.
        inputs: matrix name -> what calibration saw of its inputs, None where it saw nothing.
    """

    vision: Scheme
    decoder: Scheme
    head: Scheme
    kept: Mapping[str, Scheme] = field(default_factory=dict)
    inputs: Callable[[str], InputStatistics | None] = no_inputs

    @classmethod
    def uniform(cls, scheme: Scheme) -> Plan:
        """The same scheme everywhere."""
        return cls(scheme, scheme, scheme)

    def scheme(self, part: Part, unit: str) -> Scheme:
        """The scheme of a matrix in `unit` of `part`."""
        own = self.kept.get(unit)
        if own is not None:
            return own
        return {"vision": self.vision, "decoder": self.decoder, "head": self.head}[part]

    def names(self) -> dict[str, str]:
        """Scheme of each part by name, as in the manifest's `precision`."""
        return {"vision": self.vision.name, "decoder": self.decoder.name, "head": self.head.name}
