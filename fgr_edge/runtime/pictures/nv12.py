"""A camera's frame in NV12: brightness at every pixel, colour at every other; and as RGB.

In: the two planes as the driver hands them out, and what they mean. Out: an RGB picture. Knows no model.

What RGB means here: each pair of Cb and Cr counts for its 2 x 2 pixels unchanged; R, G and B are the matrix's
products in float32, rounded to the nearest and clipped to 0..255. Matrices are those of ITU-R BT.601 and BT.709, with
brightness in 16..235 and colour in 16..240 (limited range), or in 0..255 both (full range).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fgr_edge.errors import ImageError
from fgr_edge.runtime.pictures import compiled

Matrix = Literal["bt601", "bt709"]
Bytes = npt.NDArray[np.uint8]

_RED_BLUE: dict[str, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""What red and blue add to brightness; green adds the rest."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Nv12Frame:
    """One frame. The planes are not copied: do not write to them while the frame is being read.

    Attributes:
        y: brightness [H, W] uint8, H and W even. Rows may lie apart (`buffer[:, :width]` of a padded buffer).
        uv: colour [H / 2, W / 2, 2] uint8, Cb before Cr.
        full_range: whether 0..255 is used, as in JPEG; video has 16..235 as a rule.
        matrix: "bt601" or "bt709"; the driver says which (GStreamer's `colorimetry`, V4L2's `ycbcr_enc`).

    Raises:
        ImageError: planes of another type or shape, or that do not fit each other; an unknown matrix.
    """

    y: Bytes
    uv: Bytes
    full_range: bool
    matrix: Matrix

    def __post_init__(self) -> None:
        for name, plane, axes in (("y", self.y, 2), ("uv", self.uv, 3)):
            if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8 or plane.ndim != axes:
                raise ImageError(
                    f"{name} of an NV12 frame is {_described(plane)}, expected uint8 "
                    f"{'[H, W]' if axes == 2 else '[H / 2, W / 2, 2]'}: reshape what the driver gives"
                )
        height, width = self.y.shape
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ImageError(f"an NV12 frame of {width} x {height} was found, even sides expected: crop it by a pixel")
        if self.uv.shape != (height // 2, width // 2, 2):
            raise ImageError(
                f"uv of an NV12 frame is {list(self.uv.shape)}, expected {[height // 2, width // 2, 2]} beside y of "
                f"{[height, width]}: give the planes of one frame"
            )
        if self.matrix not in _RED_BLUE:
            raise ImageError(f"matrix is {self.matrix!r}, expected one of {', '.join(_RED_BLUE)}: ask the driver")

    @classmethod
    def from_array(cls, array: Bytes, *, full_range: bool, matrix: Matrix) -> Nv12Frame:
        """Both planes in one array [H * 3 / 2, W], one below the other, as OpenCV and most drivers have them.

        Raises:
            ImageError: as for the class.
        """
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 2 or array.shape[0] % 3:
            raise ImageError(
                f"an NV12 frame is {_described(array)}, expected uint8 [H * 3 / 2, W]: cut the driver's buffer to it"
            )
        rows, width = array.shape
        height = rows // 3 * 2
        if height % 2 or width % 2:
            raise ImageError(f"an NV12 frame of {width} x {height} was found, even sides expected: crop it by a pixel")
        uv = array[height:].reshape(height // 2, width // 2, 2)
        return cls(y=array[:height], uv=uv, full_range=full_range, matrix=matrix)

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.y.shape[0])

    def pixels(self) -> compiled.FramePixels:
        """The frame, as `compiled.py` reads it."""
        return compiled.FramePixels(self.y, self.uv, rgb_matrix(self.matrix, full_range=self.full_range))

    def rgb(self, *, threads: int = 1) -> Image.Image:
        """The whole frame as an RGB picture."""
        size = (self.width, self.height)
        if compiled.available():
            return Image.frombytes("RGB", size, self.pixels().rgb(threads=threads), "raw", "RGBX")
        # To the nearest: each pair of Cb and Cr four times.
        cb, cr = (_grey(self.uv[:, :, i]).resize(size, Image.Resampling.NEAREST) for i in (0, 1))
        merged = Image.merge("RGB", (_grey(self.y), cb, cr))
        return merged.convert("RGB", rgb_matrix(self.matrix, full_range=self.full_range))


def rgb_matrix(matrix: Matrix, *, full_range: bool) -> tuple[float, ...]:
    """Twelve numbers, row by row: R, G and B as sums of Y, Cb, Cr and a constant (BT.601-7 2.5, BT.709-6 3)."""
    red, blue = _RED_BLUE[matrix]
    green = 1 - red - blue
    low, y_scale, c_scale = (0, 1.0, 1.0) if full_range else (16, 255 / 219, 255 / 224)
    cr_red, cb_blue = 2 * (1 - red) * c_scale, 2 * (1 - blue) * c_scale
    cb_green, cr_green = -cb_blue * blue / green, -cr_red * red / green
    rows = ((y_scale, 0.0, cr_red), (y_scale, cb_green, cr_green), (y_scale, cb_blue, 0.0))
    return tuple(number for y, cb, cr in rows for number in (y, cb, cr, -(y * low + (cb + cr) * 128)))


def _grey(plane: Bytes) -> Image.Image:
    rows = np.ascontiguousarray(plane)
    # Pillow reads this memory in place, and keeps it alive.
    return Image.frombuffer("L", (rows.shape[1], rows.shape[0]), rows, "raw", "L", 0, 1)


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
