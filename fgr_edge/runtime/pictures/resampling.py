"""Pillow's bicubic resampling on several cores, with Pillow's own values.

In: rows of an RGB picture and a size. Out: `[height, width, 3] uint8`, what `Image.resize(..., BICUBIC)` gives in one
call. Knows no model and no files.

Pillow resamples along one axis, rounds and clips to 8 bits, then along the other. Before 13 the rows always went
first; since then the sizes decide, and the order shows in the values. So the first picture of a size is resampled in
one call, and a sixteenth of it again in either order: whichever equals is the order for this size. From then on the
result is cut into 2 or 4 strips of equal height, each made in that order from the rows that it depends on, in a thread
of its own (Pillow lets go of the interpreter while it works). Strips begin at a half or a quarter of the height,
numbers that Pillow's float32 boxes hold exactly: every row gets the weights that it gets in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.runtime.threads import in_threads, usable_threads

Bytes = npt.NDArray[np.uint8]
Size = tuple[int, int]
Order = Literal["rows", "columns"]
Rows = Callable[[int, int], Image.Image]
"""Gives rows from `first` up to `last`, both even (or the end), of an RGB picture."""

WORTH_THREADS_PX = 1_000_000
"""Pictures of fewer pixels are resampled in less time than it takes to start threads and wake their cores."""

_BICUBIC = Image.Resampling.BICUBIC
_MOST_STRIPS = 4
_SUPPORT = 2  # pixels that the bicubic kernel reaches to either side, times the scale
_KEPT_SIZES = 256
_orders: dict[tuple[Size, Size], Order | None] = {}
"""By size of picture and result; None where neither order gives Pillow's values."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Some rows of a result, and what they are made of.

    Attributes:
        first, last: rows of the picture that they depend on, both even (or the end).
        top, bottom: what they cover of these rows, counted from `first`.
        height: of the strip in the result.
    """

    first: int
    last: int
    top: float
    bottom: float
    height: int


def rows_of(image: Image.Image) -> Rows:
    """Rows of a decoded picture."""
    return lambda first, last: (
        image if (first, last) == (0, image.height) else image.crop((0, first, image.width, last))
    )


def resample(rows: Rows, size: Size, width: int, height: int, *, threads: int | None = None) -> Bytes:
    """Resize a picture, bicubic with antialiasing.

    Args:
        rows: of the picture; called from several threads.
        size: the picture's width and height.
        width, height: of the result.
        threads: None takes the cores that there are; small pictures take one.

    Returns:
        [height, width, 3] uint8.
    """
    usable = usable_threads(threads) if size[0] * size[1] >= WORTH_THREADS_PX else 1
    strips = max(n for n in (1, 2, _MOST_STRIPS) if n <= usable and height % n == 0)
    key = (size, (width, height))
    order = _orders.get(key)
    if strips > 1 and order is not None:
        return in_strips(
            lambda strip: _in_order(
                rows(strip.first, strip.last), (width, strip.height), (0, strip.top, size[0], strip.bottom), order
            ),
            size,
            (width, height),
            strips,
            threads=strips,
        )
    image = rows(0, size[1])
    result = np.asarray(image.resize((width, height), _BICUBIC))
    if strips > 1 and key not in _orders and width % 4 == height % 4 == 0:
        _learn_order(image, result, key)
    return result


def in_strips(make: Callable[[Strip], Image.Image], size: Size, target: Size, strips: int, *, threads: int) -> Bytes:
    """A resampled picture, put together from strips of equal height that are made in threads.

    Args:
        make: gives the rows of a strip, RGB and of the target's width.
        size: the picture's width and height.
        target: the result's; `strips` divides its height.
    """
    width, height = target[0], target[1] // strips
    margin = _SUPPORT * max(1.0, size[1] / target[1]) + 1
    result = np.empty((target[1], width, 3), np.uint8)

    def part(number: int) -> None:
        top, bottom = number * size[1] / strips, (number + 1) * size[1] / strips
        first = max(0, math.floor(top - margin)) // 2 * 2
        last = min(size[1], math.ceil((bottom + margin) / 2) * 2)
        made = make(Strip(first, last, top - first, bottom - first, height))
        result[number * height : (number + 1) * height] = np.asarray(made)

    in_threads(part, range(strips), threads)
    return result


def _in_order(image: Image.Image, target: Size, box: tuple[float, float, float, float], order: Order) -> Image.Image:
    """`image.resize(target, box=box)`, one axis after the other."""
    left, top, right, bottom = box
    if order == "rows":
        wide = image.resize((target[0], image.height), _BICUBIC, box=(left, 0, right, image.height))
        return wide.resize(target, _BICUBIC, box=(0, top, target[0], bottom))
    tall = image.resize((image.width, target[1]), _BICUBIC, box=(0, top, image.width, bottom))
    return tall.resize(target, _BICUBIC, box=(left, 0, right, target[1]))


def _learn_order(image: Image.Image, result: Bytes, key: tuple[Size, Size]) -> None:
    """Keep the order that gives a sixteenth of `result`; nothing where both do, as in a black picture."""
    size, (width, height) = key
    expected = result[height // 4 : height // 2, width // 4 : width // 2]
    crop, box = [], []
    for length, side in ((size[0], width), (size[1], height)):
        margin = _SUPPORT * max(1.0, length / side) + 1
        first = max(0, math.floor(length / 4 - margin))
        crop.append((first, min(length, math.ceil(length / 2 + margin))))
        box.append((length / 4 - first, length / 2 - first))
    part = image.crop((crop[0][0], crop[1][0], crop[0][1], crop[1][1]))
    wanted = (box[0][0], box[1][0], box[0][1], box[1][1])
    orders: tuple[Order, Order] = ("rows", "columns")
    found = [
        order
        for order in orders
        if np.array_equal(np.asarray(_in_order(part, (width // 4, height // 4), wanted, order)), expected)
    ]
    if len(found) == 2 and size[0] != width and size[1] != height:
        return
    if len(_orders) >= _KEPT_SIZES:
        _orders.clear()
    _orders[key] = found[0] if found else None
