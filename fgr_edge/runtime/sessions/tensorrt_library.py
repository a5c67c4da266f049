"""TensorRT and TensorRT-RTX: two products with one Python API, opened on the GPU; engines read from files.

In: a product's name; files of engines. Out: `Library`, engines (`ICudaEngine`), execution contexts. Knows no tensors.

What differs between the products is a row of `PRODUCTS`; what differs between versions is asked of the library. On a
Jetson, JetPack brings its own `tensorrt` (10.3 with JetPack 6.1 and 6.2): make the environment with
`python3 -m venv --system-site-packages` and leave the extra out.

Activations of all engines lie in one block of memory: they run one after another on one stream. That the block is ours
is also what lets a captured CUDA graph live on while its execution context goes on to other shapes.

Not run on hardware: tests drive this on a fake of both libraries.
"""

from __future__ import annotations

import importlib
import logging
import mmap
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgr_edge.errors import EngineError, MissingExtraError
from fgr_edge.runtime.engine_record import Product
from fgr_edge.runtime.sessions.cuda_driver import Cuda, open_cuda
from fgr_edge.runtime.sessions.cuda_memory import Block, GpuMemory

log = logging.getLogger(__name__)

KEPT_MESSAGES = 4
CUDA_MAJORS = (13, 12)


@dataclass(frozen=True, slots=True)
class ProductFacts:
    """One row.

    Attributes:
        module: imported; `extra` installs it.
        compiles_kernels: whether the engine's kernels are compiled for the GPU when it is opened and run, and whether
            a context says if it can be captured: RTX.
    """

    module: str
    extra: str
    compiles_kernels: bool


PRODUCTS: dict[Product, ProductFacts] = {
    "tensorrt": ProductFacts("tensorrt", "tensorrt", compiles_kernels=False),
    "tensorrt-rtx": ProductFacts("tensorrt_rtx", "tensorrt-rtx", compiles_kernels=True),
}


class Library:
    """An open library on the GPU.

    Args:
        product: "tensorrt" or "tensorrt-rtx".

    Attributes:
        facts: the product's row.
        version: of the library, such as "10.3.0".

    Raises:
        MissingExtraError: the library or cuda-python is not installed.
        EngineError: no driver, one too old, or no GPU.
    """

    def __init__(self, product: Product) -> None:
        self.product = product
        self.facts = PRODUCTS[product]
        # First: without a driver the library itself would end the process.
        self.cuda: Cuda = open_cuda(self.facts.extra, _built_for_cuda(self.facts.module))
        self.memory = GpuMemory(self.cuda)
        self._trt = _imported(self.facts)
        self.version = str(self._trt.__version__)
        self._logger = _logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._activations: Block | None = None
        self._configs: list[Any] = []

    def read_engine(self, path: Path, graph: Path | None = None) -> Any:
        """The engine in a file.

        Args:
            graph: .onnx file whose weights a stripped engine takes; None where the engine has its own.

        Raises:
            EngineError: there is no memory for it, or the library refuses it.
        """
        size = path.stat().st_size if graph is None else _with_weights(path, graph)
        free, total = self.cuda.free_bytes()
        if size > free:
            raise EngineError(
                f"{path.name} takes {size / 1e6:.0f} MB and {self.cuda.gpu.name} has {free / 1e6:.0f} of "
                f"{total / 1e6:.0f} MB free; close other programs, or export with fewer bits (--precision int4)"
            )
        # Mapped: on a Jetson the file's copy in memory and the engine would share what memory there is.
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineError(
                f"{self.product} {self.version} cannot load {path}: {self.messages()}; expected an engine built with "
                "this version on this GPU: fgr-edge build BUNDLE --force"
            )
        if graph is not None:
            self._refit(engine, path, graph)
        return engine

    def share_activations(self, engines: Sequence[Any]) -> None:
        """Make room for the activations of any of `engines`, which run one after another; before `context`."""
        size = max(int(engine.device_memory_size_v2) for engine in engines)
        self._activations = self.memory.device.block(size)

    def context(self, engine: Any, profile: int, *, one_size: bool) -> Any:
        """An execution context of an engine for one of its profiles.

        Args:
            one_size: whether it will run one shape only.
        """
        assert self._activations is not None, "share_activations comes first"
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.facts.compiles_kernels:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            # Of one size the best kernels are there before it is captured; elsewhere they are made in the background.
            choice = self._trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = choice.EAGER if one_size else choice.LAZY
            context = engine.create_execution_context(config)
            self._configs.append(config)  # nobody says that a context does without it
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(
                f"{self.product} {self.version} makes no execution context: {self.messages()}; expected free memory of "
                "the GPU: close other programs"
            )
        context.set_device_memory(self._activations.address, self._activations.size)
        if not context.set_optimization_profile_async(profile, self.cuda.handle):
            raise EngineError(f"the engine has no profile {profile}: {self.messages()}; build it again")
        self.cuda.synchronize()
        return context

    def captures(self, context: Any) -> bool:
        """Whether the context's work can become a CUDA graph, its shapes as they are; tried where nobody knows."""
        return bool(context.is_stream_capturable(self.cuda.handle)) if self.facts.compiles_kernels else True

    def messages(self) -> str:
        """What the library complained about last."""
        return "; ".join(self._logger.errors) or "it does not say why"

    def is_input(self, engine: Any, name: str) -> bool:
        """Whether a tensor of an engine is an input."""
        return bool(engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def is_on_host(self, engine: Any, name: str) -> bool:
        """Whether an engine reads a tensor on the CPU."""
        return bool(engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _refit(self, engine: Any, path: Path, graph: Path) -> None:
        """Put the weights of a graph into an engine that was built without."""
        refitter = self._trt.Refitter(engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise EngineError(
                f"{path.name} does not take the weights of {graph.name}: {self.messages()}; build it again: "
                "fgr-edge build BUNDLE --force"
            )


def _with_weights(path: Path, graph: Path) -> int:
    data = graph.with_name(f"{graph.name}.data")
    return path.stat().st_size + (data if data.is_file() else graph).stat().st_size


def _imported(facts: ProductFacts) -> Any:
    try:
        return importlib.import_module(facts.module)
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"{facts.module} cannot be imported ({error}); pip install 'fgr-edge[{facts.extra}]'. On a Jetson JetPack "
            "brings it: make the environment with python3 -m venv --system-site-packages. Without a GPU open the "
            "bundle with device='cpu'"
        ) from error


def _built_for_cuda(module: str) -> int | None:
    """The CUDA that the installed package is for, by its name; None where it is not from a package (JetPack)."""
    from importlib import metadata  # slow to import, and only engines need it

    for major in CUDA_MAJORS:
        try:
            metadata.version(f"{module}_cu{major}")
        except metadata.PackageNotFoundError:
            continue
        return major
    return None


def _logger(trt: Any) -> Any:
    """Keeps the library's last complaints for our own messages; the rest goes to `logging`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message.strip())
            log.debug("%s: %s", trt.__name__, message)

    return Logger()
