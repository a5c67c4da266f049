"""Is this bundle, on this machine, what was exported? Stage by stage, and the first that is wrong by name.

In: a bundle with golden outputs, perhaps labelled photographs. Out: one `VerifyReport`. Needs nothing but the bundle
and the engine; writes and prints nothing. What a stage finds wrong is in the report; an error is raised only where
there is nothing to verify.

Each stage works on what the one before it gave, so a stage that fails makes those after it suspect: the first counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fgr_edge.calibrate.golden import GOLDEN, Golden, open_for_golden
from fgr_edge.calibrate.golden_bounds import SAME_SESSION, Against, Bounds, error_of, kind_of
from fgr_edge.calibrate.golden_run import OBSERVED, Arrays, GoldenRun
from fgr_edge.calibrate.likely_causes import likely_cause
from fgr_edge.calibrate.verify_accuracy import verify_accuracy
from fgr_edge.calibrate.verify_report import Check, StageReport, Status, VerifyReport
from fgr_edge.errors import BundleError, FgrEdgeError
from fgr_edge.evaluate.evaluation import ProgressBar
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.manifest import read_manifest
from fgr_edge.runtime.opening import Device
from fgr_edge.runtime.recognizer import Recognizer

STAGES = ("files", "weights", "engine", *OBSERVED)
NAMED_AT_MOST = 8  # tensors in a message
# What host code raises on numbers that do not fit together, of a manifest that was changed.
_REFUSED = (FgrEdgeError, ArithmeticError, LookupError, ValueError)


def verify(
    bundle: Path,
    data: Path | None,
    progress: ProgressBar,
    *,
    images: Path | None = None,
    device: Device | None = None,
    threads: int | None = None,
) -> VerifyReport:
    """Verify a bundle.

    Args:
        bundle: its folder.
        data: labelled photographs (`data.labelled`), to repeat the accuracy on; None leaves it out.
        progress: shown for what takes longer.
        images: folder that the paths of a list start from.
        device: where the engine runs; None takes the bundle's target.
        threads: of one operator; None takes one per core.

    Raises:
        BundleError: the folder is no bundle, its manifest is damaged, or it has no golden outputs.
        DataError, LabelError: the photographs cannot be used.
    """
    opened = Bundle(bundle, read_manifest(bundle))
    if GOLDEN not in opened:
        Golden.read(opened)  # says how to get them
    stages = list(_stages(opened, progress, device, threads))
    stages += [_stage(name, "skipped", 0.0) for name in STAGES[len(stages) :]]
    wrong = next((stage for stage in stages if stage["status"] == "failed"), None)
    report: VerifyReport = {
        "bundle": str(bundle),
        "model": opened.manifest["name"],
        "target": opened.manifest["target"],
        "precision": opened.manifest["precision"],
        "passed": wrong is None,
        "first_wrong": None if wrong is None else wrong["name"],
        "likely_cause": None if wrong is None else _cause(wrong),
        "stages": stages,
        "accuracy": None,
    }
    # Accuracy of a bundle that is damaged says nothing, and one that does not open has none.
    if data is not None and wrong is None:
        accuracy = report["accuracy"] = verify_accuracy(opened, data, progress, images=images, threads=threads)
        if not accuracy["passed"]:
            report["passed"], report["first_wrong"] = False, "accuracy"
            report["likely_cause"] = (
                "the golden pictures are right and these photographs are not: photographs or labels differ from those "
                "of parity.json, or a picture format is decoded otherwise here"
            )
    return report


def _stages(opened: Bundle, progress: ProgressBar, device: Device | None, threads: int | None) -> Iterator[StageReport]:
    """Reports of the stages, up to the one after which nothing can be run."""
    files = _files(opened, progress)
    yield files
    intact = files["status"] == "passed"
    try:
        golden = Golden.read(opened)
    except BundleError:
        if intact:
            raise
        return  # golden.npz is what is damaged, and the first stage says so
    yield _weights(opened, golden, progress)
    if not intact:
        return
    start = time.perf_counter()
    try:
        recognizer = open_for_golden(opened.path, golden.inputs.labels, device, threads)
    except _REFUSED as error:
        yield _stage("engine", "failed", start, found=str(error))
        return
    yield _stage("engine", "passed", start)
    manifest, alike = opened.manifest, recognizer.model.alike
    bounds = Bounds(manifest["precision"], manifest["decoder"]["cache_dtype"], golden.jitter, alike=alike)
    yield from _observed(recognizer, golden, bounds, progress)


def _files(opened: Bundle, progress: ProgressBar) -> StageReport:
    """Presence, sizes and SHA-256 of every file."""
    start = time.perf_counter()
    total = sum(entry["size"] for entry in opened.manifest["files"].values())
    read = 0
    with progress("files", total) as step:

        def advance(done: int, _: int) -> None:
            nonlocal read
            step(done - read)
            read = done

        try:
            opened.verify_checksums(advance)
        except BundleError as error:
            return _stage("files", "failed", start, found=str(error))
    return _stage("files", "passed", start)


def _weights(opened: Bundle, golden: Golden, progress: ProgressBar) -> StageReport:
    """Digests of every tensor."""
    start = time.perf_counter()
    with progress("weights", golden.tensors.total_bytes) as step:
        try:
            changed = golden.tensors.changed(opened, step)
        except (BundleError, OSError) as error:
            return _stage("weights", "failed", start, found=str(error))
    if not changed:
        return _stage("weights", "passed", start)
    names = ", ".join(f"{place.name} ({place.file})" for place in changed[:NAMED_AT_MOST])
    more = f" and {len(changed) - NAMED_AT_MOST} more" if len(changed) > NAMED_AT_MOST else ""
    return _stage("weights", "failed", start, found=f"changed since export: {names}{more}")


def _observed(recognizer: Recognizer, golden: Golden, bounds: Bounds, progress: ProgressBar) -> Iterator[StageReport]:
    """The golden pictures through one session."""
    run = GoldenRun(recognizer, golden.inputs)
    seen: dict[str, Arrays] = {}
    with progress("golden pictures", len(OBSERVED)) as step:
        for name, observe in OBSERVED.items():
            start = time.perf_counter()
            try:
                seen[name] = observe(run)
            except _REFUSED as error:
                yield _stage(name, "failed", start, found=str(error))
                return
            checks = list(_checks(name, seen, golden, bounds))
            passed = all(check["passed"] for check in checks)
            yield _stage(name, "passed" if passed else "failed", start, checks)
            step(1)


def _checks(stage: str, seen: dict[str, Arrays], golden: Golden, bounds: Bounds) -> Iterator[Check]:
    """The bundle's own outputs first, then the original's, then what the session repeats."""
    sides: tuple[tuple[Against, Arrays], ...]
    sides = (("bundle", golden.bundle.get(stage, {})), ("original", golden.original.get(stage, {})))
    for against, expected in sides:
        for key, value in expected.items():
            if kind_of(key) == "none":
                continue
            bound = bounds.of(stage, key, against)
            if key not in seen[stage]:
                yield _check(key, against, math.inf, bound)
            elif kind_of(key) == "tokens":
                error = _lead_of_first_other(seen[stage][key], value, expected["leads"])
                yield _check(key, against, error, bound)
            else:
                yield _check(key, against, error_of(kind_of(key), seen[stage][key], value), bound)
    for key, value in seen[stage].items():
        same = SAME_SESSION.get((stage, key))
        if same is not None:
            expected_here = seen[same[0]][same[1]][: len(value)]
            error = error_of(kind_of(key), value, expected_here)
            yield _check(key, "itself", error, bounds.of(stage, key, "itself"))


def _lead_of_first_other(
    found: npt.NDArray[np.int64], expected: npt.NDArray[np.int64], leads: npt.NDArray[np.float64]
) -> float:
    """By how much the first token that is not chosen here led there: 0 where all are; what follows it is no error."""
    if found.shape != expected.shape:
        return math.inf
    others = np.flatnonzero(found != expected)
    return float(leads[others[0]]) if others.size else 0.0


def _check(output: str, against: Against, error: float, bound: float) -> Check:
    finite = math.isfinite(error)
    return {
        "output": output,
        "against": against,
        "error": error if finite else None,
        "bound": bound,
        "passed": finite and error <= bound,
    }


def _stage(
    name: str, status: Status, start: float, checks: list[Check] | None = None, *, found: str | None = None
) -> StageReport:
    seconds = 0.0 if status == "skipped" else time.perf_counter() - start
    return {"name": name, "status": status, "seconds": round(seconds, 3), "checks": checks or [], "found": found}


def _cause(stage: StageReport) -> str:
    """By the check that says most: what a session cannot repeat, before what the bundle or the original did."""
    order: tuple[Against, ...] = ("itself", "bundle", "original")
    failed = [check for check in stage["checks"] if not check["passed"]]
    if not failed:
        return likely_cause(stage["name"], None, None)
    first = min(failed, key=lambda check: order.index(check["against"]))
    return likely_cause(stage["name"], first["output"], first["against"])
