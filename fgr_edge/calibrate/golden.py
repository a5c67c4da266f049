"""Golden outputs: what a bundle gave for two drawn pictures when it was made, and what its original gives.

In: the original (an fp32 bundle of the same checkpoint) and a finished bundle. Out: arrays for golden.npz: the inputs,
the outputs of every stage of both, how far rounding alone moves them, digests of every stored tensor. A few megabytes
at most, whatever the size of the model: see `golden_run.sampled`. Read without pickle. Judges nothing.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.calibrate.golden_bounds import SAME_SESSION, error_of, kind_of
from fgr_edge.calibrate.golden_run import OBSERVED, Arrays, GoldenInputs, GoldenRun
from fgr_edge.calibrate.tensor_digests import TensorDigests, TensorPlace
from fgr_edge.data.aviary import HELD_OUT_SEEDS, NAMES, species_named
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.errors import BundleError, EngineError
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.bundle_amendment import BundleAmendment
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.opening import Device
from fgr_edge.runtime.recognizer import Recognizer

log = logging.getLogger(__name__)

GOLDEN = "golden.npz"
FORMAT = 1
CONTINUED_TOKENS = 8
MOST_LABELS = 64
HOST_STAGES = frozenset(("preprocessing", "vision tables", "prompt", "rotary"))
"""What the host computes, the same at any precision: stored once, of the original."""

# The size of a pixel's own rounding. What it moves is what another kernel, summing in another order, may move.
NUDGE = 2e-6


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """golden.npz, read.

    Attributes:
        inputs: of every run.
        original, bundle: outputs by stage and name; the host's stages are the original's alone, and so are all where
            the exporting machine could not run the bundle.
        jitter: error by "stage/name" of the bundle against itself, with a nudge to the pixels in the last bits; the
            larger of two.
        tensors: of every stored tensor; empty where the exporter gave no table.
    """

    inputs: GoldenInputs
    original: dict[str, Arrays]
    bundle: dict[str, Arrays]
    jitter: dict[str, float]
    tensors: TensorDigests

    def to_arrays(self) -> Arrays:
        """What is stored, by name."""
        found: Arrays = {"format": np.array(FORMAT)}
        for number, picture in enumerate(self.inputs.pictures):
            found[f"input/picture_{number}"] = np.frombuffer(picture, np.uint8)
        found["input/greedy"] = np.array(self.inputs.greedy, np.int64)
        found["input/spread"] = np.array(self.inputs.spread, np.int64)
        found["input/labels"] = np.array(self.inputs.labels, np.str_)
        for side, stages in (("original", self.original), ("bundle", self.bundle)):
            found |= {f"{side}/{stage}/{key}": value for stage, keys in stages.items() for key, value in keys.items()}
        found |= {f"jitter/{key}": np.array(value) for key, value in self.jitter.items()}
        found |= {f"tensors/{key}": value for key, value in self.tensors.to_arrays().items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Golden:
        """The reverse of `to_arrays`.

        Raises:
            BundleError: the arrays are of a newer version, or some are missing.
        """
        if int(arrays.get("format", np.array(0))) != FORMAT:
            raise BundleError(
                f"{GOLDEN} has format {arrays.get('format')}, this version reads {FORMAT}; verify with the version "
                "that exported the bundle, or export it again"
            )
        try:
            inputs = GoldenInputs(
                (arrays["input/picture_0"].tobytes(), arrays["input/picture_1"].tobytes()),
                tuple(map(int, arrays["input/greedy"])),
                tuple(map(int, arrays["input/spread"])),
                tuple(map(str, arrays["input/labels"])),
            )
        except KeyError as error:
            raise BundleError(f"{GOLDEN} has no {error}; export the bundle again") from error
        jitter = {key: float(value) for key, value in _below(arrays, "jitter").items()}
        tensors = TensorDigests.from_arrays(_below(arrays, "tensors"))
        return cls(inputs, _by_stage(arrays, "original"), _by_stage(arrays, "bundle"), jitter, tensors)

    @classmethod
    def read(cls, bundle: Bundle) -> Golden:
        """Of a bundle.

        Raises:
            BundleError: it has none, or they are damaged.
        """
        if GOLDEN not in bundle:
            raise BundleError(
                f"bundle {bundle.path} has no golden outputs ({GOLDEN}), so nothing can be verified; they are made by "
                "`fgr-edge export` from this version on: export the bundle again"
            )
        return cls.from_arrays(bundle.arrays(GOLDEN))


def make_golden(
    reference: Path, bundle: Path, *, tensors: Sequence[TensorPlace] = (), threads: int | None = None
) -> Arrays:
    """Run both bundles on the golden pictures, on the CPU, one after the other; returns what golden.npz holds.

    Args:
        reference: an fp32 bundle of the same checkpoint, exported with the same options.
        bundle: the finished one.
        tensors: where its tensors lie (`export.tensor_places`).
        threads: of one operator; None takes one per core.

    A bundle that only another engine can run (bfloat16, on a CPU) gets the original's outputs alone.

    Raises:
        BundleError, EngineError: the reference cannot be opened or run, or the bundle is damaged.
    """
    start = time.perf_counter()
    opened = Bundle.open(bundle)
    original, inputs = _original(reference, _labels(opened), threads)
    outputs: dict[str, Arrays] = {}
    jitter: dict[str, float] = {}
    try:
        outputs, jitter = _own(bundle, inputs, threads)
    except EngineError as error:
        log.warning("%s will be verified against the original alone: it cannot run here (%s)", bundle, error)
    golden = Golden(inputs, original, outputs, jitter, TensorDigests.of(opened, tensors))
    log.info("golden outputs of %s in %.1f s", bundle, time.perf_counter() - start)
    return golden.to_arrays()


def store_golden(bundle: Path, arrays: Arrays) -> None:
    """Put golden outputs into a bundle, in place of those it had.

    Raises:
        StorageError: the disk is full or not writable.
    """
    with BundleAmendment(bundle) as amendment:
        np.savez_compressed(amendment.path(GOLDEN), allow_pickle=False, **arrays)


def golden_pictures() -> tuple[bytes, bytes]:
    """Two drawings as PNG files: one wide, one high, so that their grids differ and no window is full at the edges."""
    wide = draw(species_named("River Kingfisher"), HELD_OUT_SEEDS[0], 320).crop((0, 60, 300, 230))
    high = draw(species_named("Dapple Finch"), HELD_OUT_SEEDS[1], 340).crop((90, 5, 240, 335))
    return _png(wide), _png(high)


def open_for_golden(
    bundle: Path, labels: Sequence[str], device: Device | None = None, threads: int | None = None
) -> Recognizer:
    """The recognizer that a golden run takes: with the golden labels instead of the bundle's own."""
    return Recognizer(bundle, LabelSet.from_names(labels), device=device, threads=threads)


def _original(reference: Path, labels: tuple[str, ...], threads: int | None) -> tuple[dict[str, Arrays], GoldenInputs]:
    """The original's outputs along its own greedy tokens."""
    recognizer = open_for_golden(reference, labels, "cpu", threads)
    vocabulary = recognizer.bundle.manifest["decoder"]["vocab"]
    spread = tuple(np.linspace(0, vocabulary - 1, CONTINUED_TOKENS).astype(int).tolist())
    unchosen = GoldenInputs(golden_pictures(), spread, spread, labels)
    run = GoldenRun(recognizer, unchosen)
    for stage in ("preprocessing", "vision", "prompt", "rotary"):
        OBSERVED[stage](run)
    inputs = replace(unchosen, greedy=tuple(run.generation()["tokens"][:CONTINUED_TOKENS].tolist()))
    return _stored(_outputs(GoldenRun(recognizer, inputs))), inputs


def _own(bundle: Path, inputs: GoldenInputs, threads: int | None) -> tuple[dict[str, Arrays], dict[str, float]]:
    recognizer = open_for_golden(bundle, inputs.labels, "cpu", threads)
    outputs = _stored(_outputs(GoldenRun(recognizer, inputs)))
    nudged = [_stored(_outputs(GoldenRun(recognizer, inputs, nudge=nudge))) for nudge in (NUDGE, -NUDGE)]
    jitter = {
        f"{stage}/{key}": max(error_of(kind_of(key), moved[stage][key], value) for moved in nudged)
        for stage, keys in outputs.items()
        for key, value in keys.items()
        if kind_of(key) in ("features", "log_probs")
    }
    return {stage: keys for stage, keys in outputs.items() if stage not in HOST_STAGES}, jitter


def _outputs(run: GoldenRun) -> dict[str, Arrays]:
    return {stage: observe(run) for stage, observe in OBSERVED.items()}


def _stored(outputs: dict[str, Arrays]) -> dict[str, Arrays]:
    """Without what is compared within one session only."""
    return {
        stage: {key: value for key, value in keys.items() if (stage, key) not in SAME_SESSION}
        for stage, keys in outputs.items()
    }


def _labels(bundle: Bundle) -> tuple[str, ...]:
    """Some of the bundle's own classes; the aviary's where it has none."""
    stored = bundle.labels()
    names = NAMES if stored is None else stored.labels.names
    chosen = np.linspace(0, len(names) - 1, min(MOST_LABELS, len(names))).astype(int)
    return tuple(names[index] for index in chosen)


def _by_stage(arrays: Mapping[str, npt.NDArray[Any]], side: str) -> dict[str, Arrays]:
    return {stage: _below(arrays, f"{side}/{stage}") for stage in OBSERVED if _below(arrays, f"{side}/{stage}")}


def _below(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    return {key.removeprefix(f"{prefix}/"): value for key, value in arrays.items() if key.startswith(f"{prefix}/")}


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
