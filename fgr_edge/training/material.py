"""What nano learns from, in memory: the grocery photographs and a pool of aviary drawings, with their labels."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from fgr_edge.data.aviary import ATTRIBUTES, NAMES, SPECIES, TRAINING_SEEDS, VALIDATION_SEEDS
from fgr_edge.data.aviary_drawing import pixels
from fgr_edge.data.grocery import GroceryClasses, Split, read_classes, read_split
from fgr_edge.training.recipe import DataRecipe
from fgr_edge.training.views import Pictures, load_pictures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures and their class ids [n]."""

    pictures: Pictures
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Material:
    """Both data sets, training and validation parts."""

    classes: GroceryClasses
    photos: Labelled
    photos_val: Labelled
    birds: Labelled
    birds_val: Labelled


def attribute_table() -> tuple[Tensor, list[int]]:
    """Attribute values of every species as ids [40, A], and how many values each attribute has."""
    columns, sizes = [], []
    for key in ATTRIBUTES:
        values = sorted({str(getattr(s, key)) for s in SPECIES})
        columns.append([values.index(str(getattr(s, key))) for s in SPECIES])
        sizes.append(len(values))
    return torch.tensor(columns).T.contiguous(), sizes


def drawings(per_species: int, seeds: range, size: int, workers: int) -> Labelled:
    """`per_species` drawings of every species, seeds from the start of `seeds`."""
    jobs = [(number, seeds[k], size) for k in range(per_species) for number in range(len(NAMES))]
    if workers > 1 and len(jobs) > 200:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            arrays = list(pool.map(pixels, jobs, chunksize=40))
    else:
        arrays = [pixels(job) for job in jobs]
    pictures = Pictures(torch.from_numpy(np.stack(arrays)), torch.ones(len(jobs)))
    return Labelled(pictures, torch.tensor([number for number, _, _ in jobs]))


def photographs(recipe: DataRecipe, split: Split) -> Labelled:
    """The photographs of one split."""
    rows = read_split(recipe.grocery, split)
    pictures = load_pictures([row.path for row in rows], recipe.photo_px)
    return Labelled(pictures, torch.tensor([row.fine for row in rows]))


def load_material(recipe: DataRecipe, workers: int) -> Material:
    """Read the photographs and draw the birds."""
    start = time.monotonic()
    classes = read_classes(recipe.grocery)
    photos, photos_val = photographs(recipe, "train"), photographs(recipe, "val")
    logger.info("%d + %d photographs in %.0f s", len(photos), len(photos_val), time.monotonic() - start)
    start = time.monotonic()
    birds = drawings(recipe.aviary_per_species, TRAINING_SEEDS, recipe.aviary_px, workers)
    birds_val = drawings(recipe.aviary_val // len(NAMES), VALIDATION_SEEDS, recipe.aviary_px, workers)
    logger.info("%d + %d drawings in %.0f s", len(birds), len(birds_val), time.monotonic() - start)
    return Material(classes, photos, photos_val, birds, birds_val)
