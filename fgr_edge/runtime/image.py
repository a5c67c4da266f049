"""A picture, wherever it comes from, becomes the patches that the vision graph reads.

In: a path, encoded bytes, a binary stream, a Pillow image, a uint8 array or an NV12 frame. Out: `pixels [N, C*T*P*P]
float32` and the `grid` of patches, within 1e-6 of Hugging Face's `Qwen2VLImageProcessorPil` for the same
Pillow image.
`load_image` knows files and no model; `preprocess` knows the model's numbers and no files. `shortcuts.py` has both in
one, and a faster way that gives other pixels.

What the reference does (transformers/image_transforms.py, `convert_to_rgb` and `resize`), and so this module:
1. A picture with an alpha band or a transparent colour is composited onto white; any other is converted to
   RGB by Pillow. Colour profiles are not applied.
2. Pillow resizes the 8-bit RGB picture, bicubic with antialiasing, in one step (no `reducing_gap`), and
   rounds to 8 bits again.
3. `resize.py` has the sizes, the normalization and the order of the patches.

Where it departs: grey of 16 bits is scaled to 8; Pillow's conversion, hence the reference, clips it to white.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from fgr_edge.errors import ImageError
from fgr_edge.runtime.pictures.nv12 import Nv12Frame
from fgr_edge.runtime.pictures.resampling import resample
from fgr_edge.runtime.pictures.resize import ImageConfig, Patches, patchify, smart_resize, target_size

__all__ = [
    "MAX_PIXELS",
    "ImageConfig",
    "ImageInput",
    "Nv12Frame",
    "Patches",
    "load_image",
    "orientation_of",
    "preprocess",
    "smart_resize",
]

ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[np.uint8] | Nv12Frame
)

BeforeDecoding: TypeAlias = Callable[[Image.Image], object]

MAX_PIXELS = 178_956_970
"""A picture of more pixels is refused before it is decoded: Pillow's own limit for a decompression bomb."""

MAX_STREAM_BYTES = 2**30
"""A pipe or other stream that holds more is refused; a file on disk is read only as the decoder wants."""

# Formats of photographs. Not all that Pillow knows: opening EPS, for one, runs Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

# What Pillow's decoders raise on damaged data: there is no common base. It warns of some damage, and a filter
# may make an error of that.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_UPRIGHT = {  # EXIF orientation -> what undoes it; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_LOG = logging.getLogger(__name__)


def load_image(source: ImageInput, *, before_decoding: BeforeDecoding | None = None) -> Image.Image:
    """Opens a picture, turns it upright and makes it RGB.

    Args:
        source: A path; the bytes of a file; a binary stream, read to its end (`sys.stdin.buffer`); a Pillow
            image; or a uint8 array: [H, W, 3] RGB, [H, W, 4] RGBA, [H, W] or [H, W, 1] grey (OpenCV's is
            BGR: pass `array[:, :, ::-1]`); or a camera's `Nv12Frame`. Of an animation the first frame is taken,
            of a Pillow image the current one.
        before_decoding: called with the opened file, whose size is known and whose pixels are not.

    Returns:
        A decoded image of mode RGB, maybe `source` itself. EXIF orientation is applied; transparency is
        composited onto white; grey of 16 bits (`I;16`, and `I`, which is taken to hold 0..65535) is scaled to
        0..255 and rounded.

    Raises:
        ImageError: a missing, unreadable, empty or truncated file; not a picture, or a format that is not
            read; more than `MAX_PIXELS` pixels (fewer, where `PIL.Image.MAX_IMAGE_PIXELS` or a filter that
            makes an error of Pillow's `DecompressionBombWarning` says so); float pixels; an array of another
            shape or type; an object that is none of these.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "the Pillow image")
    if isinstance(source, np.ndarray):
        return _upright_rgb(_from_array(source), "the array")
    if isinstance(source, Nv12Frame):
        _check_size(source.width, source.height, "the NV12 frame")
        return source.rgb()
    if isinstance(source, str | os.PathLike):
        return _load_file(source, before_decoding)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), "the picture in memory", before_decoding)
    if hasattr(source, "read"):
        return _decode(_read_all(source, "the stream"), "the stream", before_decoding)
    raise ImageError(
        f"a {type(source).__module__}.{type(source).__name__} was given as a picture: give a path, bytes, a "
        "binary stream, a Pillow image or a uint8 array [H, W, 3]"
    )


def preprocess(image: Image.Image, config: ImageConfig, *, threads: int | None = None) -> Patches:
    """Resizes, normalizes and cuts a picture into patches, as `Qwen2VLImageProcessorPil` does.

    Args:
        image: Of any mode that `load_image` takes. EXIF orientation is not looked at: that is `load_image`'s.
        config: The checkpoint's numbers.
        threads: That large pictures may take; None takes the cores that there are. They change no value.

    Returns:
        The patches; `pixels` within 1e-6 of the reference's.

    Raises:
        ImageError: the picture is empty, too large or too elongated, or cannot be decoded.
    """
    image = _to_rgb(image, "the Pillow image")
    height, width = target_size(image.height, image.width, config)
    if image.size == (width, height):
        return patchify(np.asarray(image), config, threads=threads)
    array = resample(image, width, height, threads=threads)
    return patchify(array, config, threads=threads)


def orientation_of(image: Image.Image, what: str = "the picture") -> int:
    """The EXIF orientation, 1 to 8; 1, with a warning, where the EXIF data cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS as error:
        _LOG.warning("the EXIF data of %s cannot be read (%s): it is taken as upright", what, error)
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _load_file(path: str | os.PathLike[str], before_decoding: BeforeDecoding | None) -> Image.Image:
    what = repr(os.fspath(path))
    try:
        # A handle, not the path: Pillow memory-maps some of the files that it opens itself, and a mapped file
        # that shrinks kills the process.
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {what}: check the path of the picture") from error
    except IsADirectoryError as error:
        raise ImageError(f"{what} is a folder, one picture was expected: give the files in it") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{what} cannot be opened ({error}): check the path and its permissions") from error
    with file:
        return _decode(file if file.seekable() else _read_all(file, what), what, before_decoding)


def _read_all(stream: BinaryIO, what: str) -> BinaryIO:
    """Decoders seek; a pipe cannot."""
    try:
        data = stream.read(MAX_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{what} cannot be read ({error}): give one that is open for reading") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{what} gave {type(data).__name__}, not bytes: open it in binary mode")
    if len(data) > MAX_STREAM_BYTES:
        raise ImageError(f"{what} holds over {MAX_STREAM_BYTES:,} bytes: give one picture, or a path")
    return io.BytesIO(data)


def _decode(stream: BinaryIO, what: str, before_decoding: BeforeDecoding | None) -> Image.Image:
    Image.init()  # `open` raises KeyError for a format that this build of Pillow lacks
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        head = stream.read(16)
        image = Image.open(stream, formats=formats)
        if before_decoding is not None:
            _check_size(image.width, image.height, what)
            before_decoding(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{what} is too large ({error}): resize it first") from error
    except UnidentifiedImageError as error:
        if not head:
            raise ImageError(f"{what} is empty, a picture was expected: copy it again") from error
        raise ImageError(
            f"{what} is not a picture, or damaged: it starts with {head!r}; expected was one of "
            f"{', '.join(formats)}: convert it or copy it again"
        ) from error
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(_damaged(what, error)) from error
    return _upright_rgb(image, what)


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} was found, uint8 [H, W, 3] of 0..255 expected: convert it, by "
            "(array * 255).round().astype(np.uint8) if it holds 0..1"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(
            f"an array of shape {list(array.shape)} was found, [H, W, 3] expected: reshape it, by "
            "array.transpose(1, 2, 0) if it is [3, H, W]"
        )
    _check_size(array.shape[1], array.shape[0], "the array")
    return Image.fromarray(array)


def _upright_rgb(image: Image.Image, what: str) -> Image.Image:
    rgb = _to_rgb(image, what)  # decodes, too: a PNG may carry its EXIF behind the pixels
    orientation = orientation_of(image, what)
    if orientation == 1:
        return rgb
    rgb = rgb.transpose(_UPRIGHT[orientation])
    rgb.info = {}  # or its EXIF would turn it once more
    return rgb


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    """An RGB image as it is, any other as the reference converts it, but for grey of 16 bits."""
    _check_size(image.width, image.height, what)
    try:
        image.load()
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _to_8_bits(image, what)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(_damaged(what, error)) from error


def _to_8_bits(image: Image.Image, what: str) -> Image.Image:
    values = np.asarray(image)  # [H, W] uint16 of either byte order, int32 or float32
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{what} is of mode {image.mode} with values from {values.min()} to {values.max()}, whole "
            "numbers of 8 or 16 bits were expected: scale it to uint8"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))  # 257 = 65535 / 255


def _check_size(width: int, height: int, what: str) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{what} is {width} x {height}: give one of at least 1 x 1 pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{what} is too large ({width} x {height}, at most {MAX_PIXELS:,} pixels expected): resize it first"
        )


def _damaged(what: str, error: Exception) -> str:
    return f"{what} cannot be decoded ({error}): it is damaged or cut short; copy or record it again"
