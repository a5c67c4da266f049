"""Our own resampling is Pillow's, in either order of its passes, wherever pixels lie; and so are a frame's colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fgr_edge.runtime.image import ImageConfig
from fgr_edge.runtime.pictures import compiled
from fgr_edge.runtime.pictures.compiled import ImagePixels, resampled
from fgr_edge.runtime.pictures.nv12 import Matrix, Nv12Frame
from fgr_edge.runtime.pictures.resize import patchify

pytestmark = pytest.mark.skipif(not compiled.available(), reason="libpictures.so is not built")

BICUBIC = Image.Resampling.BICUBIC
NOISE = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), np.uint8)
SIDES = st.integers(1, 400)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(NOISE[:height, :width]))


def by_pillow(image: Image.Image, width: int, height: int, columns_first: bool) -> np.ndarray:
    between = (image.width, height) if columns_first else (width, image.height)
    return np.asarray(image.resize(between, BICUBIC).resize((width, height), BICUBIC))


@settings(deadline=None, max_examples=150)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.integers(1, 5))
def test_each_order_gives_the_values_of_pillow_s_two_passes(
    width: int, height: int, to_width: int, to_height: int, columns_first: bool, threads: int
) -> None:
    image = noise(width, height)
    found = resampled(ImagePixels(image), to_width, to_height, columns_first=columns_first, threads=threads)
    assert np.array_equal(found, by_pillow(image, to_width, to_height, columns_first))


@pytest.mark.parametrize("columns_first", [False, True])
@pytest.mark.parametrize("size", [(224, 168), (2240, 2184), (56, 2100)], ids=str)
def test_a_picture_that_lies_in_several_pieces_is_resampled_alike(size: tuple[int, int], columns_first: bool) -> None:
    image = noise(2100, 2100)
    with pytest.raises(ValueError):  # else this test would try nothing
        image.__arrow_c_array__()
    found = resampled(ImagePixels(image), *size, columns_first=columns_first, threads=2)
    assert np.array_equal(found, by_pillow(image, *size, columns_first))


@pytest.mark.parametrize("error", [AttributeError, ValueError])
def test_where_pillow_does_not_tell_where_pixels_are_they_are_copied(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Image.Image) -> None:
        raise error

    image = noise(300, 200)
    expected = by_pillow(image, 140, 84, False)
    monkeypatch.setattr(Image.Image, "__arrow_c_array__", refuse)
    assert np.array_equal(resampled(ImagePixels(image), 140, 84, columns_first=False, threads=2), expected)


def test_some_rows_are_those_of_the_whole() -> None:
    source = ImagePixels(noise(500, 400))
    whole = resampled(source, 140, 112, columns_first=True, threads=1)
    some = resampled(source, 140, 112, columns_first=True, threads=3, rows=(17, 60))
    assert np.array_equal(some, whole[17:60])


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_of_a_frame_are_pillow_s(matrix: Matrix, full_range: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cb, cr = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    uv = np.stack([cb, cr], axis=2)  # every pair, beside 16 of the 256 levels of brightness, 4 a frame
    for levels in np.arange(0, 256, 17).astype(np.uint8).reshape(4, 4):
        frame = Nv12Frame(y=np.tile(levels.reshape(2, 2), (256, 256)), uv=uv, full_range=full_range, matrix=matrix)
        found = np.asarray(frame.rgb(threads=2))
        with monkeypatch.context() as without:
            without.setattr(compiled, "available", lambda: False)
            assert np.array_equal(found, np.asarray(frame.rgb()))


@pytest.mark.parametrize(
    "cut",
    [
        lambda y, uv: (y[:, :52], uv[:, :26]),  # of rows that lie apart
        lambda y, uv: (y[::-1, :52], uv[::-1, :26]),  # a camera that hangs upside down
        lambda y, uv: (y[:, ::-1][:, :52], uv[:, ::-1][:, :26]),
    ],
    ids=["padded", "upside down", "mirrored"],
)
def test_planes_are_read_however_they_lie(cut: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    y, uv = cut(NOISE[:34, :64, 0], NOISE[:17, :32, :2])
    frame = Nv12Frame(y=y, uv=uv, full_range=True, matrix="bt601")
    copy = Nv12Frame(y=y.copy(), uv=uv.copy(), full_range=True, matrix="bt601")
    assert np.array_equal(np.asarray(frame.rgb()), np.asarray(copy.rgb()))


@pytest.mark.parametrize(("patch", "merge", "frames"), [(14, 2, 2), (16, 2, 2), (14, 1, 1), (3, 3, 4)])
def test_patches_have_the_bits_that_numpy_gives(
    patch: int, merge: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ImageConfig(patch, merge, frames, 1, 10**7, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    image = NOISE[: 5 * patch * merge, : 7 * patch * merge]
    found = patchify(image, config, threads=2)
    monkeypatch.setattr(compiled, "available", lambda: False)
    expected = patchify(image, config)
    assert found.grid == expected.grid and np.array_equal(found.pixels, expected.pixels)
