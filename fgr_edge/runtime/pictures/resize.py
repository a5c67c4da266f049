"""A model's preprocessing numbers, the size that they give a picture, and the patches that they cut it into.

In: an RGB array [H, W, 3] uint8 and an `ImageConfig`. Out: `pixels [N, C*T*P*P] float32` and the `grid` of
patches. Knows nothing of files, modes of pictures or Pillow: that is `image.py`.

Every formula is that of transformers/models/qwen2_vl/image_processing_pil_qwen2_vl.py:
1. The size is rounded to whole merge blocks with Python's `round` (half to even); where that is too much or
   too little, the original size is scaled to `max_pixels` and floored, or to `min_pixels` and ceiled. Each
   side is rounded by itself, so the aspect ratio shifts a little; a picture smaller than a block grows to one
   at least.
2. `(value * rescale_factor - mean) / std`, here folded into one multiply and one add.
3. Patches follow each other merge block by merge block; the one frame is repeated `temporal_patch_size`
   times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fgr_edge.errors import ConfigError, ImageError
from fgr_edge.runtime.pictures import compiled
from fgr_edge.runtime.pictures.resampling import WORTH_THREADS_PX
from fgr_edge.runtime.threads import in_threads, usable_threads

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MAX_ASPECT_RATIO = 200
"""Long side over short side; the reference refuses more."""

_PATCHES_AT_ONCE = 512  # about 1 MB of float32: the intermediate stays in cache, the peak is the output alone


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """A checkpoint's preprocessing numbers, as in its `preprocessor_config.json`.

    Attributes:
        patch_size: Side of a patch, in pixels (14 in Qwen2.5-VL, 16 in Qwen3-VL).
        merge_size: Side of a merge block, in patches; one block is one token of the decoder.
        temporal_patch_size: Frames per patch; a still picture is repeated that many times.
        min_pixels: Least area after resizing, in pixels (`size["shortest_edge"]`, in spite of its name).
        max_pixels: Greatest area after resizing, in pixels (`size["longest_edge"]`).
        mean: Per channel R, G, B, after rescaling.
        std: Per channel R, G, B, after rescaling; positive.
        rescale_factor: Takes 0..255 to the range that `mean` and `std` are given in.

    Raises:
        ConfigError: a number is of the wrong type or out of range.
    """

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float = 1 / 255

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size", "min_pixels", "max_pixels"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1")
        if self.min_pixels > self.max_pixels:
            raise ConfigError(
                f"min_pixels is {self.min_pixels}, max_pixels {self.max_pixels}: give the lesser one first"
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 3 or not all(map(_is_number, value)):
                raise ConfigError(f"{name} is {value!r}: give a tuple of three finite numbers, R, G, B")
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std!r}: give three positive numbers")
        if not _is_number(self.rescale_factor) or self.rescale_factor <= 0:
            raise ConfigError(f"rescale_factor is {self.rescale_factor!r}: give a positive number, as 1/255")


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """One picture as the vision graph reads it.

    Attributes:
        pixels: [N, C*T*P*P] float32, N = t * h * w: merge block by merge block, row-major in and between
            blocks.
        grid: (t, h, w) in patches; t is 1, h and w are multiples of `merge_size`.
    """

    pixels: npt.NDArray[np.float32]
    grid: tuple[int, int, int]


def smart_resize(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size that a picture is resized to: the reference's `smart_resize`, number for number.

    Args:
        height: In pixels, at least 1.
        width: In pixels, at least 1.
        factor: `patch_size * merge_size`, in pixels; both sides of the result are multiples of it.
        min_pixels: Least area, in pixels.
        max_pixels: Greatest area, in pixels; exceeded only where a side would be less than `factor`, and
            where reaching `min_pixels` takes it.

    Returns:
        (height, width) in pixels.

    Raises:
        ImageError: an empty picture, or one with an aspect ratio over `MAX_ASPECT_RATIO`.
    """
    if min(height, width) < 1:
        raise ImageError(f"the picture is {width} x {height}: give one of at least 1 x 1 pixels")
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ImageError(
            f"the picture is {width} x {height}: the long side may be at most {MAX_ASPECT_RATIO} times the "
            "short one; crop it"
        )
    rows = round(height / factor) * factor
    columns = round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:  # a side that was rounded to 0 always ends here
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def target_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """The (height, width) in pixels that a picture of that size gets before it is cut into patches.

    Raises:
        ImageError: as for `smart_resize`.
    """
    return smart_resize(
        height,
        width,
        factor=config.patch_size * config.merge_size,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
    )


def patchify(image: Bytes, config: ImageConfig, *, threads: int | None = None) -> Patches:
    """Normalizes an RGB array and cuts it into patches.

    Args:
        image: [H, W, 3] uint8, both sides multiples of `patch_size * merge_size` (`smart_resize` gives such).
        config: The checkpoint's numbers.
        threads: That large pictures may take; None takes the cores that there are.

    Returns:
        The patches; `pixels` within 1e-6 of the reference's.
    """
    patch, merge, frames = config.patch_size, config.merge_size, config.temporal_patch_size
    h, w = image.shape[0] // patch, image.shape[1] // patch
    # (value * rescale_factor - mean) / std as one multiply and one add.
    mean, std = np.array(config.mean, np.float64), np.array(config.std, np.float64)
    scale = (config.rescale_factor / std).astype(np.float32)[:, None]  # [C, 1]
    offset = (-mean / std).astype(np.float32)[:, None]
    usable = usable_threads(threads) if image.shape[0] * image.shape[1] >= WORTH_THREADS_PX else 1
    if compiled.available():
        values = np.arange(256, dtype=np.uint8) * scale + offset
        pixels = compiled.patches(image, values, patch=patch, merge=merge, frames=frames, threads=usable)
    else:
        pixels = _patches(image, scale, offset, config, usable)
    return Patches(pixels.reshape(h * w, 3 * frames * patch * patch), (1, h, w))


def _patches(image: Bytes, scale: Floats, offset: Floats, config: ImageConfig, threads: int) -> Floats:
    """The same values as `compiled.patches`: [N, 3, frames, patch * patch]."""
    patch, merge, frames = config.patch_size, config.merge_size, config.temporal_patch_size
    h, w = image.shape[0] // patch, image.shape[1] // patch
    blocks = image.reshape(h // merge, merge, patch, w // merge, merge, patch, 3)
    turned = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # [block row, block column, row, column, C, P, P]
    pixels = np.empty((h * w, 3, frames, patch * patch), np.float32)
    row = merge * w  # patches in a row of merge blocks
    step = max(1, _PATCHES_AT_ONCE // row)

    def rows(first: int) -> None:
        # 1. Order the pixels while they are bytes: a quarter of the traffic of doing it in float32.
        ordered = turned[first : first + step].reshape(-1, 3, patch * patch)  # [N, C, P*P] uint8
        values = ordered * scale
        values += offset
        # 2. Repeat the frame while its values are in cache.
        pixels[first * row : first * row + len(values)] = values[:, :, None]

    in_threads(rows, range(0, h // merge, step), threads)
    return pixels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
