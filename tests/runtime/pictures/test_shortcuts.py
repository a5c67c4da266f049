"""`read_patches` is exact unless told otherwise, and its shortcuts keep the grid and nearly the picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fgr_edge import Recognizer
from fgr_edge.errors import ImageError
from fgr_edge.runtime.image import load_image, preprocess
from fgr_edge.runtime.pictures import resampling, resize, shortcuts
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.pictures.resampling import resample
from fgr_edge.runtime.pictures.resize import ImageConfig
from fgr_edge.runtime.pictures.shortcuts import read_patches

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SMALL = ImageConfig(14, 2, 2, 56 * 56, 112 * 112, MEAN, STD)
LARGE = ImageConfig(14, 2, 2, 56 * 56, 12_845_056, MEAN, STD)


def photograph(width: int, height: int) -> Image.Image:
    """Broad shapes and some noise, as a lens leaves them."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    large = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray((large + rng.normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def nv12(width: int, height: int) -> Nv12Frame:
    ycc = np.asarray(photograph(width, height).convert("YCbCr"))
    return Nv12Frame(
        y=np.ascontiguousarray(ycc[:, :, 0]),
        uv=np.ascontiguousarray(ycc[::2, ::2, 1:]),
        full_range=True,
        matrix="bt601",
    )


def reference(picture: Image.Image, config: ImageConfig) -> np.ndarray:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    pixels: np.ndarray = Qwen2VLImageProcessorPil(size=size)(picture, return_tensors="np")["pixel_values"]
    return pixels


@pytest.fixture
def threads_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_orders", {})
    for module in (resampling, resize):
        monkeypatch.setattr(module, "WORTH_THREADS_PX", 1)


@pytest.mark.usefixtures("threads_for_all")
@pytest.mark.parametrize("threads", [1, 2, 4, None])
@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", ["jpeg", "nv12", "nv12 of the size", "array"])
def test_patches_equal_the_reference_in_any_number_of_threads(
    kind: str, config: ImageConfig, threads: int | None
) -> None:
    width, height = (448, 336) if kind == "nv12 of the size" else (470, 350)
    source: Any = nv12(width, height) if "nv12" in kind else jpeg(photograph(width, height))
    picture = load_image(source)
    if kind == "array":
        source = np.asarray(picture)
    expected = reference(picture, config)
    for _ in range(2):  # Pillow resamples the first picture of a size
        patches = read_patches(source, config, threads=threads)
        np.testing.assert_allclose(patches.pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(960, 720), (961, 719), (333, 900)], ids=str)
def test_shortcuts_keep_the_grid_and_nearly_the_picture(
    size: tuple[int, int], orientation: int, config: ImageConfig
) -> None:
    data = jpeg(photograph(*size), orientation)
    exact, fast = read_patches(data, config), read_patches(data, config, fast=True)
    assert fast.grid == exact.grid
    # The noise of one pixel is 3 levels of 255, 0.04 of these units.
    assert 0 < np.abs(fast.pixels - exact.pixels).mean() < 0.04 or config is LARGE
    assert np.abs(fast.pixels - exact.pixels).mean() < 0.04


@pytest.mark.usefixtures("threads_for_all")  # no size is known: Pillow resamples
def test_a_jpeg_is_decoded_at_no_more_than_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    load = Image.Image.resize

    def resize_noted(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        sizes.append(image.size)
        return load(image, *arguments, **options)

    data = jpeg(photograph(960, 720))
    monkeypatch.setattr(Image.Image, "resize", resize_noted)
    grid = read_patches(data, SMALL, fast=True).grid
    assert grid == (1, 6, 8)  # 112 x 84 pixels: a quarter of 960 is the least that is twice as much
    assert sizes == [(240, 180)]


@pytest.mark.parametrize(("limit", "side"), [(112 * 84, 240), (160 * 120, 240), (168 * 140, 480)])
def test_a_jpeg_keeps_one_and_a_half_times_the_target(limit: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    whole = resample

    def noted(picture: Any, *arguments: Any, **options: Any) -> np.ndarray:
        opened.append(picture.width)
        return whole(picture, *arguments, **options)

    monkeypatch.setattr(shortcuts, "resample", noted)
    config = ImageConfig(14, 2, 2, 56 * 56, limit, MEAN, STD)
    grid = read_patches(jpeg(photograph(960, 720)), config, fast=True).grid
    assert opened == [side] and side >= 1.5 * 14 * grid[2] and side / 2 < 1.5 * 14 * grid[2]


def test_a_frame_is_exact_with_shortcuts_too() -> None:
    frame = nv12(960, 720)
    exact, fast = read_patches(frame, SMALL), read_patches(frame, SMALL, fast=True)
    assert fast.grid == exact.grid and np.array_equal(fast.pixels, exact.pixels)


@pytest.mark.parametrize("source", ["png", "array", "pillow"])
def test_shortcuts_take_every_picture(source: str) -> None:
    picture = photograph(300, 200)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    given: Any = {"png": buffer.getvalue(), "array": np.asarray(picture), "pillow": picture}[source]
    fast = read_patches(given, SMALL, fast=True)
    exact = preprocess(picture, SMALL)
    assert fast.grid == exact.grid
    assert np.abs(fast.pixels - exact.pixels).mean() < 0.1


def test_shortcuts_refuse_what_the_exact_way_refuses() -> None:
    with pytest.raises(ImageError, match="200 times"):
        read_patches(jpeg(photograph(2010, 10)), SMALL, fast=True)
    with pytest.raises(ImageError, match="not a picture"):
        read_patches(b"hello", SMALL, fast=True)
    cut = jpeg(photograph(640, 480))
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_patches(cut[: len(cut) // 2], SMALL, fast=True)


def test_a_recognizer_takes_frames_and_shortcuts(nano_bundle: Callable[..., Path]) -> None:
    frame, data = nv12(960, 720), jpeg(photograph(960, 720))
    exact = Recognizer(nano_bundle("int8"))
    fast = Recognizer(nano_bundle("int8"), fast_pictures=True)
    rgb = exact.see(np.asarray(load_image(frame))).tokens
    assert np.array_equal(exact.see(frame).tokens, rgb)
    assert np.array_equal(fast.see(frame).tokens, rgb)
    picture = exact.see(data).tokens
    assert 0 < np.abs(fast.see(data).tokens - picture).mean() < 0.2 * np.abs(picture).mean()
