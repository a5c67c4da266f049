"""Which engine runs a bundle's graphs, and how it opens them.

In: a bundle, and where to run it, if not where it was exported for. Out: `Graphs`, which opens one session a graph.
Does not know what the graphs compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from fgr_edge.errors import EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.engine_record import Product, check_sources, find_engines
from fgr_edge.runtime.sessions.onnxruntime import Device as OnnxRuntimeDevice
from fgr_edge.runtime.sessions.onnxruntime import OnnxRuntimeSession
from fgr_edge.runtime.sessions.session import Session
from fgr_edge.runtime.sessions.settings import SessionSettings
from fgr_edge.runtime.tuning import tuned_settings

Device = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs of one bundle on one engine.

    Attributes:
        session: opens a graph by its file's name.
        exact_float32: whether float32 products are float32 (CUDA's may be TF32): what a screened head relies on.
        cache_on_host: whether buffers are the host's own memory, where tokens of a cache can be moved.
    """

    session: Callable[[str], Session]
    exact_float32: bool
    cache_on_host: bool = False


def open_graphs(
    bundle: Bundle, device: Device | None, threads: int | None, settings: SessionSettings | None = None
) -> Graphs:
    """Open the engine for `bundle`.

    Args:
        device: None takes the bundle's target; "cpu" runs every bundle, on ONNX Runtime: the reference of its numbers.
        threads: for one operator of ONNX Runtime; None takes that of `settings`.
        settings: of ONNX Runtime on the CPU; None takes those that `fgr-edge tune` found here.

    Raises:
        EngineError, MissingExtraError: the engine is missing, or there is none for this bundle.
    """
    chosen = device or bundle.manifest["target"]
    if chosen in ("cpu", "cuda"):
        onnxruntime_device = cast(OnnxRuntimeDevice, chosen)
        if settings is None:
            settings = tuned_settings(bundle) if chosen == "cpu" else SessionSettings()
        return Graphs(
            lambda name: OnnxRuntimeSession(bundle.file(name), onnxruntime_device, threads, settings),
            exact_float32=chosen == "cpu",
            cache_on_host=chosen == "cpu",
        )
    if chosen in ("tensorrt", "tensorrt-rtx"):
        return _open_engines(bundle, cast(Product, chosen))
    raise EngineError(
        f"the bundle is for target {chosen!r}, which this version of fgr-edge does not know; upgrade it, or give "
        "device='cpu' to run its graphs on ONNX Runtime"
    )


def _open_engines(bundle: Bundle, product: Product) -> Graphs:
    """The engines that `fgr-edge build` made here from the bundle's graphs, on one stream of the GPU."""
    # Here, so that ONNX Runtime alone starts as fast as before.
    from fgr_edge.runtime.sessions.tensorrt import TensorRTSession
    from fgr_edge.runtime.sessions.tensorrt_library import Library

    target = bundle.manifest["target"]
    if target not in ("tensorrt", "tensorrt-rtx"):
        raise EngineError(
            f"the bundle is for target {target!r}, whose graphs {product} does not build; export it with "
            f"--target {product}"
        )
    library = Library(product)
    gpu = library.cuda.gpu
    record = find_engines(bundle.path, product, library.version, gpu.name, gpu.sm)
    check_sources(record, {name: entry["sha256"] for name, entry in bundle.manifest["files"].items()})
    engines = {}
    for name, file in record.engines.items():
        path = record.path(name)
        # A stripped engine takes its weights from the graph that it was built from, which lies beside it.
        engines[name] = library.read_engine(path, path.with_suffix(".onnx") if file.stripped else None)
    library.share_activations(list(engines.values()))

    def session(name: str) -> Session:
        graph = Path(name).stem
        path = record.path(graph)
        return TensorRTSession(library, engines[graph], path.name)

    return Graphs(session, exact_float32=False)
