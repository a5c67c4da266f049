"""Strips in threads give Pillow's own values."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from fgr_edge.runtime.pictures import resampling
from fgr_edge.runtime.pictures.resampling import resample, rows_of
from fgr_edge.runtime.threads import in_threads

NOISE = np.random.default_rng(0).integers(0, 256, (1001, 640, 3), np.uint8)


@pytest.fixture(autouse=True)
def threads_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "WORTH_THREADS_PX", 1)
    monkeypatch.setattr(resampling, "_orders", {})


def whole(picture: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


SIZES = [(224, 168), (56, 28), (644, 1008), (196, 2016), (28, 84), (600, 900), (800, 300), (140, 1000)]


@pytest.mark.parametrize("rows", [1000, 1001, 998, 333])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_any_number_of_threads_gives_the_values_of_one_call(rows: int, size: tuple[int, int], threads: int) -> None:
    picture = Image.fromarray(NOISE[:rows])
    expected = whole(picture, *size)
    for _ in range(2):  # the second time in strips, now that the order is known
        found = resample(rows_of(picture), picture.size, *size, threads=threads)
        assert np.array_equal(found, expected)
    assert threads == 1 or resampling._orders[picture.size, size] in ("rows", "columns")


def test_a_black_picture_tells_no_order() -> None:
    picture = Image.new("RGB", (640, 480))
    resample(rows_of(picture), picture.size, 224, 168, threads=2)
    assert resampling._orders == {}
    noise = Image.fromarray(NOISE[:480])
    for _ in range(2):
        found = resample(rows_of(noise), noise.size, 224, 168, threads=2)
        assert np.array_equal(found, whole(noise, 224, 168))
    assert len(resampling._orders) == 1


def test_where_neither_order_fits_every_picture_is_resampled_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(NOISE[:480])
    wrong = picture.transpose(Image.Transpose.ROTATE_180)
    monkeypatch.setattr(resampling, "_in_order", lambda image, target, box, order: wrong.resize(target))
    for _ in range(2):
        found = resample(rows_of(picture), picture.size, 224, 168, threads=2)
        assert np.array_equal(found, whole(picture, 224, 168))
    assert list(resampling._orders.values()) == [None]


@pytest.mark.parametrize("size", [(224, 168), (644, 1064)], ids=str)
def test_a_strip_asks_only_for_the_rows_that_it_needs(size: tuple[int, int]) -> None:
    picture = Image.fromarray(NOISE[:1000])
    resample(rows_of(picture), picture.size, *size, threads=4)
    asked: list[tuple[int, int]] = []

    def rows(first: int, last: int) -> Image.Image:
        asked.append((first, last))
        return picture.crop((0, first, picture.width, last))

    assert np.array_equal(resample(rows, picture.size, *size, threads=4), whole(picture, *size))
    assert len(asked) == 4
    assert all(first % 2 == last % 2 == 0 and last - first < 300 for first, last in asked)


def test_small_pictures_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "WORTH_THREADS_PX", 1_000_000)
    names = set()

    def rows(first: int, last: int) -> Image.Image:
        names.add(threading.current_thread().name)
        return Image.fromarray(NOISE[:100])

    for _ in range(2):
        resample(rows, (640, 100), 56, 28, threads=4)
    assert names == {threading.main_thread().name}


def test_the_first_error_of_a_thread_is_raised() -> None:
    def fail(number: int) -> None:
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        in_threads(fail, range(4), 2)
