"""Our batched forward passes equal transformers' own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    from pathlib import Path

    from fgr_edge.training.network import build_config, build_model
    from fgr_edge.training.recipe import read_recipe
    from fgr_edge.training.vocabulary import SPECIAL

    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "nano.toml")
    ids = {token: number for number, token in enumerate(SPECIAL)}
    return build_model(build_config(recipe.network, recipe.network.vocabulary, ids), 0).eval()


@pytest.mark.parametrize(("height", "width"), [(12, 12), (14, 14), (8, 18)])
@torch.no_grad()
def test_the_batched_vision_tower_equals_transformers(model, height: int, width: int) -> None:  # type: ignore[no-untyped-def]
    from fgr_edge.training.vision_forward import encode, patchify

    pixels = torch.randn(2, 3, 14 * height, 14 * width, generator=torch.Generator().manual_seed(0))
    patches = patchify(pixels, 14, 2).reshape(-1, 3, 1, 196).expand(-1, 3, 2, 196).reshape(-1, 1176)
    expected = model.model.visual(patches, grid_thw=torch.tensor([[1, height, width]] * 2)).pooler_output
    got, tapped = encode(model.model.visual, pixels, tap=3)
    assert (got - torch.as_tensor(expected).view_as(got)).abs().max() < 1e-5
    assert tapped is not None and tapped.shape == (2, height * width, 192)


@torch.no_grad()
def test_the_batched_decoder_equals_transformers_with_and_without_cache(model) -> None:  # type: ignore[no-untyped-def]
    from fgr_edge.training.text_forward import Cache, hidden_states, positions

    text = model.model.language_model
    embeds = torch.randn(2, 60, 256, generator=torch.Generator().manual_seed(1))
    place = positions(3, 6, 7, 60)
    expected = text(inputs_embeds=embeds, position_ids=place[:, None].expand(3, 2, -1)).last_hidden_state
    assert (hidden_states(text, embeds, place) - expected).abs().max() < 1e-5
    cache: Cache = {}
    parts = [hidden_states(text, embeds[:, :55], place[:, :55], cache)]
    parts += [hidden_states(text, embeds[:, i : i + 1], place[:, i : i + 1], cache) for i in range(55, 60)]
    assert (torch.cat(parts, 1) - expected).abs().max() < 1e-5


def test_positions_are_those_of_transformers(model) -> None:  # type: ignore[no-untyped-def]
    from fgr_edge.training.text_forward import positions

    image = model.config.image_token_id
    ids = torch.tensor([[1, 9, 3, *[image] * 12, 4, 9, 9, 9]])
    kinds = (ids == image).int()
    expected, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=torch.tensor([[1, 6, 8]]))
    assert torch.equal(positions(3, 3, 4, ids.shape[1]), expected[:, 0])
