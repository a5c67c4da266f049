"""The preprocessing benchmark compares like with like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.picture import write_picture
from benchmarks.preprocessing import SIZES, compare, measure
from fgr_edge.runtime.pictures.nv12 import Nv12Frame


@pytest.mark.parametrize("source", ["jpeg", "frame"])
def test_the_grid_is_one_and_the_exact_pixels_are_transformers_own(source: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    noise = np.random.default_rng(0).integers(16, 236, (480, 640), np.uint8)
    frame = Nv12Frame(y=noise, uv=noise[::2].reshape(240, 320, 2), full_range=False, matrix="bt709")
    given = write_picture(tmp_path / "picture.jpg") if source == "jpeg" else frame
    found = compare(given, SIZES["nano"], threads=1, rounds=1)
    assert found["max_abs_difference"] < 1e-5
    assert found["of_transformers"]["transformers"] == 1
    assert found["ms"].keys() == {
        "transformers",
        "decode" if source == "jpeg" else "conversion",
        "fgr-edge, 1 thread",
        "fgr-edge",
        "fast",
    }


def test_calls_take_turns_and_the_first_rounds_are_thrown_away() -> None:
    called: list[str] = []
    times = measure({name: lambda name=name: called.append(name) for name in "abc"}, 2)  # type: ignore[misc]
    assert "".join(called) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}
