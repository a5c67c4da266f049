"""Parts of the recipe: its file, its views, its optimizer, its words and its targets."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from fgr_edge.errors import ConfigError

torch = pytest.importorskip("torch")

RECIPE = Path(__file__).parents[2] / "recipes" / "nano.toml"


def test_the_committed_recipe_is_read() -> None:
    from fgr_edge.training.recipe import read_recipe

    recipe = read_recipe(RECIPE)
    assert recipe.network.train_px == 168 and recipe.run.output == Path("models/nano")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("[vision]\n", "[vision]\nepoch = 3\n", "epoch"),
        ("use_px = 196", "use_px = 200", "multiples of 28"),
        ("layers = 4", 'layers = "four"', "expected a int"),
        ("[run]\n", "[run\n", "not TOML"),
        ("seed = 20261121\n", "", "missing"),
    ],
)
def test_a_bad_recipe_is_a_config_error_that_says_what_is_wrong(tmp_path: Path, old: str, new: str, found: str) -> None:
    from fgr_edge.training.recipe import read_recipe

    path = tmp_path / "r.toml"
    path.write_text(RECIPE.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=found):
        read_recipe(path)


def test_a_recipe_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    from fgr_edge.training.sft import run

    with pytest.raises(ConfigError, match="no such recipe"):
        run(tmp_path / "none.toml")


def test_views_repeat_with_their_generator_and_stay_in_range() -> None:
    from fgr_edge.training.recipe import read_recipe
    from fgr_edge.training.views import Pictures, mix, random_views

    views = read_recipe(RECIPE).views
    pictures = Pictures(torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8), torch.full((6,), 1.2))
    rows = torch.arange(6)

    def once() -> object:
        rng = torch.Generator().manual_seed(5)
        return mix(random_views(pictures, rows, 32, views, rng), views, rng)[0]

    first = once()
    assert torch.equal(first, once())
    assert first.shape == (6, 3, 32, 32)  # type: ignore[attr-defined]
    assert float(first.min()) >= 0 and float(first.max()) <= 255  # type: ignore[attr-defined]


def test_next_token_targets_are_the_conditionals_of_the_class_distribution() -> None:
    from fgr_edge.training.answer_table import next_token_targets

    table = torch.tensor([[5, 6, 1], [5, 7, 1], [8, 1, -1]])
    classes = torch.tensor([[0.5, 0.25, 0.25]])
    q = next_token_targets(table, classes, torch.tensor([0]), 10)[0]
    assert q[0, 5].item() == pytest.approx(0.75) and q[0, 8].item() == pytest.approx(0.25)
    assert q[1, 6].item() == pytest.approx(2 / 3) and q[1, 7].item() == pytest.approx(1 / 3)
    assert q[2, 1].item() == pytest.approx(1.0)
    short = next_token_targets(table, classes, torch.tensor([2]), 10)[0]
    assert short[2].sum().item() == 0.0


def test_muon_and_adamw_resume_to_the_same_weights() -> None:
    from fgr_edge.training.optimizer import MuonAdamW

    def make() -> object:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))

    def step(net: object, optimizer: object) -> None:
        optimizer.zero_grad()  # type: ignore[attr-defined]
        net(torch.ones(2, 4)).pow(3).sum().backward()  # type: ignore[operator]
        optimizer.step()  # type: ignore[attr-defined]

    a = make()
    first = MuonAdamW(a.named_parameters(), 1e-2, 0.1)  # type: ignore[attr-defined]
    step(a, first)
    b = make()
    b.load_state_dict(a.state_dict())  # type: ignore[attr-defined]
    second = MuonAdamW(b.named_parameters(), 1e-2, 0.1)  # type: ignore[attr-defined]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(a, first)
    step(b, second)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(x, y)


def test_the_vocabulary_keeps_the_answer_form_and_encodes_any_text() -> None:
    pytest.importorskip("transformers")
    from fgr_edge.training.vocabulary import CHAT_TEMPLATE, SPECIAL, train_tokenizer
    from fgr_edge.training.wording import bird_answers, corpus

    tokenizer = train_tokenizer(corpus((bird_answers(),)), 700)
    text = "<think>naïve 鳥</think> <answer>Ember Finch</answer>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    content: Any = [{"type": "image"}, {"type": "text", "text": "What?"}]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert chat == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n"
    )
