"""How ONNX Runtime uses a CPU: what changes speed and memory, and results no further than by rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fgr_edge.errors import ConfigError

Spinning = Literal["during calls", "never", "always"]
Products = Literal["fgr-edge", "onnxruntime"]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings of a session on the CPU.

    Attributes:
        threads: for one operator; None takes one per physical core.
        spinning: whether idle workers spin for their next piece of work. "always" goes on after a call: the vision and
            decoder sessions take turns on the same cores, and a worker that spins on takes half of the other's speed
            (vision of nano 15 -> 7 ms on 2 cores without).
        arena: whether activations come from a pool that is kept, or from the system's allocator and go back to it.
        huge_pages: whether weights are moved onto huge pages once a graph is open, which takes a second or two a
            gigabyte.
        products: whose kernels multiply weights of 4 or 8 bits, and attend. "fgr-edge" are our own, where they can be
            used (see `runtime.kernels.library`); they are faster, and a row's result does not depend on how many rows
            are computed together. Both round inputs to int8 in the same blocks and multiply integers exactly; float32
            sums over blocks are in another order. So the last bits of results differ, and by more where a last bit
            rounds the input of a later layer to the next step, as between two processors.

    Raises:
        ConfigError: a value is none of these.
    """

    threads: int | None = None
    spinning: Spinning = "during calls"
    arena: bool = True
    huge_pages: bool = False
    products: Products = "fgr-edge"

    def __post_init__(self) -> None:
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise ConfigError(f"threads is {self.threads!r}, expected a whole number of at least 1, or None")
        for name, choices in (("spinning", get_args(Spinning)), ("products", get_args(Products))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name in ("arena", "huge_pages"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected True or False")
