"""NV12 frames become the RGB that their matrix says, and wrong planes are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fgr_edge.errors import ImageError
from fgr_edge.runtime.image import load_image
from fgr_edge.runtime.pictures.nv12 import Matrix, Nv12Frame, rgb_matrix

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 256, (34, 52), np.uint8)
UV = RNG.integers(0, 256, (17, 26, 2), np.uint8)


def frame(y: Any = Y, uv: Any = UV, full_range: bool = False, matrix: Any = "bt709") -> Nv12Frame:
    return Nv12Frame(y=y, uv=uv, full_range=full_range, matrix=matrix)


def expected_rgb(y: np.ndarray, uv: np.ndarray, matrix: Matrix, full_range: bool) -> np.ndarray:
    """The standards' own form: R' - Y' and B' - Y' from Cr and Cb, G' from what is left of Y'."""
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    colour = uv.repeat(2, axis=0).repeat(2, axis=1).astype(np.float64) - 128
    luma = y.astype(np.float64)
    luma, colour = (luma / 255, colour / 255) if full_range else ((luma - 16) / 219, colour / 224)
    r = luma + 2 * (1 - red) * colour[..., 1]
    b = luma + 2 * (1 - blue) * colour[..., 0]
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return 255 * np.stack([r, g, b], axis=2)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_is_the_standards_rounded_to_the_nearest(matrix: Matrix, full_range: bool) -> None:
    exact = expected_rgb(Y, UV, matrix, full_range).clip(0, 255)
    found = np.asarray(load_image(frame(matrix=matrix, full_range=full_range)))
    assert np.abs(found - exact).max() <= 0.5 + 1e-4


def test_black_white_and_grey_are_what_the_range_says() -> None:
    for full_range, levels in ((False, (16, 126, 235)), (True, (0, 128, 255))):
        y = np.repeat(np.array(levels, np.uint8), 2)[None].repeat(2, axis=0)
        rgb = np.asarray(load_image(frame(y, np.full((1, 3, 2), 128, np.uint8), full_range)))
        assert rgb[0, ::2].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_the_matrix_of_jpeg_is_the_known_one() -> None:
    known = (1, 0, 1.402, -179.456, 1, -0.344136, -0.714136, 135.458816, 1, 1.772, 0, -226.816)
    np.testing.assert_allclose(rgb_matrix("bt601", full_range=True), known, rtol=0, atol=1e-4)


def test_padded_rows_and_one_array_of_both_planes_give_the_same_picture() -> None:
    expected = np.asarray(load_image(frame()))
    padded = np.zeros((34, 64), np.uint8)
    padded[:, :52] = Y
    assert np.array_equal(np.asarray(load_image(frame(padded[:, :52]))), expected)
    both = np.concatenate([Y, UV.reshape(17, 52)])
    given = Nv12Frame.from_array(both, full_range=False, matrix="bt709")
    assert np.array_equal(np.asarray(load_image(given)), expected)


@pytest.mark.parametrize(
    ("y", "uv", "message"),
    [
        (Y.astype(np.float32), UV, r"y of an NV12 frame is float32 \[34, 52\], expected uint8 \[H, W\]"),
        (Y, UV.astype(np.int16), r"uv of an NV12 frame is int16"),
        (Y[None], UV, r"uint8 \[1, 34, 52\]"),
        (Y, UV.reshape(17, 52), r"uint8 \[17, 52\], expected uint8 \[H / 2, W / 2, 2\]"),
        (Y.tobytes(), UV, "y of an NV12 frame is a bytes"),
        (Y[:33], UV, "52 x 33 was found, even sides"),
        (Y[:, :51], UV, "51 x 34 was found, even sides"),
        (Y[:0], UV[:0], "52 x 0"),
        (Y, UV[:16], r"\[16, 26, 2\], expected \[17, 26, 2\] beside y of \[34, 52\]"),
    ],
)
def test_planes_that_are_no_frame(y: Any, uv: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        frame(y, uv)


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(ImageError, match=r"'bt2020', expected one of bt601, bt709"):
        frame(matrix="bt2020")


@pytest.mark.parametrize("shape", [(52,), (50, 52), (51, 51), (9, 5)], ids=str)
def test_an_array_that_holds_no_frame_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="NV12 frame"):
        Nv12Frame.from_array(np.zeros(shape, np.uint8), full_range=True, matrix="bt601")
