"""What a finished bundle does on photographs, beside the original: the measuring half of the proof.

In: an fp32 bundle of a checkpoint, the finished bundle of the same one, labelled photographs, the labels. Out: a
`Parity` document. Both bundles take turns on each photograph, which is opened once; every stage is compared on a few of
them, the answers on all. Decides nothing (`parity_verdict`) and draws nothing (`parity_page`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.bench.machine import describe_machine
from fgr_edge.calibrate.golden_bounds import Bounds
from fgr_edge.calibrate.parity_accuracy import Picture, accuracy_of
from fgr_edge.calibrate.parity_document import SCHEMA_VERSION, Data, Parity, Side
from fgr_edge.calibrate.parity_latency import Stopwatch
from fgr_edge.calibrate.parity_verdict import undecided
from fgr_edge.calibrate.pictures import AVIARY
from fgr_edge.calibrate.stage_errors import Key, measures_of, of_labels, of_picture, of_prompt
from fgr_edge.data.labelled import LabelledPicture
from fgr_edge.errors import BundleError, ConfigError, DataError, ImageError
from fgr_edge.evaluate.evaluation import ProgressBar, Skipped, ask_all, class_indices
from fgr_edge.runtime.bundle import Bundle
from fgr_edge.runtime.confidence import MODES
from fgr_edge.runtime.image import load_image
from fgr_edge.runtime.labels import LabelSet
from fgr_edge.runtime.prompt import Mode
from fgr_edge.runtime.recognizer import Recognizer

Floats = npt.NDArray[np.float64]
STAGE_PICTURES = 8
_PARTS = ("vision", "decoder", "embedding")


@dataclass(frozen=True, slots=True)
class ParityOptions:
    """How much is measured.

    Attributes:
        source: where the pictures come from; `pictures.AVIARY` where they were drawn.
        modes: whose answers are compared on all pictures; the stages are compared in both on a few.
        stage_pictures: so few, spread over the pictures.
        threads: of one operator; None takes one per core.
        calibration: what the finished bundle was calibrated on, for the report; None where it was not.

    Raises:
        ConfigError: no mode or no picture is asked for.
    """

    source: str
    modes: tuple[Mode, ...] = ("direct",)
    stage_pictures: int = STAGE_PICTURES
    threads: int | None = None
    calibration: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.modes or not set(self.modes) <= set(MODES):
            raise ConfigError(f"modes are {self.modes}, expected some of {', '.join(MODES)}")
        if self.stage_pictures < 1:
            raise ConfigError(f"stage_pictures is {self.stage_pictures}, expected at least 1")


class _Seen(NamedTuple):
    """What both bundles say of one picture: label scores [C] of both by mode, errors of the stages where compared."""

    sha256: str
    scores: dict[Mode, tuple[Floats, Floats]]
    errors: dict[Key, float] | None


def measure_parity(
    reference: Path,
    bundle: Path,
    pictures: Sequence[LabelledPicture],
    labels: LabelSet,
    options: ParityOptions,
    progress: ProgressBar,
) -> Parity:
    """Compare a finished bundle with the original.

    Args:
        reference: the same checkpoint in fp32.
        bundle: the finished one.
        pictures: unreadable ones are skipped and listed; of several with the same bytes, one counts.
        labels: the classes to choose among.

    Returns:
        The document, its verdict still open.

    Raises:
        DataError: no pictures, classes that the labels lack, or more than 5 % of the pictures cannot be opened.
        BundleError: the bundles are of different models.
        EngineError: the bundle's numbers are not finite.
    """
    if not pictures:
        raise DataError("there are no pictures to compare the bundles on; give at least one a class")
    truths = class_indices(pictures, labels)
    sides = (Bundle.open(reference), Bundle.open(bundle))
    _check_same_model(*sides)
    # The graphs of every target run on the CPU, which is the reference of their numbers.
    original, finished = (Recognizer(side.path, labels, device="cpu", threads=options.threads) for side in sides)
    pair = _Pair(original, finished, options.modes)
    staged = set(np.linspace(0, len(pictures) - 1, min(options.stage_pictures, len(pictures))).round().astype(int))
    with progress("parity", len(pictures)) as step:
        found, skipped = ask_all(
            lambda index: pair.look(pictures[index].path, index in staged), range(len(pictures)), pictures, step
        )
    first = {seen.sha256: (index, seen) for index, seen in reversed(found)}
    kept = [(index, seen) for index, seen in found if first[seen.sha256][0] == index]
    root = common_folder(pictures)
    skipped = [{"path": below(one["path"], root), "error": below(one["error"], root)} for one in skipped]
    rows = [Picture(seen.sha256, os.path.relpath(pictures[index].path, root), truths[index]) for index, seen in kept]
    errors = [_errors_of(seen) for _, seen in kept]
    return {
        "schema_version": SCHEMA_VERSION,
        "original": side_of(sides[0]),
        "bundle": side_of(sides[1]),
        "data": _data(rows, labels, options.source, skipped, len(found) - len(kept)),
        "stages": measures_of(errors, _bounds(sides[1])),
        "accuracy": [
            accuracy_of(
                mode,
                rows,
                np.stack([seen.scores[mode][0] for _, seen in kept]),
                np.stack([seen.scores[mode][1] for _, seen in kept]),
                labels,
            )
            for mode in options.modes
        ],
        "latency": pair.watch.medians(),
        "sensitivity": [],
        "calibration": None if options.calibration is None else dict(options.calibration),
        "machine": describe_machine(),
        "verdict": undecided(),
    }


class _Pair:
    """Both bundles, open, taking turns."""

    def __init__(self, original: Recognizer, bundle: Recognizer, modes: Sequence[Mode]) -> None:
        self._original = original
        self._bundle = bundle
        self._modes = modes
        self._seen: dict[str, _Seen] = {}
        self.watch = Stopwatch(original, bundle)

    def look(self, path: Path, with_stages: bool) -> _Seen:
        """Open a picture and ask both of it; of the same bytes once.

        Raises:
            ImageError: it cannot be opened.
        """
        try:
            data = path.read_bytes()
            image = load_image(data)
        except (OSError, ImageError) as error:
            raise ImageError(f"{path}: {error}") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._seen:
            self._seen[digest] = self._ask(digest, data, image, with_stages)
        return self._seen[digest]

    def _ask(self, digest: str, data: bytes, image: Image.Image, with_stages: bool) -> _Seen:
        scores = {
            mode: (
                self._original.evidence(image, mode=mode).log_probs,
                self._bundle.evidence(image, mode=mode).log_probs,
            )
            for mode in self._modes
        }
        errors = None
        if with_stages:
            errors = self._compare(image)
            self.watch.time(data)
        return _Seen(digest, scores, errors)

    def _compare(self, image: Image.Image) -> dict[Key, float]:
        found: dict[Key, float] = {}
        for mode in MODES:
            original = self._original.stages(image, mode=mode)
            along = self._bundle.stages(image, mode=mode, along=original.tokens.tolist())
            if not found:
                found |= of_picture(original, along)
            found |= of_prompt(mode, original, along, self._bundle.stages(along.embeds, mode=mode))
        return found


def _errors_of(seen: _Seen) -> dict[Key, float]:
    """Of the stages where they were compared; direct label scores are there for every picture."""
    errors = dict(seen.errors or {})
    if "direct" in seen.scores:
        errors |= of_labels("direct", *seen.scores["direct"])
    return errors


def _bounds(bundle: Bundle) -> Bounds:
    manifest = bundle.manifest
    return Bounds(manifest["precision"], manifest["decoder"]["cache_dtype"], {})


def side_of(bundle: Bundle) -> Side:
    """What a report says of a bundle."""
    manifest = bundle.manifest
    sizes = dict.fromkeys((*_PARTS, "other"), 0)
    graphs = []
    for name, entry in sorted(manifest["files"].items()):
        part = name.split(".")[0]
        sizes[part if part in sizes else "other"] += entry["size"]
        if part in _PARTS:
            graphs.append(f"{name} {entry['sha256']}\n")
    return {
        "name": manifest["name"],
        "target": manifest["target"],
        "precision": dict(manifest["precision"]),
        "graphs_sha256": hashlib.sha256("".join(graphs).encode()).hexdigest(),
        "checkpoint_digest": manifest["provenance"].get("checkpoint_digest"),
        "part_bytes": sizes,
        "total_bytes": sum(sizes.values()),
    }


def _data(pictures: Sequence[Picture], labels: LabelSet, source: str, skipped: list[Skipped], repeated: int) -> Data:
    rows = sorted(f"{picture.sha256} {labels.names[picture.truth]}\n" for picture in pictures)
    return {
        "source": source,
        "users": source != AVIARY,
        "pictures": len(pictures),
        "repeated": repeated,
        "classes": len({picture.truth for picture in pictures}),
        "labels": len(labels),
        "labels_sha256": labels.sha256,
        "sha256": hashlib.sha256("".join(rows).encode()).hexdigest(),
        "skipped": skipped,
    }


def common_folder(pictures: Sequence[LabelledPicture]) -> Path:
    """Paths in a document start here: a bundle travels, and says nothing of the disk that it was made on."""
    return Path(os.path.commonpath([os.path.abspath(picture.path.parent) for picture in pictures]))


def below(text: str, folder: Path) -> str:
    """A path, or a message that holds it, without the folder."""
    return text.replace(f"{folder}{os.sep}", "")


def _check_same_model(original: Bundle, bundle: Bundle) -> None:
    one, other = original.manifest, bundle.manifest
    for name in ("family", "decoder", "vision", "prompt"):
        mine, theirs = (_essential(manifest[name]) for manifest in (one, other))
        if mine != theirs:
            raise BundleError(
                f"{original.path} and {bundle.path} differ in {name!r} ({mine} and {theirs}); expected two bundles of "
                "one checkpoint: export the original again in fp32"
            )


def _essential(part: Any) -> Any:
    """Without what differs between targets."""
    if not isinstance(part, Mapping):
        return part
    return {key: value for key, value in part.items() if key not in ("cache_dtype", "tree_attention")}
