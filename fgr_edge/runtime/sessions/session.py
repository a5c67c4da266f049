"""What the runtime asks of an inference engine. A session knows tensors by name, never a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


class Buffer(Protocol):
    """A tensor that stays where it is between calls, with a host view to write inputs to and read results from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    @property
    def array(self) -> Array:
        """The host view: ask for it anew each time, an engine may still be reading what was written last."""

    def upload(self) -> None:
        """Make what was written to `array` visible to the engine."""

    def upload_around(self, rows: slice, source: Buffer, first: int) -> None:
        """As `upload`, but `rows` of the last axis but one are those of `source` from its row `first` on.

        Rows that the engine keeps elsewhere than on the host do not come by there. Leading axes measure 1.
        """

    def download(self) -> None:
        """Make what the engine wrote visible in `array`."""


class Session(Protocol):
    """One loaded graph."""

    input_names: frozenset[str]

    def longest(self, name: str, axis: int) -> int | None:
        """The most that an axis of an input may measure; None where the graph takes any (or has no such input)."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on host arrays; returns every output by name."""

    def run_resident(self, inputs: Mapping[str, Array]) -> dict[str, Buffer]:
        """As `run`, but outputs stay where the engine works, and nothing waits for them: buffers of their own."""

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, on_host: bool = False) -> Buffer:
        """A zeroed buffer; `on_host` for the few tensors that engines read on the CPU wherever they run."""

    def bind(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """Tie buffers to names and return a call that runs the graph on them, in place and without allocating.

        The same buffer may be an input and an output (a KV cache). A bound call stays valid as long as its buffers.
        """


class HostArray:
    """A buffer that is an array of the host and no more: for engines that work there."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def upload(self) -> None:
        """Nothing to do: the engine reads `array` itself."""

    def upload_around(self, rows: slice, source: Buffer, first: int) -> None:
        """Rows of `source` are copied into `array`."""
        put_rows(self.array, rows, source, first)

    def download(self) -> None:
        """Nothing to do: the engine writes `array` itself."""


def host_view(buffer: Buffer) -> Array:
    """What a buffer holds, on the host; waits for it where the engine keeps it elsewhere."""
    buffer.download()
    return buffer.array


def put_rows(array: Array, rows: slice, source: Buffer, first: int) -> None:
    """Copy rows of `source`, from `first` on, over `rows` of the last axis but one of a host array."""
    array[..., rows, :] = host_view(source)[..., first : first + rows.stop - rows.start, :]
