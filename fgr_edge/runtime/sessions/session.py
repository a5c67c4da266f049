"""What the runtime asks of an inference engine. A session knows tensors by name, never a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


class Buffer(Protocol):
    """A tensor that stays where it is between calls, with a host view to write inputs to and read results from."""

    @property
    def array(self) -> Array:
        """The host view: ask for it anew each time, an engine may still be reading what was written last."""

    def upload(self) -> None:
        """Make what was written to `array` visible to the engine."""

    def download(self) -> None:
        """Make what the engine wrote visible in `array`."""


class Session(Protocol):
    """One loaded graph."""

    input_names: frozenset[str]

    def longest(self, name: str, axis: int) -> int | None:
        """The most that an axis of an input may measure; None where the graph takes any (or has no such input)."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on host arrays; returns every output by name."""

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> Buffer:
        """A zeroed buffer; `on_host` for the few tensors that engines read on the CPU wherever they run."""

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Tie buffers to names and return a call that runs the graph on them, in place and without allocating.

        The same buffer may be an input and an output (a KV cache). A bound call stays valid as long as its buffers.
        """
