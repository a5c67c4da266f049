"""Any picture to patches in one call: exactly as the reference does it, or by shortcuts that give other pixels.

In: a picture as `load_image` takes it. Out: `Patches`. The grid is the same either way.

Exact is the default: `preprocess(load_image(source))`. With `fast`:
1. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which libjpeg does inside its inverse transform, as long as at
   least 1.5 times the target is left.
2. Other pictures are first averaged down by a whole number to at least twice the target (Pillow's `reducing_gap`).
Bicubic resampling does the rest. A camera's frame has nothing to decode, and is exact either way: it becomes RGB row by
row while it is resampled. `benchmarks/preprocessing.py` has what the shortcuts save and what they change.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.runtime.image import ImageInput, load_image, orientation_of, preprocess
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.pictures.resampling import resample
from fgr_edge.runtime.pictures.resize import ImageConfig, Patches, patchify, target_size

KEPT = 2
"""Times the target that averaging leaves at least; Pillow's own thumbnails leave as much."""

KEPT_BY_JPEG = 1.5
"""Times the target that a JPEG's decoder leaves at least: its transform cuts off frequencies, and blurs less."""

Bytes = npt.NDArray[np.uint8]

_BICUBIC = Image.Resampling.BICUBIC
_REDUCED = 2 * KEPT  # times the target, from where on Pillow averages


def read_patches(source: ImageInput, config: ImageConfig, *, fast: bool = False, threads: int | None = None) -> Patches:
    """Opens a picture and cuts it into patches.

    Args:
        source: As for `load_image`.
        config: The checkpoint's numbers.
        fast: Takes shortcuts: pixels are no longer the reference's, but for frames.
        threads: That large pictures may take; None takes the cores that there are. They change no value.

    Returns:
        The patches; without `fast`, `pixels` within 1e-6 of the reference's.

    Raises:
        ImageError: As for `load_image` and `preprocess`.
    """
    if not isinstance(source, Nv12Frame):
        if fast:
            return patchify(_fast_picture(source, config, threads), config, threads=threads)
        return preprocess(load_image(source), config, threads=threads)
    height, width = target_size(source.height, source.width, config)
    if (width, height) == (source.width, source.height):
        return preprocess(load_image(source), config, threads=threads)
    return patchify(resample(source, width, height, threads=threads), config, threads=threads)


class _Draft:
    """Asks a file for no more pixels than are needed; remembers its size, upright."""

    def __init__(self, config: ImageConfig) -> None:
        self._config = config
        self.size: tuple[int, int] | None = None
        self.box: tuple[float, float, float, float] | None = None

    def __call__(self, image: Image.Image) -> None:
        orientation = orientation_of(image)
        turned = orientation > 4
        self.size = (image.height, image.width) if turned else image.size
        height, width = target_size(self.size[1], self.size[0], self._config)
        least = (math.ceil(KEPT_BY_JPEG * width), math.ceil(KEPT_BY_JPEG * height))
        asked = image.draft(None, least[::-1] if turned else least)  # None for all formats but JPEG
        if asked is not None and orientation == 1:
            # The last row and column may lie partly outside the picture.
            self.box = asked[1]


def _fast_picture(source: ImageInput, config: ImageConfig, threads: int | None) -> Bytes:
    draft = _Draft(config)
    image = load_image(source, before_decoding=draft)
    size = image.size if draft.size is None else draft.size
    height, width = target_size(size[1], size[0], config)
    whole = draft.box is None or draft.box == (0, 0, *image.size)
    few_left = image.width < _REDUCED * width and image.height < _REDUCED * height
    if whole and few_left and image.size != (width, height):  # nothing more to leave out: several cores are faster
        return resample(image, width, height, threads=threads)
    return np.asarray(image.resize((width, height), _BICUBIC, box=draft.box, reducing_gap=KEPT))
