"""Rows of which an engine keeps some: slices and what is sent are those of one array."""

from __future__ import annotations

import numpy as np
import pytest

from fgr_edge.runtime.placed_rows import PlacedRows, send
from fgr_edge.runtime.sessions.session import HostArray

TEXT = np.arange(10, dtype=np.float32)[:, None].repeat(3, 1)
KEPT = np.arange(100, 106, dtype=np.float32)[:, None].repeat(3, 1)
WHOLE = np.concatenate([TEXT[:3], KEPT[1:5], TEXT[7:]])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 10])
def test_parts_are_those_of_the_whole(size: int) -> None:
    rows = PlacedRows(TEXT, HostArray(KEPT), slice(3, 7), 1)
    np.testing.assert_array_equal(rows.on_host(), WHOLE)
    for start in range(0, 10, size):
        part = rows[start : min(start + size, 10)]
        expected = WHOLE[start : start + size]
        assert len(part) == len(expected)
        np.testing.assert_array_equal(part.on_host(), expected)
        np.testing.assert_array_equal(part[0 : len(part)].on_host(), expected)
        buffer = HostArray(np.full((1, len(part), 3), -1, np.float32))
        send(part, buffer)
        np.testing.assert_array_equal(buffer.array[0], expected)


def test_what_is_on_the_host_already_is_sent_as_it_is() -> None:
    buffer = HostArray(np.zeros((1, 10, 3), np.float32))
    send(TEXT, buffer)
    np.testing.assert_array_equal(buffer.array[0], TEXT)
