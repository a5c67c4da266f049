"""Which photographs a model is calibrated on: some of the user's, spread over the classes, and the rest.

In: labelled photographs (`data.labelled`), or nothing. Out: the chosen ones, those left over to measure accuracy on,
those that cannot be opened, and a digest for the manifest. Without photographs the birds of the aviary stand in, and
the source says so. Opens every photograph once; knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgr_edge.data.aviary import SPECIES, VALIDATION_SEEDS
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.data.labelled import LabelledPicture, read_labelled
from fgr_edge.errors import ConfigError, DataError
from fgr_edge.evaluate.evaluation import ProgressBar, Skipped, ask_all, class_indices
from fgr_edge.runtime.bundle import sha256_of
from fgr_edge.runtime.image import load_image
from fgr_edge.runtime.labels import LabelSet, normalized

AVIARY = "aviary"
CHOSEN = 96  # pictures, unless told otherwise
DRAWN_PER_SPECIES = 8


def _silent(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class CalibrationPictures:
    """The user's photographs, or drawings, divided.

    Attributes:
        source: where they come from; "aviary" where they are drawn.
        chosen: to calibrate on, classes in turn.
        rest: those that can be opened and were not chosen, in the source's order.
        unreadable: those that cannot be opened.
        sha256: over labels and bytes of the chosen ones, whatever their order.
    """

    source: str
    chosen: tuple[LabelledPicture, ...]
    rest: tuple[LabelledPicture, ...]
    unreadable: tuple[Skipped, ...]
    sha256: str


def calibration_pictures(
    source: Path | None,
    folder: Path,
    *,
    labels: LabelSet | None = None,
    count: int = CHOSEN,
    seed: int = 0,
    per_species: int = DRAWN_PER_SPECIES,
    progress: ProgressBar = _silent,
) -> CalibrationPictures:
    """Read and divide the photographs of `source`, or drawings.

    Args:
        source: as in `read_labelled`; None takes the aviary.
        folder: drawings are written there, to stay as long as they are used.
        labels: classes that the photographs must belong to; drawings are not held to them.
        count, seed, progress: as in `choose_pictures`.
        per_species: drawings of each of the 40 species.

    Raises:
        DataError: see `read_labelled` and `choose_pictures`; labels that are not among `labels`.
    """
    if source is None:
        with progress("drawings", len(SPECIES) * per_species) as step:
            drawings = draw_aviary(folder, per_species, step)
        return choose_pictures(drawings, AVIARY, count=count, seed=seed, progress=progress)
    pictures = read_labelled(source)
    if labels is not None:
        class_indices(pictures, labels)
    return choose_pictures(pictures, str(source), count=count, seed=seed, progress=progress)


def choose_pictures(
    pictures: Sequence[LabelledPicture],
    source: str,
    *,
    count: int = CHOSEN,
    seed: int = 0,
    progress: ProgressBar = _silent,
) -> CalibrationPictures:
    """Take one of each class in turn until there are `count`; the same for the same pictures and seed.

    Args:
        progress: brings a progress bar, in photographs opened.

    Raises:
        ConfigError: fewer than two pictures are asked for.
        DataError: all are of one class, or more than 5 % cannot be opened.
    """
    if count < 2:
        raise ConfigError(f"{count} calibration pictures asked for, expected at least 2, and better 64 to 128")

    def opens(index: int) -> None:
        load_image(pictures[index].path)

    with progress("photographs", len(pictures)) as step:
        found, unreadable = ask_all(opens, range(len(pictures)), pictures, step)
    readable = [pictures[index] for index, _ in found]
    classes = [normalized(picture.label) for picture in readable]
    if len(set(classes)) < 2:
        raise DataError(
            f"{source}: all {len(readable)} photographs are of {readable[0].label!r}; expected at least two classes, "
            "and better all that the model must tell apart: name the folder that holds a folder per class, or a list "
            "with labels"
        )
    chosen = _in_turn(classes, seed)[:count]
    kept = set(chosen)
    return CalibrationPictures(
        source,
        tuple(readable[index] for index in chosen),
        tuple(picture for index, picture in enumerate(readable) if index not in kept),
        tuple(unreadable),
        _digest([readable[index] for index in chosen]),
    )


def draw_aviary(folder: Path, per_species: int, step: Callable[[int], None] = lambda _: None) -> list[LabelledPicture]:
    """Draw birds of every species into `folder`; those that are there stay. Uncompressed: the same bytes everywhere."""
    pictures = []
    for species in SPECIES:
        (folder / species.name).mkdir(parents=True, exist_ok=True)
        for seed in VALIDATION_SEEDS[:per_species]:
            path = folder / species.name / f"{seed}.bmp"
            if not path.exists():
                draw(species, seed).save(path)
            pictures.append(LabelledPicture(path, species.name))
            step(1)
    return pictures


def _in_turn(classes: Sequence[str], seed: int) -> list[int]:
    """All numbers of `classes`, one of each class in turn; the order of the classes and in each of them is drawn."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        members.setdefault(name, []).append(index)
    names = sorted(members)
    queues = [rng.permutation(members[names[number]]).tolist() for number in rng.permutation(len(names))]
    longest = max(map(len, queues))
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _digest(pictures: Sequence[LabelledPicture]) -> str:
    rows = sorted(f"{sha256_of(picture.path)} {picture.label}\n" for picture in pictures)
    return hashlib.sha256("".join(rows).encode()).hexdigest()
