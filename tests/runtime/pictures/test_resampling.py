"""Whatever resamples a picture, and in however many threads: the values are Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fgr_edge.runtime.pictures import compiled, resampling
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.pictures.resampling import resample
from fgr_edge.runtime.threads import in_threads

NOISE = np.random.default_rng(0).integers(0, 256, (1001, 640, 3), np.uint8)
needs_library = pytest.mark.skipif(not compiled.available(), reason="libpictures.so is not built")


@pytest.fixture(autouse=True)
def threads_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "WORTH_THREADS_PX", 1)
    monkeypatch.setattr(resampling, "_orders", {})


def whole(picture: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


SIZES = [(224, 168), (56, 28), (644, 1008), (196, 2016), (28, 84), (600, 900), (800, 300), (140, 1000)]


@needs_library
@pytest.mark.parametrize("rows", [1000, 1001, 998, 333])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_from_the_second_picture_of_a_size_on_the_values_are_still_pillow_s(
    rows: int, size: tuple[int, int], threads: int
) -> None:
    for picture in (Image.fromarray(NOISE[:rows]), Image.fromarray(NOISE[:rows, ::-1])):
        assert np.array_equal(resample(picture, *size, threads=threads), whole(picture, *size))
        assert resampling._orders[picture.size, size] in ("rows", "columns")


@needs_library
def test_pillow_is_asked_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(NOISE[:480])
    expected = resample(picture, 224, 168)
    monkeypatch.setattr(Image.Image, "resize", None)
    assert np.array_equal(resample(picture, 224, 168), expected)


@needs_library
def test_a_frame_is_resampled_as_its_rgb_picture_is() -> None:
    frame = Nv12Frame(y=NOISE[:480, :, 0], uv=NOISE[:240, :320, 1:], full_range=False, matrix="bt709")
    for _ in range(2):
        assert np.array_equal(resample(frame, 224, 168, threads=2), whole(frame.rgb(), 224, 168))


@needs_library
def test_a_black_picture_tells_no_order() -> None:
    resample(Image.new("RGB", (640, 480)), 224, 168, threads=2)
    assert resampling._orders == {}
    noise = Image.fromarray(NOISE[:480])
    for _ in range(2):
        assert np.array_equal(resample(noise, 224, 168, threads=2), whole(noise, 224, 168))
    assert len(resampling._orders) == 1


@needs_library
def test_where_neither_order_fits_pillow_resamples_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(NOISE[:480])
    right = compiled.resampled
    monkeypatch.setattr(compiled, "resampled", lambda *given, **options: right(*given, **options) ^ 1)
    for _ in range(2):
        assert np.array_equal(resample(picture, 224, 168, threads=2), whole(picture, 224, 168))
    assert list(resampling._orders.values()) == [None]


def test_without_the_library_pillow_resamples_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "available", lambda: False)
    picture = Image.fromarray(NOISE[:480])
    for _ in range(2):
        assert np.array_equal(resample(picture, 224, 168, threads=2), whole(picture, 224, 168))
    assert resampling._orders == {}


def test_the_first_error_of_a_thread_is_raised() -> None:
    def fail(number: int) -> None:
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        in_threads(fail, range(4), 2)
