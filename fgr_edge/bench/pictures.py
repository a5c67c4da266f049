"""The pictures of a run: the user's own, checked before any model is opened, or drawings of the aviary."""

from __future__ import annotations

from pathlib import Path

from fgr_edge.data.aviary import HELD_OUT_SEEDS, SPECIES
from fgr_edge.data.aviary_drawing import draw
from fgr_edge.errors import ImageError
from fgr_edge.runtime.image import load_image
from fgr_edge.runtime.sources import pictures

DRAWN = 4
SIDE_PX = 448


def open_pictures(images: Path | None, folder: Path) -> list[Path]:
    """Paths of pictures that can be opened.

    Args:
        images: a picture, or a folder of pictures; None draws some.
        folder: where drawings are put.

    Raises:
        ImageError: one cannot be opened, or there is none.
    """
    if images is None:
        return _drawn(folder)
    if not images.exists():
        raise ImageError(f"there is no file or folder {str(images)!r}: check --images")
    paths = [Path(name) for name, _ in pictures([str(images)])]
    for path in paths:
        load_image(path)
    return paths


def _drawn(folder: Path) -> list[Path]:
    """JPEG files, so that decoding costs what it costs for a photograph."""
    paths = []
    for number in range(DRAWN):
        path = folder / f"drawing-{number}-{SIDE_PX}px.jpg"
        draw(SPECIES[number * len(SPECIES) // DRAWN], HELD_OUT_SEEDS[number], SIDE_PX).save(path, quality=90)
        paths.append(path)
    return paths
