"""Random views of photographs and drawings: crop, flip, turn, light, erased patches, and mixtures of two pictures.

In: pictures [n, 3, S, S] uint8, squeezed to a square, and the width / height of each original. Out: views
[B, 3, V, V] float32 in 0..255. Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class ViewRecipe:
    """Ranges of the random views; probabilities are per picture, those of mixtures per batch."""

    min_area: float
    max_area: float
    max_turn_degrees: float
    flip: float
    brightness: float
    contrast: float
    saturation: float
    erase: float
    mixup: float
    cutmix: float


@dataclass(frozen=True, slots=True)
class Pictures:
    """Decoded pictures kept in memory."""

    pixels: Tensor  # [n, 3, S, S] uint8
    aspect: Tensor  # [n] width / height of the originals


def load_pictures(paths: Sequence[Path], size: int) -> Pictures:
    """Decode photographs, squeezed to `size` x `size`."""

    def one(path: Path) -> tuple[Tensor, float]:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
            return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous(), image.width / image.height

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(one, paths))
    return Pictures(torch.stack([r[0] for r in rows]), torch.tensor([r[1] for r in rows]))


def _uniform(count: int, low: float, high: float, rng: Generator) -> Tensor:
    return torch.rand(count, generator=rng) * (high - low) + low


def _affine(aspect: Tensor, recipe: ViewRecipe, rng: Generator) -> Tensor:
    """Crop, turn and flip as matrices [B, 2, 3] from view to picture coordinates in -1..1."""
    n = len(aspect)
    area = _uniform(n, recipe.min_area, recipe.max_area, rng)
    ratio = torch.exp(_uniform(n, -math.log(4 / 3), math.log(4 / 3), rng))
    width = (area * ratio / aspect).sqrt().clamp(max=1)
    height = (area / ratio * aspect).sqrt().clamp(max=1)
    x = _uniform(n, -1, 1, rng) * (1 - width)
    y = _uniform(n, -1, 1, rng) * (1 - height)
    turn = _uniform(n, -1, 1, rng) * math.radians(recipe.max_turn_degrees)
    mirror = 1 - 2 * (torch.rand(n, generator=rng) < recipe.flip).float()
    cos, sin = turn.cos(), turn.sin()
    first = torch.stack([width * cos * mirror, -width * sin, x], 1)
    second = torch.stack([height * sin * mirror, height * cos, y], 1)
    return torch.stack([first, second], 1)


def _recolour(views: Tensor, recipe: ViewRecipe, rng: Generator) -> Tensor:
    n = len(views)

    def factor(spread: float) -> Tensor:
        return _uniform(n, 1 - spread, 1 + spread, rng).view(-1, 1, 1, 1)

    grey = views.mean(1, keepdim=True)
    views = grey + (views - grey) * factor(recipe.saturation)
    mean = views.mean((1, 2, 3), keepdim=True)
    views = (mean + (views - mean) * factor(recipe.contrast)) * factor(recipe.brightness)
    return views.clamp_(0, 255)


def _erase(views: Tensor, probability: float, rng: Generator) -> Tensor:
    """Cover a random rectangle of some views with one grey value."""
    size = views.shape[-1]
    for view in views:
        if torch.rand(1, generator=rng).item() >= probability:
            continue
        h, w = (int(s) for s in _uniform(2, 0.15, 0.5, rng) * size)
        y, x = (int(s) for s in torch.rand(2, generator=rng) * torch.tensor([size - h, size - w]))
        view[:, y : y + h, x : x + w] = _uniform(1, 0, 255, rng)
    return views


def random_views(pictures: Pictures, rows: Tensor, size: int, recipe: ViewRecipe, rng: Generator) -> Tensor:
    """One random view [B, 3, size, size] of each picture in `rows` [B]."""
    matrices = _affine(pictures.aspect[rows], recipe, rng)
    grid = F.affine_grid(matrices, [len(rows), 3, size, size], align_corners=False)
    views = F.grid_sample(pictures.pixels[rows].float(), grid, padding_mode="reflection", align_corners=False)
    return _erase(_recolour(views, recipe, rng), recipe.erase, rng)


def mix(views: Tensor, recipe: ViewRecipe, rng: Generator) -> tuple[Tensor, Tensor, float]:
    """Sometimes mix each view with another of the batch; returns views, partner rows [B] and the own share in 0..1."""
    draw = float(torch.rand(1, generator=rng))
    partner = torch.randperm(len(views), generator=rng)
    if draw < recipe.mixup:
        share = float(_uniform(1, 0.5, 1, rng))
        return views * share + views[partner] * (1 - share), partner, share
    if draw < recipe.mixup + recipe.cutmix:
        size = views.shape[-1]
        side = math.sqrt(float(_uniform(1, 0.05, 0.5, rng))) * size
        y, x = (int(v) for v in torch.rand(2, generator=rng) * (size - side))
        end_y, end_x = y + int(side), x + int(side)
        mixed = views.clone()
        mixed[:, :, y:end_y, x:end_x] = views[partner][:, :, y:end_y, x:end_x]
        return mixed, partner, 1 - (int(side) / size) ** 2
    return views, partner, 1.0


def shrink(views: Tensor, size: int) -> Tensor:
    """Views [B, 3, V, V] resized to `size` as the image processor does it (bicubic, antialiased), in 0..255."""
    if views.shape[-1] == size:
        return views
    return F.interpolate(views, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)


def normalise(views: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels in 0..255 to the network's input."""
    shape: Any = (1, 3, 1, 1)
    return (views / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
