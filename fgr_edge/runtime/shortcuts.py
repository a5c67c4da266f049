"""Any picture to patches in one call: exactly as the reference does it, or by shortcuts that give other pixels.

In: a picture as `load_image` takes it. Out: `Patches`. The grid is the same either way.

Exact is the default: `preprocess(load_image(source))`, but that an NV12 frame is converted strip by strip, in the
threads that resample it. With `fast`:
1. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which libjpeg does inside its inverse transform, as long as at
   least twice the target is left.
2. Other pictures are first averaged down by a whole number to at least twice the target (Pillow's `reducing_gap`).
3. The planes of an NV12 frame are resampled one by one; only pixels of the target are converted to RGB.
Each leaves bicubic resampling at least a factor of two to do. `benchmarks/preprocessing.py` has what they save and
what they change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.runtime.image import ImageInput, load_image, orientation_of, preprocess
from fgr_edge.runtime.nv12 import Nv12Frame
from fgr_edge.runtime.resampling import resample, rows_of
from fgr_edge.runtime.resize import ImageConfig, Patches, patchify, target_size

KEPT = 2
"""Times the target that a shortcut leaves at least; Pillow's own thumbnails leave as much."""

_BICUBIC = Image.Resampling.BICUBIC


def read_patches(source: ImageInput, config: ImageConfig, *, fast: bool = False, threads: int | None = None) -> Patches:
    """Opens a picture and cuts it into patches.

    Args:
        source: As for `load_image`.
        config: The checkpoint's numbers.
        fast: Takes shortcuts: pixels are no longer the reference's.
        threads: That large pictures may take; None takes the cores that there are. They change no value.

    Returns:
        The patches; without `fast`, `pixels` within 1e-6 of the reference's.

    Raises:
        ImageError: As for `load_image` and `preprocess`.
    """
    if fast:
        array = _fast_frame(source, config) if isinstance(source, Nv12Frame) else _fast_picture(source, config, threads)
        return patchify(array, config, threads=threads)
    if not isinstance(source, Nv12Frame):
        return preprocess(load_image(source), config, threads=threads)
    height, width = target_size(source.height, source.width, config)
    if (width, height) == (source.width, source.height):
        return preprocess(load_image(source), config, threads=threads)
    size = (source.width, source.height)
    array = resample(source.rgb, size, width, height, threads=threads)
    return patchify(array, config, threads=threads)


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
        least = (KEPT * height, KEPT * width) if turned else (KEPT * width, KEPT * height)
        asked = image.draft(None, least)  # None for all formats but JPEG
        if asked is not None and orientation == 1:
            # The last row and column may lie partly outside the picture.
            self.box = asked[1]


def _fast_picture(source: ImageInput, config: ImageConfig, threads: int | None) -> npt.NDArray[np.uint8]:
    draft = _Draft(config)
    image = load_image(source, before_decoding=draft)
    size = image.size if draft.size is None else draft.size
    height, width = target_size(size[1], size[0], config)
    if image.size == size != (width, height):  # nothing was left out: several cores are faster than one
        return resample(rows_of(image), size, width, height, threads=threads)
    return np.asarray(image.resize((width, height), _BICUBIC, box=draft.box, reducing_gap=KEPT))


def _fast_frame(frame: Nv12Frame, config: ImageConfig) -> npt.NDArray[np.uint8]:
    height, width = target_size(frame.height, frame.width, config)
    y, cb, cr = (plane.resize((width, height), _BICUBIC, reducing_gap=KEPT) for plane in frame.planes(0, frame.height))
    return np.asarray(frame.merged(y, cb, cr))
