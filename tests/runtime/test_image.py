"""`preprocess` equals Hugging Face's PIL processor; `load_image` takes any picture and names any fault."""

from __future__ import annotations

import io
import logging
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fgr_edge.errors import ConfigError, ImageError
from fgr_edge.runtime import image as image_module
from fgr_edge.runtime.image import ImageConfig, load_image, preprocess, smart_resize

ATOL = 1e-6  # against the reference, whose float32 arithmetic is in another order

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
QWEN2_5 = ImageConfig(14, 2, 2, 56 * 56, 28 * 28 * 1280, CLIP_MEAN, CLIP_STD)
QWEN3 = ImageConfig(16, 2, 2, 256 * 256, 512 * 512, HALF, HALF)
SMALL = ImageConfig(14, 2, 2, 56 * 56, 112 * 112, CLIP_MEAN, CLIP_STD)
ODD = ImageConfig(4, 3, 1, 24 * 24, 60 * 60, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), rescale_factor=1 / 127.5)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise over a gradient: every patch differs from every other, and so does every channel."""
    noise = np.random.default_rng(seed).integers(0, 120, (height, width, 3))
    ramp = np.linspace(0, 135, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    return Image.fromarray((noise + ramp * [1.0, 0.7, 0.4]).astype(np.uint8))


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be `width` x `height` and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64)))


def reference(config: ImageConfig) -> Callable[[Any], tuple[npt.NDArray[np.float32], tuple[int, ...]]]:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        temporal_patch_size=config.temporal_patch_size,
        size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels},
        image_mean=list(config.mean),
        image_std=list(config.std),
        rescale_factor=config.rescale_factor,
    )

    def run(picture: Any) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
        batch = processor(picture, return_tensors="np")
        return batch["pixel_values"], tuple(int(n) for n in batch["image_grid_thw"][0])

    return run


def assert_equals_reference(picture: Image.Image, config: ImageConfig) -> None:
    expected, grid = reference(config)(picture)
    patches = preprocess(picture, config)
    assert patches.grid == grid
    assert patches.pixels.dtype == np.float32
    assert patches.pixels.flags.c_contiguous
    np.testing.assert_allclose(patches.pixels, expected, rtol=0, atol=ATOL)


# Equal to the reference


@pytest.mark.parametrize("config", [QWEN2_5, QWEN3, SMALL, ODD], ids=["qwen2.5", "qwen3", "small", "odd"])
@pytest.mark.parametrize(
    "size",
    [
        (640, 480),
        (56, 56),  # nothing to resize
        (512, 256),
        (1, 1),
        (3, 3),
        (1, 200),
        (200, 1),
        (13, 15),
        (42, 70),  # halves of a block: rounded to even
        (97, 1013),
        (1999, 10),
        (301, 299),
    ],
    ids=str,
)
def test_patches_equal_the_reference(config: ImageConfig, size: tuple[int, int]) -> None:
    assert_equals_reference(photograph(*size), config)


def test_patches_of_a_large_photograph_equal_the_reference() -> None:
    assert_equals_reference(photograph(2016, 1512), QWEN2_5)


@pytest.mark.parametrize("pixels", [1, 783, 784, 785, 3136, 10_000, 50_000])
def test_patches_equal_the_reference_when_the_area_is_fixed(pixels: int) -> None:
    config = ImageConfig(14, 2, 2, pixels, pixels, CLIP_MEAN, CLIP_STD)
    for size in ((100, 90), (20, 31), (7, 300)):
        assert_equals_reference(photograph(*size), config)


def alpha_ramp(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def in_mode(mode: str) -> Image.Image:
    picture = photograph(90, 61)
    if mode in ("RGBA", "LA"):
        picture = picture.convert(mode[:-1])
        picture.putalpha(alpha_ramp(90, 61))
        return picture
    if mode == "PA":
        return in_mode("LA").convert("PA")
    return picture.quantize(16) if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_equals_the_reference(mode: str) -> None:
    picture = in_mode(mode)
    assert picture.mode == mode
    assert_equals_reference(picture, SMALL)
    expected, _ = reference(SMALL)(picture)
    np.testing.assert_allclose(preprocess(load_image(picture), SMALL).pixels, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_a_transparent_colour_equals_the_reference(mode: str) -> None:
    opaque = in_mode(mode)
    colour = opaque.getpixel((0, 0))
    picture = Image.open(io.BytesIO(encoded(opaque, "PNG", transparency=colour)))
    assert picture.info["transparency"] is not None
    assert load_image(picture).getpixel((0, 0)) == (255, 255, 255)
    assert_equals_reference(picture, SMALL)


def test_transparency_is_white() -> None:
    clear = load_image(Image.new("RGBA", (4, 4), (10, 20, 30, 0)))
    assert clear.getcolors() == [(16, (255, 255, 255))]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    factor=st.sampled_from([12, 28, 32]),
    limits=st.tuples(st.integers(1, 2_000_000), st.integers(1, 2_000_000)).map(sorted),
)
@example(height=14, width=14, factor=28, limits=[1, 1])
@example(height=42, width=70, factor=28, limits=[1, 2_000_000])
@example(height=1, width=200, factor=28, limits=[3136, 3136])
def test_smart_resize_equals_the_reference(height: int, width: int, factor: int, limits: list[int]) -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as expected

    options = {"factor": factor, "min_pixels": limits[0], "max_pixels": limits[1]}
    try:
        size = expected(height, width, **options)
    except ValueError:
        with pytest.raises(ImageError, match="200 times"):
            smart_resize(height, width, **options)
        return
    assert smart_resize(height, width, **options) == size
    assert min(size) >= factor
    assert size[0] % factor == size[1] % factor == 0


def test_pixels_are_ordered_block_by_block_channel_by_channel() -> None:
    config = ImageConfig(1, 2, 2, 1, 64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), rescale_factor=1.0)
    array = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    patches = preprocess(Image.fromarray(array), config)
    assert patches.grid == (1, 4, 4)
    order = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]  # the upper two blocks
    for row, (y, x) in zip(patches.pixels, order, strict=False):
        assert row.tolist() == [float(value) for value in array[y, x] for _ in range(2)]


# Whatever the picture comes as


def test_path_bytes_stream_pillow_and_array_give_the_same_patches(tmp_path: Path) -> None:
    picture = photograph(123, 77)
    data = encoded(picture, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    array = np.asarray(picture)
    expected = preprocess(picture, SMALL)
    with path.open("rb") as file:
        sources: list[Any] = [
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            file,
            io.BytesIO(data),
        ]
        sources += [picture, Image.open(path), array, np.ascontiguousarray(array[:, ::-1])[:, ::-1]]
        for source in sources:
            patches = preprocess(load_image(source), SMALL)
            assert patches.grid == expected.grid
            assert np.array_equal(patches.pixels, expected.pixels)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_the_same_pixels(format: str) -> None:
    picture = photograph(31, 17)
    assert load_image(encoded(picture, format)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "JPEG2000", "GIF"])
def test_lossy_formats_give_pillows_pixels(format: str) -> None:
    data = encoded(photograph(64, 48), format)
    assert load_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_cmyk_jpeg_gives_pillows_pixels() -> None:
    data = encoded(photograph(64, 48).convert("CMYK"), "JPEG")
    assert load_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_a_file_may_go_once_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(photograph(40, 30), "JPEG"))
    picture = load_image(path)
    path.unlink()
    pixels = picture.tobytes()
    assert pickle.loads(pickle.dumps(picture)).tobytes() == pixels
    assert preprocess(picture, SMALL).grid[0] == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    picture = photograph(40, 30)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(encoded(picture, "PNG")))
    writer.start()
    assert load_image(pipe).tobytes() == picture.tobytes()
    writer.join()


def test_standard_input_is_read() -> None:
    code = "import sys; from fgr_edge.runtime.image import load_image; print(load_image(sys.stdin.buffer).size)"
    picture = encoded(photograph(40, 30), "PNG")
    done = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True)
    assert done.stdout.split() == [b"(40,", b"30)"]


def test_the_runtime_imports_no_torch_and_no_transformers() -> None:
    code = "import sys, fgr_edge.runtime.image; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photograph(20, 12), format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = load_image(data)
    assert picture.size == ((12, 20) if orientation > 4 else (20, 12))
    assert picture.tobytes() == upright.tobytes()
    again = load_image(picture)
    assert again.tobytes() == upright.tobytes()
    assert load_image(Image.open(io.BytesIO(data))).tobytes() == upright.tobytes()


def test_a_pillow_image_given_is_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(io.BytesIO(encoded(photograph(20, 12), "JPEG", exif=exif)))
    load_image(picture)
    assert picture.size == (20, 12)
    assert picture.getexif()[0x0112] == 6


def test_unreadable_exif_is_reported_and_the_picture_taken_as_upright(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = encoded(photograph(20, 12), "PNG", exif=b"Exif\x00\x00not a TIFF header")
    with caplog.at_level(logging.WARNING, logger="fgr_edge"):
        assert load_image(data).size == (20, 12)
    assert "EXIF" in caplog.text


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getcolors() == [(64, (255, 0, 0))]
    current = Image.open(io.BytesIO(data))
    current.seek(2)
    assert load_image(current).getcolors() == [(64, (0, 0, 255))]


SIXTEEN_BITS = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
EIGHT_BITS = [0, 0, 1, 1, 128, 254, 255, 255]  # value / 257, rounded


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_scaled_to_eight(format: str) -> None:
    if format == "PPM":  # which older Pillow reads, but does not write
        data = b"P5 8 1 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(SIXTEEN_BITS), format)
    assert np.asarray(load_image(data)).tolist() == [[[value] * 3 for value in EIGHT_BITS]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bit_pillow_images_are_scaled_to_eight(dtype: type) -> None:
    picture = load_image(Image.fromarray(SIXTEEN_BITS.astype(dtype)))
    assert np.asarray(picture)[0, :, 0].tolist() == EIGHT_BITS


def test_big_endian_sixteen_bits_are_scaled_to_eight() -> None:
    picture = Image.frombytes("I;16B", (8, 1), SIXTEEN_BITS.astype(">u2").tobytes())
    assert np.asarray(load_image(picture))[0, :, 0].tolist() == EIGHT_BITS


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_a_grey_array_becomes_rgb(shape: tuple[int, ...]) -> None:
    array = np.arange(30, dtype=np.uint8).reshape(shape)
    assert np.array_equal(np.asarray(load_image(array)), np.repeat(array.reshape(6, 5, 1), 3, axis=2))


def test_an_rgba_array_is_composited_as_the_pillow_image_is() -> None:
    picture = in_mode("RGBA")
    assert load_image(np.asarray(picture)).tobytes() == load_image(picture).tobytes()


# Every fault has a name and a way out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 was found, uint8 \[H, W, 3\].*astype\(np.uint8\)"),
        (np.zeros((8, 8, 3), np.int64), "int64 was found, uint8"),
        (np.zeros((8, 8), np.bool_), "bool was found, uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"\[3, 8, 8\] was found.*transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"\[1, 8, 8, 3\] was found"),
        (np.zeros((8, 8, 2), np.uint8), r"\[8, 8, 2\] was found"),
        (np.zeros(8, np.uint8), r"\[8\] was found"),
        (np.zeros((0, 8, 3), np.uint8), "8 x 0.*at least 1 x 1"),
        (np.zeros((8, 0), np.uint8), "0 x 8.*at least 1 x 1"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "too large"),
    ],
    ids=lambda value: "" if isinstance(value, str) else f"{value.dtype}{list(value.shape)}",
)
def test_arrays_that_are_no_picture(array: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


@pytest.mark.parametrize("source", [None, 3, [[0, 1]], object()], ids=["None", "int", "list", "object"])
def test_objects_that_are_no_picture(source: Any) -> None:
    with pytest.raises(ImageError, match=f"{type(source).__name__} was given as a picture: give a path"):
        load_image(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "there is no file .*missing.jpg.*check the path"),
        ("", "is a folder"),
        ("nul\0.jpg", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
    ],
    ids=["missing", "folder", "nul", "long"],
)
def test_paths_that_cannot_be_opened(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(os.path.join(tmp_path, name))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.jpg"
    path.touch(mode=0)
    with pytest.raises(ImageError, match=r"private\.jpg.*permission"):
        load_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a picture.*hello.*JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),  # nor is Ghostscript run
        (b"\x89PNG\r\n\x1a\n", "is not a picture, or damaged"),
        (bytes(1000), "is not a picture"),
    ],
    ids=["empty", "text", "postscript", "png-signature", "zeros"],
)
def test_data_that_is_no_picture(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    for source, name in ((path, "picture.jpg"), (data, "in memory"), (io.BytesIO(data), "the stream")):
        with pytest.raises(ImageError, match=f"{name}.*{message}"):
            load_image(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(format: str, share: float) -> None:
    data = encoded(photograph(64, 48), format)
    with pytest.raises(ImageError, match=r"damaged"):
        load_image(data[: int(len(data) * share)])


def test_a_truncated_pillow_image() -> None:
    data = encoded(photograph(64, 48), "JPEG")
    for function in (load_image, lambda picture: preprocess(picture, SMALL)):
        with pytest.raises(ImageError, match="the Pillow image cannot be decoded"):
            function(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"])
def test_flipped_bytes_give_a_picture_or_an_image_error(format: str) -> None:
    data = np.frombuffer(encoded(photograph(32, 24), format), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        try:
            assert load_image(damaged.tobytes()).mode == "RGB"
        except ImageError as error:
            assert ":" in str(error)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageError, match=r"too large.*resize it first"):
        load_image(png_header(60_000, 60_000))


def test_the_limit_holds_where_pillows_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="60000 x 60000, at most 178,956,970 pixels"):
        load_image(png_header(60_000, 60_000))
    with pytest.raises(ImageError, match="too large"):
        load_image(Image.open(io.BytesIO(png_header(60_000, 60_000))))


@pytest.mark.filterwarnings("error")
def test_pillows_warning_made_an_error_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="too large"):
        load_image(png_header(10_000, 10_000))


def test_pillows_limit_and_the_warning_filters_are_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    load_image(encoded(photograph(8, 8), "PNG"))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_an_endless_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_STREAM_BYTES", 1000)
    with pytest.raises(ImageError, match="over 1,000 bytes"):
        load_image(io.BytesIO(bytes(2000)))


def test_a_text_stream_and_a_closed_stream() -> None:
    with pytest.raises(ImageError, match="gave str, not bytes: open it in binary mode"):
        load_image(io.StringIO("text"))  # type: ignore[arg-type]
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(closed)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("F", (4, 4), 0.5), "mode F with values from 0.5 to 0.5"),
        (Image.new("I", (4, 4), -1), "mode I with values from -1"),
        (Image.new("I", (4, 4), 70_000), "mode I with values from 70000"),
        (Image.new("RGB", (0, 4)), "0 x 4"),
    ],
    ids=["float", "negative", "over-16-bits", "empty"],
)
def test_pillow_images_that_cannot_be_used(picture: Image.Image, message: str) -> None:
    for function in (load_image, lambda given: preprocess(given, SMALL)):
        with pytest.raises(ImageError, match=message):
            function(picture)


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (201, 1)], ids=str)
def test_an_elongated_picture(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]}.*200 times.*crop it"):
        preprocess(Image.new("RGB", size), SMALL)


def test_smart_resize_of_nothing() -> None:
    with pytest.raises(ImageError, match="0 x 5"):
        smart_resize(5, 0, factor=28, min_pixels=1, max_pixels=1000)


def test_an_image_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is empty"):
        load_image(b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"merge_size": 2.0}, "merge_size is 2.0"),
        ({"temporal_patch_size": True}, "temporal_patch_size is True"),
        ({"min_pixels": "3136"}, "min_pixels is '3136'"),
        ({"min_pixels": 2_000_000}, "min_pixels is 2000000, max_pixels 1003520"),
        ({"mean": (0.5, 0.5)}, "mean is"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean is .* give a tuple"),
        ({"mean": 0.5}, "mean is 0.5"),
        ({"std": (0.5, float("nan"), 0.5)}, "std is .* finite"),
        ({"std": (0.5, 0.0, 0.5)}, "std is .* positive"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": None}, "rescale_factor is None"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_configuration_is_checked(change: dict[str, Any], message: str) -> None:
    numbers: dict[str, Any] = {name: getattr(QWEN2_5, name) for name in QWEN2_5.__slots__}
    with pytest.raises(ConfigError, match=message):
        ImageConfig(**(numbers | change))
