"""Which sizes engines are built and timed for: TensorRT's optimisation profiles, from a bundle's manifest.

In: a manifest and what the user wants (length of the cache, tokens of a prefill chunk, sizes of a camera's pictures).
Out: for each graph, profiles as ranges of its named dimensions, in the order of their index. Knows the dimensions'
names (`graphs/vision.py`, `graphs/decoder.py`), no tensors.

    decoder   prefill: timed for `chunk` tokens; decode: one token. Longer prompts go in chunks; so many nodes of the
              labels' trie as are scored at once go in one call, whatever the chunk.
    head      rows: as many as label scoring asks for at once; decode: one.
    vision    any: every picture that the bundle resizes to; and one with fixed sizes for each camera, timed for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fgr_edge.errors import ConfigError
from fgr_edge.runtime.engine_record import EngineProfile, Shape
from fgr_edge.runtime.image import ImageConfig
from fgr_edge.runtime.label_trie.best_first import BATCHES, BEST_FIRST_NODES
from fgr_edge.runtime.label_trie.label_scores import chunk_nodes, chunk_room
from fgr_edge.runtime.manifest import Manifest
from fgr_edge.runtime.pictures.resize import smart_resize
from fgr_edge.runtime.specs import read_spec

Range = tuple[int, int, int]
"""Smallest, usual and largest size of one dimension."""

Dims = Sequence[int | str]
"""Of one input of a graph: numbers, and names of dimensions."""

CHUNK = 512
CACHE_STEP = 256
TEXT_TOKENS = 64  # of a prompt around its picture
THOUGHT_TOKENS = 1024  # of an answer with its thought
LONGEST_LABEL = 32  # tokens; what lies above a chunk of the labels' trie is computed with it
MOST_PICTURE_TOKENS = 4096  # 3.2 million pixels; attention over more needs gigabytes
MOST_ELONGATED = 200  # side to side, of a picture that is not refused


@dataclass(frozen=True, slots=True)
class EngineSizes:
    """What engines are built for.

    Attributes:
        cache_length: slots of the KV cache.
        chunk: tokens of a prompt that go through the decoder at once.
        cameras: (width, height) of pictures that get a profile of their own.
        one_profile: whether prompts and single tokens share a profile. Two may each keep a weight in the layout that
            suits them: TensorRT-RTX 1.7.1 makes the float16 decoder of the 3B shape 1.68 times its weights, in int4
            1.09 times; with one profile 1.02 and 1.06 times.
    """

    cache_length: int
    chunk: int
    cameras: tuple[tuple[int, int], ...] = ()
    one_profile: bool = False


def engine_sizes(
    manifest: Manifest,
    cache_length: int | None,
    chunk: int,
    cameras: tuple[tuple[int, int], ...],
    *,
    one_profile: bool = False,
) -> EngineSizes:
    """Check what the user wants, and fill in what was left out.

    Raises:
        ConfigError: sizes that make no sense for this model, or pictures that are too large to build for.
    """
    picture = picture_tokens(manifest)
    most = manifest["decoder"]["max_positions"]
    if cache_length is None:
        branches = max(BEST_FIRST_NODES, _nodes_at_once(manifest))
        wanted = min(picture + TEXT_TOKENS + THOUGHT_TOKENS, most) + branches
        cache_length = -(-wanted // CACHE_STEP) * CACHE_STEP
    if cache_length < picture + TEXT_TOKENS:
        raise ConfigError(
            f"a cache of {cache_length} tokens has no room for the largest picture and its question, "
            f"{picture + TEXT_TOKENS}; give a larger --cache-length, or export with a smaller --image-size"
        )
    if not 1 <= chunk <= cache_length:
        raise ConfigError(f"chunk is {chunk} tokens, expected 1 to the length of the cache, {cache_length}")
    for width, height in cameras:
        if min(width, height) < 1 or max(width, height) > MOST_ELONGATED * min(width, height):
            raise ConfigError(f"{width}x{height} is no size of a picture; expected WxH, for example 640x480")
    return EngineSizes(cache_length, chunk, cameras, one_profile)


def picture_tokens(manifest: Manifest) -> int:
    """Tokens of the largest picture.

    Raises:
        ConfigError: too many to build a vision engine for.
    """
    config = _image_config(manifest)
    tokens = max(height * width for height, width in _largest_grids(config))
    if tokens > MOST_PICTURE_TOKENS:
        raise ConfigError(
            f"pictures of this bundle may have {config.max_pixels:,} pixels, {tokens:,} tokens: too many for an engine "
            f"({MOST_PICTURE_TOKENS:,}); export it with --image-size, the camera's, such as 640x480"
        )
    return tokens


def decoder_ranges(manifest: Manifest, sizes: EngineSizes) -> dict[str, dict[str, Range]]:
    """Profile -> dimension -> range; the length of the cache is a number in the graph."""
    one = (1, 1, 1)
    tokens = (1, sizes.chunk, max(sizes.chunk, _nodes_at_once(manifest)))
    prefill = {"sequence": tokens, "rows": (1, 1, _most_rows(manifest))}
    return {"prefill": prefill} if sizes.one_profile else {"prefill": prefill, "decode": {"sequence": one, "rows": one}}


def head_ranges(manifest: Manifest, sizes: EngineSizes) -> dict[str, dict[str, Range]]:
    """Logits are large: no more rows at once than label scoring asks for."""
    most = _most_rows(manifest)
    if sizes.one_profile:
        return {"rows": {"rows": (1, 1, most)}}  # most calls want one
    return {"rows": {"rows": (1, most, most)}, "decode": {"rows": (1, 1, 1)}}


def _most_rows(manifest: Manifest) -> int:
    """Rows that get logits in one call."""
    return max(BATCHES[-1], chunk_nodes(manifest["decoder"]["vocab"]))


def _nodes_at_once(manifest: Manifest) -> int:
    """Tokens of a call that scores labels: those that get logits, and what lies above them."""
    return chunk_room(_most_rows(manifest), LONGEST_LABEL)


def vision_ranges(manifest: Manifest, sizes: EngineSizes) -> dict[str, dict[str, Range]]:
    """Every picture, then the cameras'."""
    config = _image_config(manifest)
    most = picture_tokens(manifest)
    span = _window_span(manifest)
    square = min(_largest_grids(config), key=lambda grid: max(grid) / min(grid))
    any_picture = {
        # Elongated pictures may have less than the least area: their sides are multiples of a token.
        **_token_ranges(config, (1, square[0] * square[1], most)),
        "windows": (1, _windows(square, span), _most_windows(most, span)),
    }
    cameras = {}
    for width, height in sizes.cameras:
        grid = _grid(config, width, height)
        tokens, windows = grid[0] * grid[1], _windows(grid, span)
        ranges = _token_ranges(config, (tokens, tokens, tokens))
        cameras[f"{width}x{height}"] = {**ranges, "windows": (windows, windows, windows)}
    return {"any": any_picture, **cameras}


def profiles(inputs: Mapping[str, Dims], ranges: Mapping[str, Mapping[str, Range]]) -> tuple[EngineProfile, ...]:
    """Shapes of each input that is not fixed, for each profile.

    Args:
        inputs: of the graph, by name.
        ranges: profile -> dimension -> range.
    """
    made = []
    for name, sizes in ranges.items():
        shapes = {
            tensor: _shapes(dims, sizes) for tensor, dims in inputs.items() if any(isinstance(dim, str) for dim in dims)
        }
        made.append(EngineProfile(name, shapes))
    return tuple(made)


def _shapes(dims: Dims, sizes: Mapping[str, Range]) -> tuple[Shape, Shape, Shape]:
    least, usual, most = (
        tuple(dim if isinstance(dim, int) else sizes[dim][position] for dim in dims) for position in range(3)
    )
    return least, usual, most


def _image_config(manifest: Manifest) -> ImageConfig:
    return read_spec(ImageConfig, manifest["image"], "image")


def _token_ranges(config: ImageConfig, tokens: Range) -> dict[str, Range]:
    least, usual, most = (count * config.merge_size**2 for count in tokens)
    return {"tokens": tokens, "patches": (least, usual, most)}


def _grid(config: ImageConfig, width: int, height: int) -> tuple[int, int]:
    """(height, width) in merged tokens of a picture of width x height pixels."""
    unit = config.patch_size * config.merge_size
    resized = smart_resize(height, width, factor=unit, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    return resized[0] // unit, resized[1] // unit


def _largest_grids(config: ImageConfig) -> set[tuple[int, int]]:
    """Grids of large pictures, and of small ones that are enlarged, from square to as long as pictures may be."""
    unit = config.patch_size * config.merge_size
    large = max(8192, 2 * int(config.max_pixels**0.5))
    found = set()
    for step in range(401):
        side = MOST_ELONGATED ** (step / 401)  # of a square to long; sides are whole pixels
        for long in (large, unit):
            short = max(1, round(long / side))
            if long <= MOST_ELONGATED * short:
                found.add(_grid(config, long, short))
                found.add(_grid(config, short, long))
    return found


def _window_span(manifest: Manifest) -> int | None:
    """Merged tokens along a side of a window; None where attention has no windows."""
    patches = manifest["vision"]["window_patches"]
    return None if patches is None else patches // manifest["vision"]["merge_size"]


def _windows(grid: tuple[int, int], span: int | None) -> int:
    return 1 if span is None else -(-grid[0] // span) * -(-grid[1] // span)


def _most_windows(tokens: int, span: int | None) -> int:
    """Of any grid of so many tokens: the thinner it is, the fewer tokens has a window."""
    return max(_windows((height, tokens // height), span) for height in _sides(tokens))


def _sides(tokens: int) -> Iterable[int]:
    return (side for side in range(1, tokens + 1) if side * side <= MOST_ELONGATED * tokens)
