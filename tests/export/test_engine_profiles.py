"""Profiles take every picture that the bundle resizes to, every prompt, and every call of label scoring; no more."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fgr_edge.errors import ConfigError
from fgr_edge.export.engine_profiles import (
    EngineSizes,
    decoder_ranges,
    engine_sizes,
    head_ranges,
    picture_tokens,
    profiles,
    vision_ranges,
)
from fgr_edge.runtime.manifest import Manifest
from fgr_edge.runtime.pictures.resize import smart_resize
from fgr_edge.runtime.vision import window_tables


def manifest(*, max_pixels: int = 640 * 480, min_pixels: int = 3136, vocab: int = 151936, **vision: Any) -> Manifest:
    image = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
    }
    seen = {"window_patches": 8, "merge_size": 2, **vision}
    decoder = {"vocab": vocab, "max_positions": 128000, "hidden": 64}
    return cast(Manifest, {"image": image, "vision": seen, "decoder": decoder})


@settings(deadline=None)
@example(width=734, height=211, most=39788)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), most=st.sampled_from([39788, 307200, 1_000_000]))
def test_every_picture_fits_the_first_vision_profile(width: int, height: int, most: int) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    described = manifest(max_pixels=most, min_pixels=min(33124, most))
    high, wide = smart_resize(height, width, factor=28, min_pixels=min(33124, most), max_pixels=most)
    found = window_tables(high // 14, wide // 14, 2, 8)
    sizes = {"patches": high * wide // 196, "tokens": high * wide // 784, "windows": len(found["window_rows"])}
    ranges = vision_ranges(described, EngineSizes(2048, 512))["any"]
    for name, size in sizes.items():
        assert ranges[name][0] <= size <= ranges[name][2], name


def test_a_camera_gets_a_profile_of_fixed_sizes() -> None:
    described = manifest()
    ranges = vision_ranges(described, EngineSizes(2048, 512, ((640, 480), (1920, 1080))))
    assert list(ranges) == ["any", "640x480", "1920x1080"]
    high, wide = smart_resize(480, 640, factor=28, min_pixels=3136, max_pixels=640 * 480)
    patches, windows = high * wide // 196, math.ceil(high / 112) * math.ceil(wide / 112)
    assert ranges["640x480"] == {
        "tokens": (patches // 4,) * 3,
        "patches": (patches,) * 3,
        "windows": (windows,) * 3,
    }


def test_without_windows_there_is_nothing_to_count() -> None:
    assert vision_ranges(manifest(window_patches=None), EngineSizes(2048, 512))["any"]["windows"] == (1, 1, 1)


def test_decode_is_one_token_and_prefill_a_chunk_or_what_label_scoring_takes() -> None:
    large, small = manifest(), manifest(vocab=1024)
    assert decoder_ranges(large, EngineSizes(2048, 512))["prefill"]["sequence"] == (1, 512, 512)
    assert decoder_ranges(large, EngineSizes(2048, 64))["prefill"]["sequence"] == (1, 64, 128 + 32)
    assert decoder_ranges(small, EngineSizes(2048, 64))["prefill"]["sequence"] == (1, 64, 512 + 32)
    assert decoder_ranges(large, EngineSizes(2048, 512))["decode"] == {"sequence": (1, 1, 1), "rows": (1, 1, 1)}
    assert head_ranges(large, EngineSizes(2048, 512))["rows"]["rows"] == (1, 128, 128)
    assert head_ranges(small, EngineSizes(2048, 512))["rows"]["rows"] == (1, 512, 512)


def test_one_profile_for_all_takes_what_two_take() -> None:
    one = EngineSizes(2048, 512, one_profile=True)
    assert decoder_ranges(manifest(), one) == {"prefill": {"sequence": (1, 512, 512), "rows": (1, 1, 128)}}
    assert head_ranges(manifest(), one) == {"rows": {"rows": (1, 1, 128)}}


def test_shapes_are_those_of_inputs_that_are_not_fixed() -> None:
    inputs: dict[str, list[int | str]] = {
        "x": [1, "sequence", 64],
        "mask": [1, 1, "sequence", 2048],
        "past": [1, 2, 2048, 16],
    }
    prefill, decode = profiles(inputs, decoder_ranges(manifest(), EngineSizes(2048, 512)))
    assert prefill.inputs == {
        "x": ((1, 1, 64), (1, 512, 64), (1, 512, 64)),
        "mask": ((1, 1, 1, 2048), (1, 1, 512, 2048), (1, 1, 512, 2048)),
    }
    assert decode.inputs == {"x": ((1, 1, 64),) * 3, "mask": ((1, 1, 1, 2048),) * 3}


def test_the_cache_has_room_for_a_picture_a_thought_and_labels_unless_said_otherwise() -> None:
    described = manifest()
    tokens = picture_tokens(described)
    assert tokens == 391  # 17 x 23, of 640 x 480
    assert engine_sizes(described, None, 512, ()).cache_length == 2560  # 391 + 64 + 1024 + 1024, in steps of 256
    assert engine_sizes(described, 900, 512, ()).cache_length == 900


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((400, 128, ()), "no room for the largest picture and its question, 455"),
        ((2048, 0, ()), "chunk is 0 tokens, expected 1 to the length of the cache"),
        ((2048, 4096, ()), "chunk is 4096 tokens"),
        ((2048, 512, ((10_000, 4),)), "10000x4 is no size of a picture"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_sizes(manifest(), *options)


def test_pictures_too_large_for_an_engine_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"12,845,056 pixels, 16,3\d\d tokens: too many.*--image-size"):
        engine_sizes(manifest(max_pixels=12_845_056), None, 512, ())
