"""Multimodal positions and rotary angles equal those of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fgr_edge.runtime.rotary import RotaryAngles, frequency_axes, prompt_positions

if TYPE_CHECKING:
    from tests.tiny import TinyModels

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen3"])
@pytest.mark.parametrize("grid", [(8, 8), (2, 2), (10, 6), (4, 30), (34, 2)], ids=str)
@pytest.mark.parametrize(("before", "after"), [(1, 1), (15, 20)])
def test_positions_equal_transformers(
    tiny_models: TinyModels, shape: str, grid: tuple[int, int], before: int, after: int
) -> None:
    from tests.tiny import IMAGE_ID

    merged = (grid[0] // 2, grid[1] // 2)
    ids = torch.tensor([[7] * before + [IMAGE_ID] * (merged[0] * merged[1]) + [7] * after])
    expected, delta = tiny_models.model(shape).model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == IMAGE_ID).int(),
        image_grid_thw=torch.tensor([[1, *grid]]),
        attention_mask=torch.ones_like(ids),
    )
    found = prompt_positions(before, merged, after)
    np.testing.assert_array_equal(found, expected[-3:, 0].numpy())
    # The next text token stands right behind the largest position.
    assert found.max() + 1 == ids.shape[1] + int(delta.reshape(-1)[0])


@pytest.mark.parametrize("shape", ["qwen2.5", "qwen2.5-wide", "qwen3"])
def test_angles_equal_transformers(tiny_models: TinyModels, shape: str) -> None:
    text = tiny_models.model(shape).config.text_config
    positions = prompt_positions(9, (3, 5), 600)
    rotary = tiny_models.model(shape).model.language_model.rotary_emb
    cos, sin = rotary(torch.zeros(1, 1), torch.from_numpy(positions)[:, None])
    interleaved = shape.startswith("qwen3")
    axes = frequency_axes(tuple(text.rope_parameters["mrope_section"]), interleaved=interleaved)
    head_dim = len(axes) * 2
    angles = RotaryAngles(head_dim, text.rope_parameters["rope_theta"], axes)
    angles.reserve(1024)
    for found, expected in zip(angles.at(positions), (cos, sin), strict=True):
        table = expected.reshape(-1, head_dim).numpy()[:, : head_dim // 2]
        np.testing.assert_allclose(found, table, rtol=0, atol=1e-4)


def test_frequencies_are_sectioned_or_interleaved() -> None:
    assert frequency_axes((2, 3, 1), interleaved=False).tolist() == [0, 0, 1, 1, 1, 2]
    assert frequency_axes((4, 2, 2), interleaved=True).tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    # Qwen3-VL's own: every third, then time alone.
    axes = frequency_axes((24, 20, 20), interleaved=True)
    assert np.bincount(axes).tolist() == [24, 20, 20]
    assert axes[:6].tolist() == [0, 1, 2, 0, 1, 2] and set(axes[60:]) == {0}


def test_a_run_of_text_continues_the_table() -> None:
    angles = RotaryAngles(8, 10000.0, frequency_axes((2, 1, 1), interleaved=False))
    angles.reserve(50)
    cos, sin = angles.run(10, 5)
    at_cos, at_sin = angles.at(np.tile(np.arange(10, 15), (3, 1)))
    np.testing.assert_array_equal(cos, at_cos)
    np.testing.assert_array_equal(sin, at_sin)
    angles.reserve(20)  # never shrinks
    assert len(angles.run(0, 50)[0]) == 50
