"""Pillow's bicubic resampling, faster, with Pillow's own values.

In: an RGB picture or a camera's frame, and a size. Out: `[height, width, 3] uint8`, what `Image.resize(..., BICUBIC)`
gives of the same RGB. Knows no model and no files.

`compiled.py` resamples on several cores, where it is available. Pillow resamples along one axis, rounds and clips to 8
bits, then along the other. Before 13 the rows always went first; since then the sizes decide, and the order shows in
the values. So Pillow makes the first picture of a size, and some of its rows are made again in either order: whichever
gives the same values is used from then on. Where neither does, Pillow makes all pictures of this size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.runtime.pictures import compiled
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.threads import usable_threads

Bytes = npt.NDArray[np.uint8]
Size = tuple[int, int]
Order = Literal["rows", "columns"]

WORTH_THREADS_PX = 1_000_000
"""Pictures of fewer pixels are resampled in less time than it takes to start threads and wake their cores."""

_KEPT_SIZES = 256
_orders: dict[tuple[Size, Size], Order | None] = {}
"""By size of picture and result: which axis Pillow begins with; None where neither order gives its values."""


def resample(picture: Image.Image | Nv12Frame, width: int, height: int, *, threads: int | None = None) -> Bytes:
    """Resize a picture, bicubic with antialiasing.

    Args:
        picture: of mode RGB, or a frame.
        width, height: of the result, in pixels.
        threads: None takes the cores that there are; small pictures take one.

    Returns:
        [height, width, 3] uint8.
    """
    usable = usable_threads(threads) if picture.width * picture.height >= WORTH_THREADS_PX else 1
    key = ((picture.width, picture.height), (width, height))
    order = _orders.get(key)
    if order is not None and compiled.available():
        source = picture.pixels() if isinstance(picture, Nv12Frame) else compiled.ImagePixels(picture)
        return compiled.resampled(source, width, height, columns_first=order == "columns", threads=usable)
    image = picture.rgb(threads=usable) if isinstance(picture, Nv12Frame) else picture
    result = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    if key not in _orders and compiled.available():
        _learn_order(image, result, usable)
    return result


def _learn_order(image: Image.Image, result: Bytes, threads: int) -> None:
    """Keep the order that gives the middle rows of `result`; nothing where both do, as in a black picture."""
    height, width = result.shape[:2]
    rows = (height // 4, height // 4 + (height + 1) // 2)
    source = compiled.ImagePixels(image)
    orders: tuple[Order, Order] = ("rows", "columns")
    found = [
        order
        for order in orders
        if np.array_equal(
            compiled.resampled(source, width, height, columns_first=order == "columns", threads=threads, rows=rows),
            result[slice(*rows)],
        )
    ]
    if len(found) == 2 and image.width != width and image.height != height:
        return
    if len(_orders) >= _KEPT_SIZES:
        _orders.clear()
    _orders[image.size, (width, height)] = found[0] if found else None
