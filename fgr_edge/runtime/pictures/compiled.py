"""Our own C for pictures: resampling with Pillow's values, a frame's colours, patches. Some ten times as fast.

In: pixels as they lie in memory. Out: arrays. Beside this file lies `libpictures.so` where the package was installed on
a machine with a C compiler; `available` says whether it can be used, and callers do without it where not. AVX-512, AVX2
or what every processor has is chosen on the device; all compute the same.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.runtime.native import opened
from fgr_edge.runtime.threads import in_threads

LIBRARY = Path(__file__).with_name("libpictures.so")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_COPIED_PX = 2_000_000  # pixels that are copied at once: 8 MB


class _Picture(ctypes.Structure):
    """`fgr_picture` of picture.h."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("colours", ctypes.c_void_p),
        ("y_stride", ctypes.c_ssize_t),
        ("colours_stride", ctypes.c_ssize_t),
        ("matrix", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("last", ctypes.c_int32),
    )


class _ArrowArray(ctypes.Structure):
    """A column of Apache Arrow's C data interface, as far as it is read here."""


_ArrowArray._fields_ = (
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Some rows of a picture where they lie in memory, by their numbers in the picture.

    Attributes:
        picture: what the library reads.
        memory: what keeps it there.
    """

    picture: _Picture
    memory: tuple[object, ...]


class ImagePixels:
    """An RGB image of Pillow's.

    Since 11.2 Pillow tells where pixels are, if they lie in one piece: pictures of up to 4 million. Of larger ones, a
    part is copied at a time, small enough to be in the cache when it is read.
    """

    def __init__(self, image: Image.Image) -> None:
        self.width, self.height = image.size
        self.strips = math.ceil(image.width * image.height / _COPIED_PX)
        self._image = image

    def rows(self, first: int, last: int) -> Pixels:
        found = _in_place(self._image)
        if found is None:
            part = self._image.crop((0, first, self.width, last))
            found = _in_place(part) or _copied(part)
        else:
            first, last = 0, self.height
        memory, address = found
        rows = address + 4 * self.width * (np.arange(self.height, dtype=np.intp) - first)
        picture = _Picture(rows=rows.ctypes.data, width=self.width, height=self.height, first=first, last=last)
        return Pixels(picture, (memory, rows))


class FramePixels:
    """A frame in NV12.

    Args:
        y: [H, W]. Rows may lie apart, pixels of a row side by side (else they are copied).
        colours: [H / 2, W / 2, 2], likewise.
        matrix: twelve numbers, as `rgb_matrix` gives them.
    """

    strips = 1

    def __init__(self, y: Bytes, colours: Bytes, matrix: tuple[float, ...]) -> None:
        self.height, self.width = y.shape
        planes = [plane if plane[0].flags.c_contiguous else np.ascontiguousarray(plane) for plane in (y, colours)]
        numbers = np.array(matrix, np.float32)
        picture = _Picture(
            y=planes[0].ctypes.data,
            colours=planes[1].ctypes.data,
            y_stride=planes[0].strides[0],
            colours_stride=planes[1].strides[0],
            matrix=numbers.ctypes.data,
            width=self.width,
            height=self.height,
            first=0,
            last=self.height,
        )
        self._pixels = Pixels(picture, (*planes, numbers))

    def rows(self, first: int, last: int) -> Pixels:
        return self._pixels

    def rgb(self, *, threads: int) -> Bytes:
        """All pixels: [H, W, 4] uint8, R, G, B and 0."""
        result = np.empty((self.height, self.width, 4), np.uint8)

        def part(low: int, high: int) -> None:
            out = ctypes.c_void_p(result[low:].ctypes.data)
            _called().fgr_frame_rows(ctypes.byref(self._pixels.picture), low, high, out)

        _shared(part, self.height, threads, threads)
        return result


def available() -> bool:
    """Whether there is a library that works here."""
    return _library() is not None


def resampled(
    source: ImagePixels | FramePixels,
    width: int,
    height: int,
    *,
    columns_first: bool,
    threads: int,
    rows: tuple[int, int] | None = None,
) -> Bytes:
    """Bicubic with antialiasing, along one axis and then along the other.

    Args:
        source: the picture.
        width, height: of the result, at least 1.
        columns_first: whether columns are resampled before rows; it shows in the values.
        threads: that share the work.
        rows: of the result, from the first up to the second; None for all.

    Returns:
        [rows, width, 3] uint8.

    Raises:
        MemoryError: there is none for the rows in between.
    """
    first, last = rows or (0, height)
    result = np.empty((last - first, width, 3), np.uint8)
    scale = source.height / height
    reach = 2 * max(1.0, scale) + 1  # of the kernel

    def part(low: int, high: int) -> None:
        low, high = first + low, first + high
        top = max(0, math.floor(low * scale - reach))
        pixels = source.rows(top, min(source.height, math.ceil(high * scale + reach)))
        out = ctypes.c_void_p(result[low - first :].ctypes.data)
        call = _called().fgr_resample
        if call(ctypes.byref(pixels.picture), width, height, low, high, int(columns_first), out):
            raise MemoryError(f"no memory to resample a picture to {width} x {height}")

    _shared(part, last - first, max(threads, source.strips), threads)
    return result


def patches(image: Bytes, values: Floats, *, patch: int, merge: int, frames: int, threads: int) -> Floats:
    """A picture's patches, merge block by merge block.

    Args:
        image: [H, W, 3], both sides multiples of `patch * merge` pixels.
        values: [3, 256] what each byte of each channel becomes.
        patch: side of a patch, in pixels.
        merge: side of a merge block, in patches.
        frames: how often each patch's values are repeated.
        threads: that share the work.

    Returns:
        [N, 3, frames, patch * patch].
    """
    image, values = np.ascontiguousarray(image), np.ascontiguousarray(values, np.float32)
    block_rows, row = image.shape[0] // (patch * merge), image.shape[1] // patch * merge
    result = np.empty((block_rows * row, 3, frames, patch * patch), np.float32)

    def part(low: int, high: int) -> None:
        source, table = ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(values.ctypes.data)
        out = ctypes.c_void_p(result[low * row :].ctypes.data)
        _called().fgr_patches(source, image.shape[1], patch, merge, frames, table, low, high, out)

    _shared(part, block_rows, threads, threads)
    return result


def _shared(part: Callable[[int, int], None], count: int, parts: int, threads: int) -> None:
    """`part` with that many ranges, or fewer, which make up `count`."""
    step = math.ceil(count / parts)
    in_threads(lambda low: part(low, min(low + step, count)), range(0, count, step), threads)


def _in_place(image: Image.Image) -> tuple[object, int] | None:
    """What keeps an image's memory, and the address of its first pixel, of four bytes; None where Pillow does not tell,
    or they lie in several pieces."""
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):
        return None
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    column = ctypes.cast(get(capsule, b"arrow_array"), ctypes.POINTER(_ArrowArray)).contents
    return capsule, column.children[0].contents.buffers[1]


def _copied(image: Image.Image) -> tuple[object, int]:
    """The same of a copy."""
    copy = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8)
    return copy, copy.ctypes.data


def _library() -> Any:
    return opened(LIBRARY, "fgr_resample")


def _called() -> Any:
    found = _library()
    assert found is not None, "callers ask `available` first"
    return found
