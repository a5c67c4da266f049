"""The host's index tables equal those of transformers, for any grid; they are kept between pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fgr_edge.runtime.image import Patches
from fgr_edge.runtime.sessions.session import HostArray
from fgr_edge.runtime.vision import (
    KEPT_GRIDS,
    VisionEncoder,
    VisionSpec,
    grid_tables,
    patch_coordinates,
    position_tables,
    window_tables,
)

torch = pytest.importorskip("torch")
vision_utils = pytest.importorskip("transformers.vision_utils")

GRIDS = [(8, 8), (2, 2), (10, 6), (4, 30), (34, 2), (26, 18), (16, 24)]
WINDOWED = VisionSpec(
    head_dim=16, merge_size=2, rope_theta=10000.0, window_patches=8, learned_positions=None, deepstack=0
)


def thw(grid: tuple[int, int]) -> Any:
    return torch.tensor([[1, *grid]])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_patch_coordinates_equal_transformers(grid: tuple[int, int]) -> None:
    expected = vision_utils.get_vision_position_ids(thw(grid), 2).numpy()
    np.testing.assert_array_equal(np.stack(patch_coordinates(*grid, 2), axis=1), expected)


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_windows_equal_transformers(grid: tuple[int, int], window: int) -> None:
    index, bounds = vision_utils.get_vision_window_index(thw(grid), 2, window * 14, 14)
    tables = window_tables(*grid, 2, window)
    np.testing.assert_array_equal(tables["order"].reshape(-1, 4)[:, 0] // 4, index.numpy())
    np.testing.assert_array_equal(np.cumsum(tables["window_mask"].sum(axis=1)), bounds.numpy()[1:])
    np.testing.assert_array_equal(tables["restore"], np.argsort(index.numpy()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_patch_has_one_slot_and_comes_back(grid: tuple[int, int]) -> None:
    count = grid[0] * grid[1]
    tables = window_tables(*grid, 2, 8)
    assert sorted(tables["order"]) == list(range(count))
    slots = tables["window_rows"].reshape(-1)[tables["window_inverse"]]
    np.testing.assert_array_equal(slots, np.arange(count))
    assert tables["window_mask"].sum() == count
    assert tables["window_mask"].any(axis=1).all(), "no window is empty"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_learned_positions_are_read_as_transformers_reads_them(grid: tuple[int, int]) -> None:
    side, width = 8, 5
    table = np.random.default_rng(0).standard_normal((side, side, width))
    tables = position_tables(*patch_coordinates(*grid, 2), grid, side)
    found = (table.reshape(-1, width)[tables["position_rows"]] * tables["position_weights"][:, :, None]).sum(axis=1)
    # By the definition: bilinear, the corners of the table on the corners of the grid.
    stretched = torch.nn.functional.interpolate(
        torch.from_numpy(table).permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=True
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, stretched.numpy()[patch_coordinates(*grid, 2)], atol=1e-5)
    np.testing.assert_allclose(tables["position_weights"].sum(axis=1), 1.0, atol=1e-6)


class EmptySession:
    """Remembers the inputs of each run and answers with zeros."""

    input_names: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []

    def run_resident(self, inputs: Any) -> dict[str, Any]:
        self.inputs.append(dict(inputs))
        return {"image_embeds": HostArray(np.zeros((len(inputs["patches"]) // 4, 3), np.float32))}


def test_tables_of_recent_grids_are_kept_and_of_old_ones_dropped() -> None:
    session = EmptySession()
    encoder = VisionEncoder(session, WINDOWED)  # type: ignore[arg-type]

    def see(grid: tuple[int, int]) -> dict[str, Any]:
        encoder.encode(Patches(np.zeros((grid[0] * grid[1], 6), np.float32), (1, *grid)))
        return session.inputs[-1]

    first = see((4, 4))
    for _ in range(3):
        assert see((4, 4))["order"] is first["order"]
    for i in range(KEPT_GRIDS):
        see((2, 2 * i + 6))
    assert see((4, 4))["order"] is not first["order"]


def test_the_merged_grid_is_told() -> None:
    encoder = VisionEncoder(EmptySession(), WINDOWED)  # type: ignore[arg-type]
    seen = encoder.encode(Patches(np.zeros((60, 6), np.float32), (1, 10, 6)))
    assert seen.grid == (5, 3) and seen.tokens.shape == (15, 3) and seen.deepstack == ()


def test_tables_have_the_names_and_types_that_the_graph_declares() -> None:
    tables = grid_tables(WINDOWED, 10, 6)
    assert {name: str(table.dtype) for name, table in tables.items()} == {
        "order": "int64",
        "window_rows": "int64",
        "window_mask": "int32",
        "window_inverse": "int64",
        "restore": "int64",
        "cos": "float32",
        "sin": "float32",
    }
