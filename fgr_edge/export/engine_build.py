"""A bundle's graphs to engines, verified, inside the bundle: what `fgr-edge build` does on the device.

Stages: everything refused that can be, before a minute is spent; engines that are there already and fit are kept; each
graph prepared, built and written; the golden pictures run through the new engines (`calibrate.verify`); only if they
are right does the bundle get them. All of it happens in a copy of the bundle made of links, which takes the bundle's
place in one step: a build that fails, is wrong or is killed changes nothing.

TensorRT builds for the GPU that is here. TensorRT-RTX builds for named GPUs, too, on a machine that has none; such
engines are verified where they run first: `fgr-edge verify`.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from fgr_edge import __version__
from fgr_edge.calibrate.golden import GOLDEN, Golden
from fgr_edge.calibrate.verify import verify
from fgr_edge.calibrate.verify_report import VerifyReport
from fgr_edge.errors import BundleError, ConfigError, EngineError
from fgr_edge.export.engine_graph import prepare_graph
from fgr_edge.export.engine_profiles import (
    CHUNK,
    EngineSizes,
    Range,
    decoder_ranges,
    engine_sizes,
    head_ranges,
    profiles,
    vision_ranges,
)
from fgr_edge.export.gpus import Gpu, check_gpu, check_schemes
from fgr_edge.export.progress import progress_bar
from fgr_edge.export.tensorrt import BuilderSettings, Library, build_engine, load_library
from fgr_edge.runtime.bundle import Bundle, sha256_of
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from fgr_edge.runtime.engine_record import (
    ENGINES,
    TIMING_CACHE,
    EngineFile,
    EngineRecord,
    Product,
    check_sources,
    folder_name,
    read_record,
    write_record,
)
from fgr_edge.runtime.manifest import MANIFEST
from fgr_edge.runtime.sessions.cuda_driver import open_cuda

log = logging.getLogger(__name__)

PRODUCTS = ("tensorrt", "tensorrt-rtx")
GRAPHS = ("vision", "decoder", "head")

Verifier = Callable[[Path], VerifyReport]


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """What to build.

    Attributes:
        bundle: its folder; the engines go into it.
        gpus: names (see `gpus`) to build for without having them, TensorRT-RTX only; empty is the GPU that is here.
        cache_length: tokens of picture, answer and labels scored together; None leaves room for a thought.
        chunk: tokens of a prompt that go through the decoder at once.
        cameras: (width, height) of pictures that get a profile of their own.
        one_profile: whether prompts and single tokens share one, which makes smaller engines (see `EngineSizes`).
        builder: how engines are built; its `sms` are filled in here.
        force: build again what is there already.
        quiet: no progress bar.
    """

    bundle: Path
    gpus: tuple[str, ...] = ()
    cache_length: int | None = None
    chunk: int = CHUNK
    cameras: tuple[tuple[int, int], ...] = ()
    one_profile: bool = False
    builder: BuilderSettings = field(default_factory=BuilderSettings)
    force: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gave.

    Attributes:
        record: of the engines, in the bundle.
        report: of the verification; None where there was no GPU, or nothing was built.
        fresh: whether anything was built; False where the bundle had these engines.
        seconds: by graph.
        peak_bytes: largest resident memory of this process so far.
    """

    record: EngineRecord
    report: VerifyReport | None
    fresh: bool
    seconds: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Job:
    """A build about to be done: everything checked."""

    bundle: Bundle
    library: Library
    sizes: EngineSizes
    settings: BuilderSettings
    wanted: EngineRecord  # without engines

    @property
    def folder(self) -> Path:
        """Of the engines, in the bundle's folder."""
        wanted = self.wanted
        return Path(ENGINES) / folder_name(wanted.product, wanted.product_version, wanted.gpu_name, wanted.sms)

    def ranges(self, graph: str) -> dict[str, dict[str, Range]]:
        manifest = self.bundle.manifest
        if graph == "vision":
            return vision_ranges(manifest, self.sizes)
        return decoder_ranges(manifest, self.sizes) if graph == "decoder" else head_ranges(manifest, self.sizes)


def build_engines(config: BuildConfig, *, here: Gpu | None = None, verifier: Verifier | None = None) -> Built:
    """Build the engines of a bundle and put them into it.

    Args:
        here: the GPU to build on; None asks the driver, unless `config.gpus` names others.
        verifier: gives the report on a folder with a bundle; None runs its golden pictures.

    Raises:
        BundleError: no bundle, or one of another target, or without golden outputs.
        ConfigError: sizes or GPUs that make no sense.
        EngineError: no GPU, a graph that is refused, or engines that are wrong; says what to do.
        MissingExtraError: the library, or onnx, is not installed.
        StorageError: the disk is full or not writable.
    """
    job = _job(config, here)
    there = None if config.force else _there(job)
    if there is not None:
        log.info("the engines in %s are the ones wanted; --force builds them again", there.folder)
        return Built(there, None, False, {}, _peak_bytes())
    verifying = not config.gpus
    if verifying and GOLDEN not in job.bundle:
        Golden.read(job.bundle)  # says how to get them
    with BundleAmendment(config.bundle) as amendment:
        folder = amendment.folder / job.folder
        timing_cache = _stored_timing_cache(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        record, seconds = _build_all(job, folder, timing_cache, quiet=config.quiet)
        write_record(folder, record)
        report = None
        if verifying:
            shutil.copyfile(job.bundle.path / MANIFEST, amendment.folder / MANIFEST)  # so that it is a bundle
            report = (verifier or _verifier(config))(amendment.folder)
            _refuse_wrong(report, job)
            record = replace(record, verified=_summary(report))
            write_record(folder, record)
    return Built(read_record(config.bundle / job.folder), report, True, seconds, _peak_bytes())


def _job(config: BuildConfig, here: Gpu | None) -> _Job:
    """Refuse whatever can be, in the order in which it is cheap to find out."""
    bundle = Bundle.open(config.bundle)
    manifest = bundle.manifest
    if manifest["target"] not in PRODUCTS:
        raise BundleError(
            f"bundle {bundle.path} is for target {manifest['target']!r}, which needs no engines; export it for "
            f"{' or '.join(PRODUCTS)} to build some"
        )
    product = cast(Product, manifest["target"])
    sizes = engine_sizes(manifest, config.cache_length, config.chunk, config.cameras, one_profile=config.one_profile)
    schemes = sorted({*manifest["precision"].values(), *_kept(manifest["provenance"])} - {"float32", "float16"})
    named = tuple(check_gpu(name, product, schemes) for name in config.gpus)
    if named and product == "tensorrt":
        raise ConfigError(
            "TensorRT times its kernels on the GPU that it builds for: leave --gpu out and run `fgr-edge build` on the "
            "device; TensorRT-RTX (target tensorrt-rtx) builds for GPUs that are not there"
        )
    if named and config.builder.stripped:
        raise ConfigError(
            "engines without weights are built on the GPU that they are for: leave out --strip, or --gpu on that device"
        )
    library = load_library(product)
    if not named and here is None:
        here = gpu_here(product)
    if here is not None and not named:
        check_schemes(here, schemes)
    sms = tuple(sorted({gpu.sm for gpu in named})) if named or here is None else (here.sm,)
    settings = replace(config.builder, sms=sms if named else ())
    wanted = EngineRecord(
        product=product,
        product_version=library.version,
        gpu_name="" if named or here is None else here.name,
        sms=sms,
        flags=tuple(sorted((*settings.flags(), *_flags(sizes)))),
        cache_length=sizes.cache_length,
        engines={},
    )
    return _Job(bundle, library, sizes, settings, wanted)


def gpu_here(product: Product) -> Gpu:
    """The GPU of this machine, as the driver calls it.

    Raises:
        EngineError: there is none, or no driver.
        MissingExtraError: cuda-python is not installed.
    """
    try:
        found = open_cuda(product).gpu
    except EngineError as error:
        if product == "tensorrt":
            raise
        raise EngineError(
            f"{error}. TensorRT-RTX also builds for GPUs that are not here: fgr-edge build BUNDLE --gpu rtx-40"
        ) from error
    return Gpu(found.name, found.sm)


def _flags(sizes: EngineSizes) -> tuple[str, ...]:
    """The sizes, as part of what decides whether engines that are there are the ones wanted."""
    cameras = (f"camera-{width}x{height}" for width, height in sizes.cameras)
    shared = ("one-profile",) if sizes.one_profile else ()
    return (f"cache-{sizes.cache_length}", f"chunk-{sizes.chunk}", *cameras, *shared)


def _kept(provenance: dict[str, Any]) -> set[str]:
    """Schemes of layers that are kept higher than the others."""
    kept = provenance.get("kept")
    return set(kept.values()) if isinstance(kept, dict) else set()


def _there(job: _Job) -> EngineRecord | None:
    """The bundle's engines for this key, if they were built as wanted from these graphs."""
    folder = job.bundle.path / job.folder
    if not folder.is_dir():
        return None
    try:
        record = read_record(folder)
        check_sources(record, {name: entry["sha256"] for name, entry in job.bundle.manifest["files"].items()})
    except EngineError as error:
        log.info("building again: %s", error)
        return None
    return record if record.flags == job.wanted.flags else None


def _build_all(
    job: _Job, folder: Path, timing_cache: bytes | None, *, quiet: bool
) -> tuple[EngineRecord, dict[str, float]]:
    files = job.bundle.manifest["files"]
    graphs = [graph for graph in GRAPHS if f"{graph}.onnx" in files]
    weights = {graph: files.get(f"{graph}.onnx.data", files[f"{graph}.onnx"])["size"] for graph in graphs}
    engines, seconds = {}, {}
    with progress_bar("engines", sum(weights.values()), quiet=quiet) as step:
        for graph in graphs:
            started = time.perf_counter()
            engines[graph], timing_cache = _build_one(job, folder, graph, timing_cache)
            seconds[graph] = round(time.perf_counter() - started, 3)
            step(weights[graph])
    if timing_cache is not None:
        (folder / TIMING_CACHE).write_bytes(timing_cache)
    return replace(job.wanted, engines=engines), seconds


def _build_one(job: _Job, folder: Path, graph: str, timing_cache: bytes | None) -> tuple[EngineFile, bytes | None]:
    name, data = f"{graph}.onnx", f"{graph}.onnx.data"
    files = job.bundle.manifest["files"]
    sources = {source: files[source]["sha256"] for source in (name, data) if source in files}
    # Parsers read weights beside the graph only. A second name, not a symbolic link: those out of a folder are refused.
    link = folder / data
    _second_name(folder.parent.parent / data, link)
    prepared = prepare_graph(job.bundle, name, job.library.release, job.sizes.cache_length, folder / name)
    made = profiles(prepared.inputs, job.ranges(graph))
    path = folder / f"{graph}.engine"
    built = build_engine(job.library, prepared.path, path, made, job.settings, timing_cache)
    if not job.settings.stripped:  # a refit reads both again
        prepared.path.unlink()
        link.unlink()
    engine = EngineFile(path.name, sha256_of(path), path.stat().st_size, sources, made, job.settings.stripped)
    return engine, built.timing_cache


def _second_name(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        shutil.copyfile(path, name)


def _stored_timing_cache(folder: Path) -> bytes | None:
    path = folder / TIMING_CACHE
    return path.read_bytes() if path.is_file() else None


def _verifier(config: BuildConfig) -> Verifier:
    def run(bundle: Path) -> VerifyReport:
        def progress(title: str, total: int) -> Any:
            return progress_bar(title, total, quiet=config.quiet)

        return verify(bundle, None, progress)

    return run


def _refuse_wrong(report: VerifyReport, job: _Job) -> None:
    if report["passed"]:
        return
    stage = next(stage for stage in report["stages"] if stage["name"] == report["first_wrong"])
    failed = [check for check in stage["checks"] if not check["passed"]]
    numbers = ", ".join(
        f"{c['output']} is {c['error']} from {c['against']}'s, bound {c['bound']:.3g}" for c in failed[:3]
    )
    said = stage["found"] or numbers or "it does not say more"
    raise EngineError(
        f"the engines that {job.library.product} {job.library.version} built are wrong and were not installed: stage "
        f"{report['first_wrong']}: {said}. Likely cause: {report['likely_cause']}. To do: build with another "
        "--optimization-level (0 to 5), upgrade the library, or export with --precision fp16, and report it"
    )


def _summary(report: VerifyReport) -> dict[str, Any]:
    stages = {stage["name"]: stage["status"] for stage in report["stages"]}
    return {"passed": report["passed"], "stages": stages, "fgr_edge": __version__}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
