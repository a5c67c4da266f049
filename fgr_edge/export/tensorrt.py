"""One ONNX graph to one engine, by TensorRT or TensorRT-RTX, whichever version is installed.

In: a graph on disk, profiles, settings. Out: a file with the engine, and what the next build learns from (the timing
cache). The engine is written as it is serialized where the library can do that: held as a whole it would be in memory
once more. Networks are strongly typed: the graph says every type, the builder chooses none. No plugins. What a version
of the library can do is in `tensorrt_versions`; what parser and builder complain about, in words, in
`engine_complaints`. Does not know bundles or models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fgr_edge.errors import EngineError, MissingExtraError
from fgr_edge.export.engine_complaints import Complaint, build_failed, parse_failed
from fgr_edge.export.tensorrt_versions import Release, find_release
from fgr_edge.runtime.engine_record import EngineProfile, Product

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Library:
    """An installed TensorRT.

    Attributes:
        trt: the module; `Any`, for it has no types and may be either product's.
        version: as the library says it.
        release: what it can do.
    """

    trt: Any
    product: Product
    version: str
    release: Release


@dataclass(frozen=True, slots=True)
class BuilderSettings:
    """How engines are built.

    Attributes:
        sms: generations to build for without their GPUs; empty is the GPU that is here.
        stripped: leave the weights out; a refit puts them in when the engine is opened.
        optimization_level: 0 (fastest build) to 5; None is the library's own, 3.
        workspace_bytes: that a kernel may use besides its inputs and outputs; None is all that the GPU has.
    """

    sms: tuple[int, ...] = ()
    stripped: bool = False
    optimization_level: int | None = None
    workspace_bytes: int | None = None

    def flags(self) -> tuple[str, ...]:
        """What decides, besides GPU and version, whether an engine that is there is the one wanted."""
        given = {
            "stripped": self.stripped,
            f"optimization-level-{self.optimization_level}": self.optimization_level is not None,
            f"workspace-{self.workspace_bytes}": self.workspace_bytes is not None,
        }
        return tuple(sorted(flag for flag, there in given.items() if there))


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine's file, and the timing cache after it was built; None where nothing is timed."""

    path: Path
    timing_cache: bytes | None
    seconds: float


@dataclass(slots=True)
class Messages:
    """What the library said, worst first kept."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_library(product: Product) -> Library:
    """Import a product's module.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: it is too old.
    """
    try:
        if product == "tensorrt-rtx":
            import tensorrt_rtx as trt
        else:
            import tensorrt as trt
    except ImportError as error:
        where = "" if product == "tensorrt-rtx" else "; on a Jetson JetPack brings it: python3-libnvinfer"
        raise MissingExtraError(
            f"{product} is not installed ({error}); pip install 'fgr-edge[{product}]'{where}"
        ) from error
    version = str(trt.__version__)
    return Library(trt, product, version, find_release(product, version))


def build_engine(
    library: Library,
    graph: Path,
    path: Path,
    profiles: Sequence[EngineProfile],
    settings: BuilderSettings,
    timing_cache: bytes | None = None,
) -> BuiltEngine:
    """Build the engine of `graph` into the file `path`.

    Args:
        graph: ONNX; its external data lies beside it, and the length of the cache is a number in it.
        profiles: in the order of their index; none where every shape is fixed.
        timing_cache: of an earlier build with this library on this GPU; another's is left aside.

    Raises:
        EngineError: parser or builder refuse it; says which node, and what to do.
        OSError: the file cannot be written.
    """
    started = time.perf_counter()
    trt, messages = library.trt, Messages()
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    where = f"{library.product} {library.version}"
    # 1. Parse.
    if not parser.parse_from_file(str(graph)):
        complaints = [_complaint(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(parse_failed(graph.name, where, complaints, messages.errors))
    # 2. Configure.
    config = builder.create_builder_config()
    _configure(library, config, settings)
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, profile, graph.name))
    if library.release.times_tactics:
        _use_timing_cache(config, timing_cache)
    # 3. Build.
    if not _serialize(library, builder, network, config, path):
        raise EngineError(build_failed(graph.name, where, messages.errors))
    timed = bytes(config.get_timing_cache().serialize()) if library.release.times_tactics else None
    seconds = time.perf_counter() - started
    log.info("%s: %.1f MB for %s in %.1f s", graph.name, path.stat().st_size / 1e6, where, seconds)
    for warning in dict.fromkeys(messages.warnings):
        log.info("%s: %s", where, warning)
    return BuiltEngine(path, timed, seconds)


def _serialize(library: Library, builder: Any, network: Any, config: Any, path: Path) -> bool:
    """Build, and write the engine to a file; whether the builder did."""
    trt: Any = library.trt
    release = library.release
    if release.streams_plans:

        class Writer(trt.IStreamWriter):  # type: ignore[misc]
            def __init__(self, file: BinaryIO) -> None:
                trt.IStreamWriter.__init__(self)
                self.file = file
                self.fault: OSError | None = None

            def write(self, data: bytes) -> int:
                try:
                    return self.file.write(data)
                except OSError as error:  # not through the library, which would end the process
                    self.fault = error
                    return 0

        with open(path, "wb") as file:
            writer = Writer(file)
            done = builder.build_serialized_network_to_stream(network, config, writer)
            if writer.fault is not None:
                raise writer.fault
        return bool(done)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        path.write_bytes(plan)
    return plan is not None


def _configure(library: Library, config: Any, settings: BuilderSettings) -> None:
    trt, release = library.trt, library.release
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT)
    if release.user_allocation:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if settings.sms and not release.names_gpus:
        raise EngineError(
            f"{library.product} {library.version} builds for the GPU that is here and was asked for "
            f"{', '.join(f'SM{sm}' for sm in settings.sms)}; run `fgr-edge build` on that device"
        )
    if settings.sms and release.names_gpus:
        config.num_compute_capabilities = len(settings.sms)
        for index, sm in enumerate(settings.sms):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)


def _profile(builder: Any, profile: EngineProfile, graph: str) -> Any:
    made = builder.create_optimization_profile()
    for name, (least, usual, most) in profile.inputs.items():
        made.set_shape(name, least, usual, most)
        if not made.get_shape(name):
            raise EngineError(
                f"{graph}: profile {profile.name} gives {name} the shapes {least} to {most}, which TensorRT refuses; "
                "this is a defect of fgr-edge, please report it"
            )
    return made


def _use_timing_cache(config: Any, stored: bytes | None) -> None:
    """Start from what an earlier build measured; a cache of another GPU or version is refused by the library."""
    cache = config.create_timing_cache(stored or b"")
    if cache is not None and config.set_timing_cache(cache, False):
        return
    log.warning("the timing cache in the bundle is of another GPU or version; starting from an empty one")
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _complaint(error: Any) -> Complaint:
    return Complaint(str(error.node_name()), str(error.node_operator()), str(error.desc()))


def _logger(trt: Any, messages: Messages) -> Any:
    """An `ILogger` that keeps errors and warnings; the class needs the module, so it is made here."""
    kept = {
        trt.ILogger.INTERNAL_ERROR: messages.errors,
        trt.ILogger.ERROR: messages.errors,
        trt.ILogger.WARNING: messages.warnings,
    }

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            kept.get(severity, []).append(message)

    return Recorder()
