"""Which engine runs a bundle's graphs, and how it opens them.

In: a bundle, and where to run it, if not where it was exported for. Out: `Graphs`, which opens one session a graph.
Does not know what the graphs compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from fgr_edge.errors import EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.sessions.onnxruntime import Device as OnnxRuntimeDevice
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.session import Session

Device = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of one bundle on one engine.

    Attributes:
        session: opens a graph by its file's name.
        exact_float32: whether float32 products are float32 (CUDA's may be TF32): what a screened head relies on.
    """

    session: Callable[[str], Session]
    exact_float32: bool


def open_graphs(bundle: Bundle, device: Device | None, threads: int | None) -> Graphs:
    """Open the engine for `bundle`.

    Args:
        device: None takes the bundle's target; "cpu" runs every bundle.
        threads: for one operator of ONNX Runtime; None takes one per core.

    Raises:
        EngineError, MissingExtraError: the engine is missing, or there is none for this bundle.
    """
    chosen = device or bundle.manifest["target"]
    if chosen in ("cpu", "cuda"):
        onnxruntime_device = cast(OnnxRuntimeDevice, chosen)
        return Graphs(
            lambda name: OnnxRuntimeSession(bundle.file(name), onnxruntime_device, threads),
            exact_float32=chosen == "cpu",
        )
    raise EngineError(
        f"the bundle is for target {chosen!r} and holds graphs, but no engine, which this version of fgr-edge does not "
        "build yet; give device='cpu' to run its graphs on ONNX Runtime (slow: the reference of its numbers), or "
        "export for target cpu"
    )
