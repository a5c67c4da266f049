"""Counts are spelled as in llama-bench."""

from __future__ import annotations

import pytest

from fgr_edge.bench.counts import parse_counts
from fgr_edge.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("512", (512,)),
        ("0", (0,)),
        ("128,256", (128, 256)),
        ("1-4", (1, 2, 3, 4)),
        ("128-512+128", (128, 256, 384, 512)),
        ("1-10*3", (1, 3, 9)),
        ("4, 1-2,4", (4, 1, 2)),
    ],
)
def test_lists_and_ranges(text: str, counts: tuple[int, ...]) -> None:
    assert parse_counts(text, "-p") == counts


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "4-1", "1-8*1", "0-8*2", "1-8+0", "1,,2", "1-", "٣"])
def test_anything_else_is_told_with_the_option_and_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"-p holds .* expected .*128"):
        parse_counts(text, "-p")


def test_a_range_of_thousands_is_refused() -> None:
    with pytest.raises(ConfigError, match="over 64 counts"):
        parse_counts("1-100000", "-n")
